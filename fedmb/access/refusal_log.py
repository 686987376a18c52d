"""Refusals in the log: each kind at once and then as a count, so that an intruder cannot fill a disk with them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from fedmb.access.refusal import Reason

if TYPE_CHECKING:
    from fedmb.access.refusal import Refused

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0  # between two lines of one kind


class RefusalLog:
    """Writes a line for a refusal, unless one of its kind was written just before."""

    def __init__(self) -> None:
        self._next = dict.fromkeys(Reason, 0.0)
        self._unsaid = dict.fromkeys(Reason, 0)

    def note(self, peer: str, refused: Refused) -> None:
        """Tell of a refusal, and how many of its kind went untold since the last line."""
        now = time.monotonic()
        if now < self._next[refused.reason]:
            self._unsaid[refused.reason] += 1
            return
        more, self._unsaid[refused.reason] = self._unsaid[refused.reason], 0
        self._next[refused.reason] = now + QUIET_SECONDS
        log.warning("node refused peer=%s reason=%s untold=%d: %s", peer, refused.reason, more, refused.sentence)
