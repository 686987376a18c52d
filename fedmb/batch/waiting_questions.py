"""Questions that wait for their answers, by key, and how they are found again after a seek."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fedmb.batch.minibatch import MiniBatch, concatenated
from fedmb.errors import NotEnoughData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedmb.batch.source import BatchSource, SourcePosition
    from fedmb.ledger import Spans

Key: TypeAlias = int | str | bytes
READ_ROWS = 64  # questions read at a time: a part is let go when none of its rows waits any more
_NUMBERS = ("first", "asked", "expired")
_KEYS = {"source", "oldest", "parts", "waiting", *_NUMBERS}


class _Part(NamedTuple):
    """Questions that were read together."""

    position: SourcePosition
    """Of their source before they were read."""
    first: int
    """Number of the first; questions are numbered in the order in which they are read."""
    batch: MiniBatch


class WaitingQuestions:
    """Reads questions from a source and keeps those that wait.

    A position holds which of them wait and not what they say: a seek reads them again, from the oldest that waits.

    Args:
        source: gives questions; used by nobody else.
        key: name of the column with their keys.
        on_questions: called with each mini-batch of questions that is read, and not with those that a seek reads again
            because they wait. A seek back to where fewer had been read tells of the later ones anew.
    """

    def __init__(self, source: BatchSource, key: str, on_questions: Callable[[MiniBatch], None] | None = None) -> None:
        self._source = source
        self._key = key
        self._on_questions = on_questions
        self._parts: list[_Part] = []
        self._waiting: dict[Key, int] = {}  # number by key, the oldest first
        self.asked = 0
        """Questions read."""
        self.expired = 0
        """Questions that no longer wait although no answer came."""

    def __len__(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    def number(self, key: Key) -> int | None:
        """Number of the question that waits under `key`; None where none does."""
        return self._waiting.get(key)

    def row(self, number: int) -> tuple[MiniBatch, int]:
        """The mini-batch that holds a waiting question, and its row there."""
        part = self._parts[bisect_right(self._parts, number, key=lambda one: one.first) - 1]
        return part.batch, number - part.first

    def read(self, most: int) -> Spans | None:
        """Read at most `most` questions and answer their span; None where the source is silent.

        A question under the key of one that waits takes its place.
        """
        position = self._source.position()
        try:
            batch = self._source.take(min(READ_ROWS, most))
        except NotEnoughData:
            return None
        first = self.asked
        self._add(position, batch)
        for row, key in keys_of(batch, self._key):
            self.expired += self._waiting.pop(key, None) is not None
            self._waiting[key] = first + row
        if self._on_questions is not None:
            self._on_questions(batch)
        return batch.span

    def answer(self, key: Key) -> None:
        """Let the question under `key` wait no more; its row is there until `forget`."""
        del self._waiting[key]

    def unanswer(self, numbers: Mapping[Key, int]) -> None:
        """Let questions wait again whose answers were taken back; one that was asked again since stays answered."""
        self._waiting = dict(sorted(({**numbers, **self._waiting}).items(), key=lambda item: item[1]))

    def expire(self, line: int) -> None:
        """Let questions with a number below `line` wait no more."""
        late = list(itertools.takewhile(lambda key: self._waiting[key] < line, self._waiting))
        for key in late:
            del self._waiting[key]
        self.expired += len(late)

    def forget(self) -> None:
        """Let go of rows in front of the oldest question that waits."""
        oldest = next(iter(self._waiting.values()), self.asked)
        done = sum(1 for _ in itertools.takewhile(lambda part: part.first + len(part.batch) <= oldest, self._parts))
        del self._parts[:done]

    def position(self) -> SourcePosition:
        """The source's position, that of the oldest part with a waiting question, and which rows since then wait."""
        first = self._parts[0].first if self._parts else self.asked
        waiting = np.zeros(self.asked - first, bool)
        waiting[[number - first for number in self._waiting.values()]] = True
        now = self._source.position()
        return {
            "source": now,
            "oldest": self._parts[0].position if self._parts else now,
            "parts": [len(part.batch) for part in self._parts],
            "waiting": np.packbits(waiting).tobytes().hex(),
            "first": first,
            "asked": self.asked,
            "expired": self.expired,
        }

    def seek(self, position: SourcePosition) -> None:
        """Go to a position, reading again what waits there; an empty one is the beginning.

        Raises:
            ValueError: the questions are no longer those that the position means; this stands anywhere then.
        """
        nothing: SourcePosition = dict.fromkeys(_NUMBERS, 0) | {"source": {}, "oldest": {}, "parts": [], "waiting": ""}
        target = position or nothing
        check_questions(target)
        self._source.seek(target["oldest"])
        self._parts.clear()
        self.asked = target["first"]
        for rows in target["parts"]:
            self._add(self._source.position(), self._again(rows))
        if position and self._source.position() != target["source"]:
            raise ValueError(_changed(f"an end at {self._source.position()} and not at {target['source']}"))
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(target["waiting"]), np.uint8))
        keyed = ((part.first + row, key) for part in self._parts for row, key in keys_of(part.batch, self._key))
        self._waiting = {key: number for number, key in keyed if bits[number - target["first"]]}
        self.expired = target["expired"]

    def _add(self, position: SourcePosition, batch: MiniBatch) -> None:
        self._parts.append(_Part(position, self.asked, batch))
        self.asked += len(batch)

    def _again(self, rows: int) -> MiniBatch:
        """The next `rows` questions, however many a take gives."""
        parts: list[MiniBatch] = []
        missing = rows
        while missing:
            try:
                parts.append(self._source.take(missing))
            except NotEnoughData as error:
                raise ValueError(_changed(f"{rows - missing} rows and not {rows} ({error})")) from error
            missing -= len(parts[-1])
        return concatenated(parts)


def keys_of(batch: MiniBatch, name: str) -> Iterator[tuple[int, Key]]:
    """Row and key of each row that is not masked."""
    keys = batch.columns[name].tolist()
    for row in range(len(keys)) if batch.mask is None else np.flatnonzero(batch.mask).tolist():
        yield row, keys[row]


def check_questions(position: SourcePosition) -> None:
    """Demand the form of what `WaitingQuestions.position` gives.

    Raises:
        ValueError: it has another form.
    """
    if position.keys() == _KEYS:
        numbers = [*position["parts"], *(position[name] for name in _NUMBERS)]
        rows = sum(position["parts"]) if all(type(number) is int and number >= 0 for number in numbers) else -1
        if rows == position["asked"] - position["first"] and len(position["waiting"]) == 2 * -(-rows // 8):
            return
    raise ValueError(f"a position of questions must hold {sorted(_KEYS)}, got {str(position)[:200]}; seek its source")


def _changed(found: str) -> str:
    return f"a position must find its questions again, got {found}; bring them back, or start over"
