"""The prequential score where labels come late: predictions are kept when asked and scored when the answer comes."""

from __future__ import annotations

import base64
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fedmb.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fedmb.telemetry.prequential import Prequential

Key: TypeAlias = int | str
DELAYED = "delayed_"
"""What the names of this score's sums begin with where they travel beside those of another."""
TRAINED = "train_"
"""What the names of the task's metrics begin with where they travel summed over the rows that were learnt."""
LABELS = "labels_"
"""What the names of the counts of late labels begin with where they travel beside a round's sums."""


class _Prediction(NamedTuple):
    number: int
    value: NDArray[Any]


class DelayedScore:
    """Keeps what the model said when it was asked, and scores that, not what it would say by now.

    Args:
        figures: answers "loss" and metrics of predictions `(rows, …)` and answers `(rows, …)`, each `(rows,)`.
        score: takes the sums.
        horizon_rows: predictions that are kept at most; older ones expire.

    Raises:
        SettingsError: `horizon_rows` is below 1.

    Source: delayed prequential evaluation, River 0.26, `river.evaluate.progressive_val_score` with a delay.
    """

    def __init__(
        self,
        figures: Callable[[NDArray[Any], NDArray[Any]], Mapping[str, NDArray[Any]]],
        score: Prequential,
        *,
        horizon_rows: int,
    ) -> None:
        if horizon_rows < 1:
            raise SettingsError(
                f"predictions must be able to wait for 1 or more rows, got {horizon_rows}; take the rows of a day",
                key="horizon_rows",
            )
        self._figures = figures
        self._horizon = horizon_rows
        self._waiting: dict[Key, _Prediction] = {}  # oldest first
        self.score = score
        """Sums over answered rows, by the order of their answers."""
        self.asked = 0
        """Predictions kept so far."""
        self.expired = 0
        """Predictions that were dropped without an answer, or replaced by a later one under their key."""
        self.orphans = 0
        """Answers whose prediction was not there."""

    def __len__(self) -> int:
        """Predictions that wait for an answer."""
        return len(self._waiting)

    def ask(self, keys: NDArray[Any], predictions: NDArray[Any]) -> None:
        """Keep predictions `(rows, …)` under `keys` `(rows,)` of integers or text.

        Raises:
            ShapeError: there are not as many keys as predictions, or they differ in kind from those that wait.
        """
        kept = next(iter(self._waiting.values()), None)
        if kept is not None and (kept.value.dtype, kept.value.shape) != (predictions.dtype, predictions.shape[1:]):
            raise ShapeError(
                f"predictions must all be of one kind, {kept.value.dtype} of shape {kept.value.shape}, got "
                f"{predictions.dtype} of shape {predictions.shape[1:]}; make another score for another model"
            )
        for key, value in zip(_as_keys(keys, predictions), predictions, strict=True):
            self.expired += self._waiting.pop(key, None) is not None
            self._waiting[key] = _Prediction(self.asked, np.array(value))
            self.asked += 1
        line = self.asked - self._horizon
        late = list(itertools.takewhile(lambda key: self._waiting[key].number < line, self._waiting))
        for key in late:
            del self._waiting[key]
        self.expired += len(late)

    def answer(self, keys: NDArray[Any], answers: NDArray[Any]) -> int:
        """Score what was predicted for `keys`; how many rows that were. Their predictions are let go.

        Raises:
            ShapeError: there are not as many keys as answers, or `figures` gives other than one value a row.
        """
        found, predictions = [], []
        for row, key in enumerate(_as_keys(keys, answers)):
            kept = self._waiting.pop(key, None)
            if kept is None:
                self.orphans += 1
            else:
                found.append(row)
                predictions.append(kept.value)
        if not found:
            return 0
        sums = {"units": float(len(found))}
        for name, values in self._figures(np.stack(predictions), answers[found]).items():
            if values.shape != (len(found),):
                raise ShapeError(f"{name} must have shape ({len(found)},), one value a row, got {values.shape}")
            sums[name] = float(values.sum(dtype=np.float64))
        self.score.observe(len(found), sums)
        return len(found)

    def state_dict(self) -> dict[str, Any]:
        """Predictions that wait, counts and the score, as JSON values; predictions keep every bit, in base64."""
        kept = list(self._waiting.values())
        values = np.stack([one.value for one in kept]) if kept else np.zeros(0)
        waiting = {
            "keys": list(self._waiting),
            "numbers": [one.number for one in kept],
            "dtype": values.dtype.name,
            "shape": list(values.shape),
            "values": base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode(),
        }
        counts = {"asked": self.asked, "expired": self.expired, "orphans": self.orphans}
        return {"waiting": waiting, "score": self.score.state_dict(), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave."""
        waiting = state["waiting"]
        stored = np.frombuffer(base64.b64decode(waiting["values"]), np.dtype(waiting["dtype"]).newbyteorder("<"))
        values = stored.astype(np.dtype(waiting["dtype"])).reshape(waiting["shape"])
        kept = map(_Prediction, waiting["numbers"], values)
        self._waiting = dict(zip(waiting["keys"], kept, strict=True))
        self.score.load_state_dict(state["score"])
        self.asked, self.expired, self.orphans = state["asked"], state["expired"], state["orphans"]


def _as_keys(keys: NDArray[Any], rows: NDArray[Any]) -> list[Key]:
    if keys.shape != (len(rows),):
        raise ShapeError(f"{len(rows)} rows need as many keys, got shape {keys.shape}; give one key a row")
    values: list[Key] = keys.tolist()
    return values
