"""Which signed timestamps a door has seen, so that none comes in twice; in bounded memory.

A node signs each request with a new timestamp, and may have a few requests under way, which overtake each other. So the
newest `MEMORY` timestamps of a node are remembered, and whatever is not newer than one that was forgotten is refused:
nothing that was let in once comes in again, however long ago it was.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from fedmb.access.refusal import Reason, Refused

if TYPE_CHECKING:
    import datetime as dt

MEMORY = 1024  # timestamps of a node; a SuperNode has three requests under way at most


class SeenTimestamps:
    """Timestamps of nodes that proved their key.

    Args:
        opened: when the door opened; what was signed before may have come in through its predecessor. (So may what a
            node with a fast clock signed up to 5 s later: for so long a restart of the door lets that be repeated.)
    """

    def __init__(self, opened: dt.datetime) -> None:
        self._opened = opened
        self._seen: dict[bytes, tuple[list[dt.datetime], set[dt.datetime]]] = {}
        self._forgotten: dict[bytes, dt.datetime] = {}

    def note(self, key: bytes, at: dt.datetime) -> None:
        """Remember that `key` signed `at`.

        Raises:
            Refused: it did so before.
        """
        if at <= self._opened:
            raise Refused(
                Reason.EARLY,
                f"a request must be signed after the door opened, this one was "
                f"{(self._opened - at).total_seconds():.0f} s before by the node's clock; wait as long, or set the "
                "clock by NTP",
            )
        heap, known = self._seen.setdefault(key, ([], set()))
        if at in known or (key in self._forgotten and at <= self._forgotten[key]):
            raise Refused(
                Reason.REPLAY,
                f"a signed request may come once, the one of {at.isoformat()} came before; sign each request anew",
            )
        heapq.heappush(heap, at)
        known.add(at)
        if len(heap) > MEMORY:
            oldest = heapq.heappop(heap)
            known.remove(oldest)
            self._forgotten[key] = oldest
