"""How long clients take to reply, and so how long a round waits for them.

A client's usual time is the longer of its last one and the median of its last eight: one slow reply is believed at
once, a quick one is not. Only replies that learnt something are counted, late ones too. What has never replied is not
waited for longer than the others; it is known from its first reply on, even if that came late.

These are times, so two runs that learnt the same have others: they lie beside the checkpoints, not in them. All of
them are taken on this machine's monotonic clock; no client's clock is asked.
"""

from __future__ import annotations

import json
import logging
import math
from statistics import median
from typing import TYPE_CHECKING

from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

FILE = "reply-times.json"
_LAST = 8
_MOST_CLIENTS = 10_000  # that are remembered; names are what clients say


class ReplyTimes:
    """Times of the last replies, by client.

    Args:
        medians: usual times that a round waits.
        least: it waits so many seconds in any case.
        most: and no longer than this.
        file: where the times outlive the process; nowhere if left out.
    """

    def __init__(self, medians: float, least: float, most: float, file: Path | None = None) -> None:
        self._medians, self._least, self._most = medians, least, most
        self._file = file
        self._times = _read(file) if file is not None and math.isfinite(medians) else {}

    def observe(self, client: str, seconds: float) -> None:
        """Take the time of a reply."""
        if client in self._times or len(self._times) < _MOST_CLIENTS:
            self._times[client] = [*self._times.get(client, []), seconds][-_LAST:]

    def usual(self, client: str) -> float | None:
        """Seconds that the client takes; None before its first reply."""
        times = self._times.get(client)
        return max(times[-1], median(times)) if times else None

    def wait_seconds(self, clients: Iterable[str | None]) -> float:
        """How long to wait for these clients, of which unknown ones are None."""
        usual = [seconds for one in clients if one is not None and (seconds := self.usual(one)) is not None]
        if not usual or math.isinf(self._medians):
            return self._most
        return min(self._most, max(self._least, self._medians * max(usual)))

    def keep(self) -> None:
        """Let the times outlive the process.

        Raises:
            OSError: the disk is full or fails.
        """
        if self._file is not None and math.isfinite(self._medians):
            write_atomically(self._file, json.dumps(self._times, sort_keys=True))


def _read(file: Path) -> dict[str, list[float]]:
    try:
        found = json.loads(file.read_text())
        return {str(client): [float(one) for one in times] for client, times in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:  # they are learnt anew in a round
        log.warning("reply times forgotten file=%s reason=%s", file, error)
        return {}
