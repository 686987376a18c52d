"""What a server asks of a client beside training: when to end its part of a round, and when to leave it out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ledger import Ledger, StreamPartition


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """The terms of one round; by default a client learns as its own budget says."""

    seconds: float = math.inf
    """Stop learning after so long, and do not wait for rows any longer than that."""
    until_alarm: bool = False
    """Stop learning when a drift alarm rings."""
    skips_silent: bool = False
    """Answer at once, with weight 0, when the stream holds no record beyond the client's position."""
    silence_seconds: float = math.inf
    """Reply with what was learnt when the stream gives no row for so long."""
    resting: tuple[str, ...] = ()
    """Clients that answer at once, with weight 0, whatever their streams hold."""

    def to_json(self) -> str:
        """One text for equal terms."""
        return json.dumps(
            {key: None if value == math.inf else value for key, value in asdict(self).items()},  # JSON has no infinity
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> RoundTerms:
        """Read `to_json` back.

        Raises:
            ValueError, TypeError, KeyError: the text is something else.
        """
        found = json.loads(text)
        times = {key: math.inf if found[key] is None else float(found[key]) for key in ("seconds", "silence_seconds")}
        if not (times["seconds"] > 0 and times["silence_seconds"] >= 0):
            raise ValueError(f"a round must last longer than 0 s, got {times}")
        return cls(
            until_alarm=bool(found["until_alarm"]),
            skips_silent=bool(found["skips_silent"]),
            resting=tuple(map(str, found["resting"])),
            **times,
        )


class LiveStream(Protocol):
    """The stream inside a client's source, as far as the terms of a round concern it."""

    def lag(self) -> Mapping[StreamPartition, int]:
        """Records between where it stands and its end, by partition."""
        ...

    def limit_waiting(self, seconds: float, *, silence_seconds: float = math.inf) -> None:
        """Let no `take` wait for rows longer than `seconds` from now on, nor for `silence_seconds` without one."""
        ...

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Tell whoever watches the stream's lag what a stored model, named by the note, has learnt of it."""
        ...
