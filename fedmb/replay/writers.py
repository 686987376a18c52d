"""Which inserts a service has taken from whom, so that one sent twice over a broken connection is kept once.

Remembered while the service runs. A client that finds another service in its place sends again what was not
acknowledged, and the rows of at most `WINDOW` inserts may then be there twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

WINDOW = 32  # inserts of one writer whose ids are remembered; clients have half as many under way
MAX_WRITERS = 1024  # remembered; the one that was silent for longest is forgotten first


class Writer:
    """What was taken from one writer; used within its turn."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._last = 0
        self._ids: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def known(self, sequence: int, rows: int) -> NDArray[np.int64] | None:
        """Ids of an insert that was taken before, -1 where they are forgotten; None for a new one."""
        if sequence in self._ids:
            return self._ids[sequence]
        was_refused = sequence > next(iter(self._ids), sequence)  # since what was taken later is remembered
        return None if sequence > self._last or was_refused else np.full(rows, -1, np.int64)

    def taken(self, sequence: int, ids: NDArray[np.int64]) -> None:
        """Remember an insert."""
        self._last = max(self._last, sequence)
        self._ids[sequence] = ids
        if len(self._ids) > WINDOW:
            self._ids.popitem(last=False)


class Writers:
    """Remembers the newest inserts of every writer. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers: OrderedDict[str, Writer] = OrderedDict()

    @contextmanager
    def turn(self, name: str) -> Iterator[Writer]:
        """Be the only one who inserts for this writer."""
        with self._lock:
            writer = self._writers.get(name)
            if writer is None:
                writer = self._writers[name] = Writer()
            self._writers.move_to_end(name)
            if len(self._writers) > MAX_WRITERS:
                self._writers.popitem(last=False)
        with writer.lock:
            yield writer
