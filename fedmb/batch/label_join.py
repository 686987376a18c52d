"""Rows whose label comes later: questions wait, keyed, until their answers arrive.

    questions   ──► key, features ──┐ wait, at most `horizon_rows` behind or ahead of the furthest answered one
    answers     ──► key, label    ──┴──► a row, learnt when its answer is there

Answers lead: for each, its question is looked up among those that wait, or by reading questions on. A question lies in
its stream before its answer does, so reading on never has to wait for the future: give the questions a patience of 0.

    front     one more than the number of the furthest question that was answered, moved on by the orphans since
    expired   questions with a number below front - horizon_rows: their answer did not come in time
    orphans   answers whose question is not before front + horizon_rows, or not there

Orphans move the front, by one question each and by `horizon_rows` once as many came in a row, so that answers after a
long gap, in which nobody answered, are found again; the next answer that is found puts it back. It never passes the
questions that were read, so the newest `horizon_rows` of those do not expire.

Source: River 0.26, `river.stream.simulate_qa` and `river.evaluate.progressive_val_score` with a delay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.batch.minibatch import Column, MiniBatch, Schema
from fedmb.batch.waiting_questions import Key, WaitingQuestions, check_questions, keys_of
from fedmb.errors import SettingsError, ShapeError
from fedmb.ledger import Spans, joined, spans_from_json, spans_to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedmb.batch.source import BatchSource, SourcePosition

_NUMBERS = ("front", "since", "orphans")
_KEYS = {"answers", "questions", "span", *_NUMBERS}


@dataclass(frozen=True, slots=True)
class LabelJoinStatistics:
    """What became of questions and answers, since the beginning of the streams."""

    asked: int
    """Questions read."""
    waiting: int
    """Questions that wait for an answer, those read ahead included."""
    expired: int
    """Questions whose answer did not come in time, or that were asked again under their key."""
    orphans: int
    """Answers without a question, second answers to one question among them."""


class _Pair(NamedTuple):
    """An answer that found its question."""

    key: Key
    row: int
    """Of the answers' mini-batch."""
    number: int
    """Of the question."""


class LabelJoin:
    """Joins questions and answers by key; a `BatchSource` whose rows come in the order of the answers.

    A batch holds the columns of both, the key once. Units multiply; masked questions and answers are left out. Its span
    covers what was read of both, so a ledger advances over questions that still wait: the position says which, and a
    seek reads them again from the oldest on.

    Args:
        questions: rows with the key and what is known at once; closed with this source.
        answers: rows with the key and what comes later; closed with this source.
        key: name of the column that both have, of integers, text or bytes, one value a row.
        horizon_rows: questions by which an answer may be earlier or later than the furthest one; at most twice as many
            wait in memory.
        keeps_key: whether batches hold the key, such as for `DelayedScore`; a task's model has no use for text.
        on_questions: called with each mini-batch of questions when it is read, such as to predict; not for those that a
            seek reads again because they wait, but after a seek back for the later ones, since whoever listens goes
            back too. Behind a `Prefetch` it runs ahead of training, in the other thread.

    Raises:
        SettingsError: `horizon_rows` is below 1.
        ShapeError: a source lacks the key, the keys differ in kind, or another column is in both.
    """

    def __init__(
        self,
        questions: BatchSource,
        answers: BatchSource,
        *,
        key: str,
        horizon_rows: int,
        keeps_key: bool = True,
        on_questions: Callable[[MiniBatch], None] | None = None,
    ) -> None:
        if horizon_rows < 1:
            raise SettingsError(
                f"questions must be able to wait for 1 or more rows, got {horizon_rows}; take the rows of a day",
                key="horizon_rows",
            )
        self._schema = _joined_schema(questions.schema, answers.schema, key, keeps_key=keeps_key)
        self._questions = questions
        self._answers = answers
        self._key = key
        self._horizon = horizon_rows
        self._waiting = WaitingQuestions(questions, key, on_questions)
        self._span: Spans = {}  # of what was read and is in no batch yet
        self._front = self._since = self._orphans = 0

    @property
    def schema(self) -> Schema:
        """Columns of the questions, then those of the answers."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Answers in one pass over their source."""
        return self._answers.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """Rows of the next answers, at least one and at most `size`; blocks while there are none.

        Raises:
            ValueError: `size` is below 1.
            NotEnoughData: the answers stayed silent; what was read meanwhile belongs to the next batch.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}; ask for a row")
        while True:
            before = self._answers.position()
            answers = self._answers.take(size)
            pairs: list[_Pair] = []
            try:
                self._look_up(answers, pairs)
            except BaseException:
                self._waiting.unanswer({pair.key: pair.number for pair in pairs})
                self._answers.seek(before)
                raise
            self._span = joined(self._span, answers.span)
            batch = self._joined(answers, pairs) if pairs else None
            self._waiting.forget()
            if batch is not None:
                return batch

    def position(self) -> SourcePosition:
        """Both sources' positions, which questions wait, the counts, and the span of what is in no batch yet."""
        return {
            "answers": self._answers.position(),
            "questions": self._waiting.position(),
            "span": spans_to_json(self._span),
            "front": self._front,
            "since": self._since,
            "orphans": self._orphans,
        }

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source, or the questions are no longer those it means;
                this source stands where it stood.
        """
        _check(position)
        before = self.position()
        try:
            self._go(position)
        except BaseException:
            self._go(before)
            raise

    def statistics(self) -> LabelJoinStatistics:
        """A snapshot of the counts."""
        waiting = self._waiting
        return LabelJoinStatistics(waiting.asked, len(waiting), waiting.expired, self._orphans)

    def close(self) -> None:
        """Close both sources."""
        self._questions.close()
        self._answers.close()

    def _look_up(self, answers: MiniBatch, pairs: list[_Pair]) -> None:
        """Find the question of each answer, in their order; questions that are read on the way only wait."""
        front, since, orphans = self._front, self._since, self._orphans
        for row, key in keys_of(answers, self._key):
            number = self._read_until(key, front + since + self._horizon)
            if number is None:
                moved = since + (1 if since < self._horizon else self._horizon)
                since, orphans = min(moved, self._waiting.asked - front), orphans + 1
            else:
                self._waiting.answer(key)
                pairs.append(_Pair(key, row, number))
                front, since = max(front, number + 1), 0
            self._waiting.expire(front + since - self._horizon)
        self._front, self._since, self._orphans = front, since, orphans

    def _read_until(self, key: Key, reach: int) -> int | None:
        """Number of the question under `key`, reading on below number `reach`; None where there is none."""
        while (number := self._waiting.number(key)) is None and self._waiting.asked < reach:
            span = self._waiting.read(reach - self._waiting.asked)
            if span is None:
                return None
            self._span = joined(self._span, span)
        return number

    def _joined(self, answers: MiniBatch, pairs: list[_Pair]) -> MiniBatch:
        """The mini-batch of these pairs, with everything that was read since the last one as its span."""
        rows = np.array([pair.row for pair in pairs])
        asked = [self._waiting.row(pair.number) for pair in pairs]
        columns: dict[str, NDArray[Any]] = {}
        for name in self._schema:
            if name in answers.columns:
                columns[name] = answers.columns[name][rows]
            else:
                columns[name] = np.stack([batch.columns[name][row] for batch, row in asked])
        units = None
        if answers.units is not None or any(batch.units is not None for batch, _ in asked):
            weights = [batch.effective_units()[row] for batch, row in asked]
            units = np.array(weights, np.float32) * answers.effective_units()[rows]
        span, self._span = self._span, {}
        return MiniBatch(columns, units=units, span=span, origins={next(iter(answers.origins), "stream"): len(pairs)})

    def _go(self, position: SourcePosition) -> None:
        self._answers.seek(position.get("answers", {}))
        self._waiting.seek(position.get("questions", {}))
        self._span = spans_from_json(position.get("span", {}))
        self._front, self._since, self._orphans = (position.get(name, 0) for name in _NUMBERS)


def _check(position: SourcePosition) -> None:
    """Refuse what `LabelJoin.position` cannot have given."""
    numbers = [position.get(name) for name in _NUMBERS]
    if position and (position.keys() != _KEYS or not all(type(one) is int and one >= 0 for one in numbers)):
        raise ValueError(f"a join's position must hold {sorted(_KEYS)}, got {str(position)[:200]}; seek its source")
    if position:
        check_questions(position["questions"])


def _joined_schema(questions: Schema, answers: Schema, key: str, *, keeps_key: bool) -> dict[str, Column]:
    kinds = [_kind(schema[key]) if key in schema else None for schema in (questions, answers)]
    if None in kinds or kinds[0] != kinds[1]:
        raise ShapeError(
            f"questions and answers must both have the key {key!r} of integers, text or bytes, one value a row, got "
            f"{questions.get(key)} and {answers.get(key)}; write it into both"
        )
    if twice := sorted((questions.keys() & answers.keys()) - {key}):
        raise ShapeError(f"a column may be in questions or in answers, got {twice} in both; rename one")
    return {name: column for name, column in {**questions, **answers}.items() if name != key or keeps_key}


def _kind(column: Column) -> str | None:
    """What a key column holds; None where it cannot be a key."""
    found = re.match("u?(int|str|bytes)", column.dtype)
    return found[1] if found and not column.shape else None
