"""Clients that have nothing new: left out for ever longer, and waited for when nobody has anything.

Only a never-ending run asks whether there is something new. A client that has nothing is left out of the next round,
then of the next 2, 4, 8 ..., up to a bound. Rounds are counted, not seconds, so a resumed run leaves out the same
clients; the counts lie in the checkpoint.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from threading import Event

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 0.5  # a stream that pauses for a moment costs no more than that
LONGEST_LOOK_SECONDS = 10.0  # a look costs a message a client; rows that come at last wait no longer than this


class Silence:
    """Who has had nothing new, and until which round it is left out.

    Args:
        longest: most rounds in a row that a client is left out; 0 asks everyone in every round.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._last: dict[str, tuple[int, int]] = {}  # client -> (round in which it had nothing, rounds to leave out)

    def resting(self, number: int) -> tuple[str, ...]:
        """Clients to leave out of round `number`, sorted."""
        return tuple(sorted(name for name, (last, pause) in self._last.items() if last < number <= last + pause))

    def observe(self, number: int, *, silent: Iterable[str], heard: Iterable[str]) -> None:
        """Take what clients answered in round `number`; the same round may be told again, as often as it is tried."""
        for name in silent:
            last, pause = self._last.get(name, (number - 1, 0))
            if last != number:
                self._last[name] = (number, min(2 * pause or 1, self.longest))
        for name in heard:
            self._last.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """`[round, rounds to leave out]` of each silent client."""
        return {name: list(entry) for name, entry in sorted(self._last.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; an empty one is the beginning."""
        self._last = {name: (last, pause) for name, (last, pause) in state.items()}


class NewsWait:
    """Waits between two looks for news: half a second at first, then twice as long each time, up to ten seconds."""

    def __init__(self) -> None:
        self._seconds = FIRST_LOOK_SECONDS
        self.is_on = False
        """Whether the last look found nothing."""

    def wait(self, stop: Event, silent: Iterable[str]) -> None:
        """Wait before the next look, until `stop` is set at most; the first wait of several is logged."""
        if not self.is_on:
            log.info("nothing new, waiting clients=%s", ",".join(sorted(silent)))
        self.is_on = True
        stop.wait(self._seconds)
        self._seconds = min(2 * self._seconds, LONGEST_LOOK_SECONDS)

    def end(self) -> None:
        """There is news: the next wait is a short one."""
        self._seconds = FIRST_LOOK_SECONDS
        self.is_on = False
