"""A stream whose labels come later, joined by key, and the score of what the model said before they came.

    questions read      the model, as it stands, says what it expects of each; that is kept under its key
    their answers come  rows for training; what was said is scored, not what the model would say by now

What was said is part of the position: a client that is killed or sent back scores the same predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedmb.batch.label_join import LabelJoin
from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import NotEnoughData, SettingsError, ShapeError, Unreachable
from fedmb.telemetry.delayed_score import DELAYED, LABELS, DelayedScore
from fedmb.telemetry.prequential import Prequential
from fedmb.training.task import tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fedmb.batch.label_join import LabelJoinStatistics
    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.batch.source import SourcePosition
    from fedmb.ingest.known_rows import KnownRows
    from fedmb.ingest.log_source import LogSource
    from fedmb.ledger import Ledger, StreamPartition
    from fedmb.training.drift import Scoring
    from fedmb.training.task import Task

_KEYS = {"join", "score"}


class DelayedLabels:
    """A `BatchSource` and `LiveStream` of answered questions; used by one thread.

    Without `score_with` it joins and scores nothing.

    Args:
        task: what is learnt; its rows are a question's and its answer's columns together.
        questions: from one partition, so that they are found again in the same order; closed with this source.
        answers: closed with this source.
        key: name of the column that both have; it is left out of batches where the task's rows lack it.
        horizon_rows: as in `LabelJoin`; twice as many predictions are kept.

    Raises:
        SettingsError, ShapeError: as `LabelJoin`.
    """

    def __init__(self, task: Task, questions: KnownRows, answers: LogSource, *, key: str, horizon_rows: int) -> None:
        self._join = LabelJoin(questions, answers, key=key, horizon_rows=horizon_rows, on_questions=self._predict)
        self._task = task
        self._questions, self._answers = questions, answers
        self._key = key
        self._horizon = horizon_rows
        self._scoring: Scoring | None = None
        self._model: nn.Module | None = None
        self._device = torch.device("cpu")
        self._score: DelayedScore | None = None
        self._answered: Columns = {}  # of the batch whose answers are being scored

    def score_with(self, model: nn.Module, scoring: Scoring, device: torch.device) -> None:
        """Let `model`, as it stands when a question is read, say what it expects; a window of 0 keeps no score."""
        if scoring.window:
            self._model, self._scoring, self._device = model, scoring, device
            self._score = self._fresh_score()

    @property
    def schema(self) -> Schema:
        """Columns of the task's rows."""
        return {name: column for name, column in self._join.schema.items() if name in self._task.schema}

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: a stream has no end."""
        return math.inf

    def take(self, size: int) -> MiniBatch:
        """Rows of the next answers, at least one and at most `size`; blocks while there are none.

        Raises:
            NotEnoughData: the answers stayed silent, or the log of the questions did not answer.
            ShapeError: what the task says before the answer cannot be kept or scored.
            FedmbError: as the sources.
        """
        try:
            batch = self._join.take(size)
        except Unreachable as error:  # no answer is an orphan for that, and the round ends with what it has
            raise NotEnoughData(f"questions must be readable to be answered: {error}") from error
        if self._score is not None:
            self._answered = batch.columns
            self._score.answer(batch.columns[self._key], np.arange(len(batch)))
        columns = {name: batch.columns[name] for name in self._task.schema}
        return MiniBatch(columns, units=batch.units, span=batch.span, origins=batch.origins)

    def position(self) -> SourcePosition:
        """The join's position, and the score with the predictions that wait."""
        return {"join": self._join.position(), "score": self._score.state_dict() if self._score else None}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source, or the questions are no longer those it means.
        """
        if position and position == self.position():
            return  # as between most rounds; reading what waits again would cost a trip to the log
        score = position.get("score")
        if position and (position.keys() != _KEYS or not isinstance(score, Mapping | None)):
            raise ValueError(
                f"a position of late labels must hold {sorted(_KEYS)}, got {str(position)[:200]}; seek its source"
            )
        self._join.seek(position.get("join", {}))
        if self._scoring is not None:
            self._score = self._fresh_score()
            if score:
                self._score.load_state_dict(score)

    def lag(self) -> dict[StreamPartition, int]:
        """Answers between where this stands and their end; questions alone teach nothing."""
        return self._answers.lag()

    def limit_waiting(self, seconds: float, *, silence_seconds: float = math.inf) -> None:
        """Let no `take` wait for answers longer than `seconds` from now on, nor for `silence_seconds` without one."""
        self._answers.limit_waiting(seconds, silence_seconds=silence_seconds)
        self._questions.limit_waiting(seconds)

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Tell both logs' lag monitors what a stored model has learnt."""
        self._questions.acknowledge(ledger, note)
        self._answers.acknowledge(ledger, note)

    def statistics(self) -> LabelJoinStatistics:
        """A snapshot of the counts."""
        return self._join.statistics()

    def sums(self) -> dict[str, float]:
        """What travels: the score's sums, and how many questions wait, expired, and how many answers had none."""
        counts = self.statistics()
        named = {"waiting": counts.waiting, "expired": counts.expired, "orphaned": counts.orphans}
        scores = self._score.score.sums() if self._score is not None else {}
        return {LABELS + name: float(count) for name, count in named.items()} | {
            DELAYED + name: value for name, value in scores.items()
        }

    def close(self) -> None:
        """Close both sources."""
        self._join.close()

    def _fresh_score(self) -> DelayedScore:
        assert self._scoring is not None, "asked for where there is one"
        kept = Prequential(window=self._scoring.window, fading=self._scoring.fading)
        return DelayedScore(self._figures, kept, horizon_rows=2 * self._horizon)  # as many as wait for an answer

    def _predict(self, batch: MiniBatch) -> None:
        """Keep what the model says of questions."""
        if self._score is None or self._model is None:
            return
        shown = {name: column for name, column in batch.columns.items() if name in self._task.schema}
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                said = self._task.forward(self._model, tensors(MiniBatch(shown), self._device))
        except KeyError as error:
            raise SettingsError(
                f"the score of late labels needs a task whose forward does without the answer, got one that reads "
                f"{error} from {sorted(shown)}; move that to loss, or set training.prequential.window to 0",
                key="training.prequential.window",
            ) from error
        finally:
            self._model.train(was_training)
        if not isinstance(said, torch.Tensor) or said.shape[:1] != (len(batch),):
            raise ShapeError(
                f"the score of late labels keeps what forward gives, one tensor ({len(batch)}, …), got "
                f"{tuple(said.shape) if isinstance(said, torch.Tensor) else type(said).__name__}; change the task, or "
                "set training.prequential.window to 0"
            )
        kept = said.float() if said.dtype == torch.bfloat16 else said  # NumPy has none
        self._score.ask(batch.columns[self._key], kept.cpu().numpy())

    def _figures(self, predictions: NDArray[Any], rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Loss and metrics of predictions against the answered rows of these numbers."""
        answered = {name: self._answered[name][rows] for name in self._task.schema}
        columns = tensors(MiniBatch(answered), self._device)
        outputs: Tensor = torch.from_numpy(predictions).to(self._device)
        with torch.inference_mode():
            figures = {"loss": self._task.loss(outputs, columns), **self._task.metrics(outputs, columns)}
        return {name: values.double().cpu().numpy() for name, values in figures.items()}
