"""The settings `[labels]` of a client whose labels come later, on a stream of their own.

source = "kafka://broker:9092/asked?partition=0"         rows without their label, each with a key

[labels]
source = "kafka://broker:9092/answered?partition=0"      keys and labels
key = "id"
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.ingest.known_rows import KnownRows
from fedmb.ingest.log_source import LogSource
from fedmb.section import Section

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema
    from fedmb.batch.source import BatchSource
    from fedmb.training.delayed_labels import DelayedLabels
    from fedmb.training.task import Task


class Labels(Section):
    """Labels that come later than their rows, on a stream of their own."""

    source: str | None = None
    """The stream of answers, kafka: or file:, beside the client's own `source`, whose rows are the questions. Left out,
    rows come with their labels."""
    key: str | None = None
    """Column of whole numbers, in questions and answers, by which an answer finds its question."""
    key_dtype: Literal["int64", "uint64", "int32", "uint32"] = "int64"
    """Of the key, where the task's rows have no such column."""
    columns: tuple[str, ...] = ()
    """Columns of the task's rows that come with the answer; the task's `label` if left out. All others come with the
    question."""
    horizon_rows: int = Field(default=4096, ge=1)
    """Questions by which an answer may come earlier or later than the furthest one that was answered; at most twice as
    many wait, with what the model said of each."""

    @model_validator(mode="after")
    def _whole(self) -> Labels:
        if self.source is None and (self.key is not None or self.columns):
            raise ValueError("answers need a stream, got a key or columns alone; set labels.source, or leave them out")
        if self.source is not None and self.key is None:
            raise ValueError("answers find their questions by a key, got none; set labels.key to its column")
        if self.key in self.columns:
            raise ValueError(f"a key is in questions and answers, got {self.key!r} in columns too; leave it out there")
        return self

    def schemas(self, task: Task) -> tuple[Schema, Schema]:
        """Columns of a question and of an answer.

        Raises:
            SettingsError: the task's rows lack a column, all of them come with the answer, or none does.
        """
        assert self.key is not None, "beside a source"
        whole = dict(task.schema)
        later = self.columns or tuple(filter(None, [getattr(task, "label", None)]))
        if not later:
            raise SettingsError(
                f"answers must bring 1 column or more, got none, and {type(task).__name__} names no label; name some "
                f"of {sorted(whole)}",
                key="labels.columns",
            )
        for name in later:
            if name not in whole:
                near = get_close_matches(name, whole, n=1)
                raise SettingsError(
                    f"answers bring columns of the task's rows, {sorted(whole)}, got {name!r}; "
                    + (f"did you mean {near[0]}?" if near else "name one of them"),
                    key="labels.columns",
                )
        key = {self.key: whole.pop(self.key, Column(self.key_dtype))}
        asked = {name: column for name, column in whole.items() if name not in later}
        if not asked:
            raise SettingsError(
                f"questions must bring 1 column or more beside their key, got none: {list(later)} come with the "
                "answer; leave one out",
                key="labels.columns",
            )
        return key | asked, key | {name: whole[name] for name in later}

    def joined(
        self, task: Task, questions: BatchSource, answers: BatchSource, *, patience_seconds: float
    ) -> DelayedLabels:
        """Rows of the answered questions; closes both sources where it refuses them.

        Raises:
            SettingsError: a source is no log, questions come from several partitions, or both are one stream.
            ShapeError: the key is no whole number.
        """
        from fedmb.training.delayed_labels import DelayedLabels

        assert self.key is not None, "beside a source"
        try:
            asked, answered = _logs(questions, answers)
            known = KnownRows(asked, patience_seconds=patience_seconds)
            return DelayedLabels(task, known, answered, key=self.key, horizon_rows=self.horizon_rows)
        except BaseException:
            questions.close()
            answers.close()
            raise


def _logs(questions: BatchSource, answers: BatchSource) -> tuple[LogSource, LogSource]:
    """Both as what they must be."""
    if not isinstance(questions, LogSource) or not isinstance(answers, LogSource):
        other = answers if isinstance(questions, LogSource) else questions
        raise SettingsError(
            "questions are read again while they wait, and answers in their order, from partitions that stay, got "
            f"{type(other).__name__}; name the partitions beside group=, or leave it out",
            key="labels.source" if other is answers else "source",
        )
    asked, answered = (sorted(source.position()["ledger"]) for source in (questions, answers))
    if len(asked) > 1:
        raise SettingsError(
            f"questions must come from one partition, which is read again in the same order, got {', '.join(asked)}; "
            "name one with partition=, and give the others clients of their own",
            key="source",
        )
    if set(asked) & set(answered):
        raise SettingsError(
            f"answers must come from another stream than questions, got {asked[0]} for both; give them a topic of "
            "their own",
            key="labels.source",
        )
    return questions, answers
