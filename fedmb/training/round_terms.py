"""What a server asks of a client beside training: when to end its part of a round, and when to leave it out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ledger import StreamPartition


@dataclass(frozen=True, slots=True)
class RoundTerms:
    """The terms of one round; by default a client learns as its own budget says."""

    seconds: float = math.inf
    """Stop learning after so long, and do not wait for rows any longer than that."""
    until_alarm: bool = False
    """Stop learning when a drift alarm rings."""
    skips_silent: bool = False
    """Answer at once, with weight 0, when the stream holds no record beyond the client's position."""
    resting: tuple[str, ...] = ()
    """Clients that answer at once, with weight 0, whatever their streams hold."""

    def to_json(self) -> str:
        """One text for equal terms."""
        seconds = None if math.isinf(self.seconds) else self.seconds  # JSON has no infinity
        return json.dumps(asdict(self) | {"seconds": seconds}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RoundTerms:
        """Read `to_json` back.

        Raises:
            ValueError, TypeError, KeyError: the text is something else.
        """
        found = json.loads(text)
        seconds = math.inf if found["seconds"] is None else float(found["seconds"])
        if not seconds > 0:
            raise ValueError(f"a round must last longer than 0 s, got {seconds}")
        return cls(seconds, bool(found["until_alarm"]), bool(found["skips_silent"]), tuple(map(str, found["resting"])))


class LiveStream(Protocol):
    """The stream inside a client's source, as far as the terms of a round concern it."""

    def lag(self) -> Mapping[StreamPartition, int]:
        """Records between where it stands and its end, by partition."""
        ...

    def limit_waiting(self, seconds: float) -> None:
        """Let no `take` wait for rows longer than `seconds` from now on, whatever its patience; inf lifts it."""
        ...
