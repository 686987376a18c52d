"""When a round closes: when every reply is in, or earlier by time, rows or drift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.update import Update

STREAM = "stream"  # origin of fresh rows of a stream
ALARMS = "alarms"  # sum of an update that counts drift alarms


class Closing(Section):
    """What closes a round before every client has replied; `rounds.late` says what becomes of later replies."""

    seconds: float = Field(default=math.inf, gt=0)
    """How long clients learn at most, and wait for rows; they reply with what they have."""
    grace_seconds: float = Field(default=15.0, ge=0)
    """seconds: how much longer replies are waited for; a client that is a process needs 6 to 10 s beside learning."""
    silence_seconds: float = Field(default=2.0, ge=0)
    """rounds.count = "forever": a client whose stream gives no row for so long replies with what it has."""
    rows: float = Field(default=math.inf, ge=1)
    """Fresh stream rows that close a round as soon as the accepted replies bring them."""
    drift: bool = False
    """Close as soon as a reply tells of a drift alarm; a client whose alarm rings replies with what it has."""

    @property
    def is_early(self) -> bool:
        """Whether a reply may close the round while others are under way."""
        return self.drift or math.isfinite(self.rows)

    def wait_seconds(self, deadline_seconds: float) -> float:
        """How long the server waits for replies."""
        return min(deadline_seconds, self.seconds + self.grace_seconds)

    def reason(self, accepted: Sequence[Update]) -> str | None:
        """What closes the round now that these updates are in: "drift" or "rows"; None while nothing does."""
        if self.drift and any(update.sums.get(ALARMS, 0) > 0 for update in accepted):
            return "drift"
        if sum(update.rows.get(STREAM, 0) for update in accepted) >= self.rows:
            return "rows"
        return None
