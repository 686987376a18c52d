"""What a run tells about itself: one frozen record a round."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One closed round, as every sink sees it."""

    round: int
    """Number of the round, from 1; also the version of the model it produced."""
    seconds: float
    """Wall-clock time from selection to checkpoint."""
    train_loss: float
    """Mean loss over the units that clients learnt, before each step (test-then-train)."""
    scores: Mapping[str, float]
    """The global model on held-out rows: "loss" and the task's metrics; empty when the server has none."""
    rows: Mapping[str, int]
    """Rows drawn for training, by origin: "private", "stream", "replay"."""
    lag: int | None
    """Records that streams hold beyond the model's ledger; None where nobody can tell."""
    clients: int
    """Clients whose update was aggregated."""
    accepted: tuple[str, ...] = ()
    """Their names, sorted."""
    late: Mapping[str, int] = field(default_factory=dict)
    """Those of them whose update came late, with how many versions of the model it was behind."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Clients whose reply was refused or failed, with the reason."""
    skipped: tuple[str, ...] = ()
    """Clients with nothing new, whether they said so in this round or rest because they said so in the last ones."""
    closed_by: str = "replies"
    """What closed the round: "replies" (all were in), "time", "rows", "drift" or "enough"."""
    bytes_down: int = 0
    """Bytes of what was sent to clients: the model once for each of them, and their instructions."""
    bytes_up: int = 0
    """Bytes of the replies that came, refused ones among them; neither counts Flower's framing or TLS."""
    set_aside: int = 0
    """Records that could not be decoded, since the run started."""

    monitor: Mapping[str, float] = field(default_factory=dict)
    """What to watch beside the loss, such as "gradient_norm" and "update_ratio"; absent where nobody measured it."""
    alarms: Mapping[str, int] = field(default_factory=dict)
    """Drift alarms that rang in the round, by client; clients without one are left out."""

    @property
    def rows_per_second(self) -> float:
        """Training rows of the round over its wall-clock time."""
        return sum(self.rows.values()) / self.seconds if self.seconds > 0 else math.nan

    def to_json(self) -> dict[str, Any]:
        """Flat enough for one line of `metrics.jsonl`; a figure that is not a number is null."""
        return {
            "round": self.round,
            "seconds": round(self.seconds, 4),
            "train_loss": _number(self.train_loss),
            "scores": {name: _number(value) for name, value in self.scores.items()},
            "rows": dict(self.rows),
            "rows_per_second": _number(round(self.rows_per_second, 1)),
            "lag": self.lag,
            "clients": self.clients,
            "accepted": list(self.accepted),
            "late": dict(self.late),
            "rejected": dict(self.rejected),
            "set_aside": self.set_aside,
            "monitor": {name: _number(value) for name, value in self.monitor.items()},
            "skipped": list(self.skipped),
            "closed_by": self.closed_by,
            "alarms": dict(self.alarms),
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }


class Sink(Protocol):
    """Somewhere that round reports go."""

    def report(self, report: RoundReport) -> None:
        """Take one closed round."""
        ...

    def close(self) -> None:
        """Write out what is still held."""
        ...


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
