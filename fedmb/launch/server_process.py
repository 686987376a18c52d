"""The server's own process, which Flower starts somewhere below us: found by the run directory that it owns.

Flower notices its death by missing heartbeats, after 40 to 60 s. The lock file of the run directory names the owner's
process, so it can be watched from its first moment at work to its last.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class ServerProcess:
    """The process that owns a run directory after this one; use it as a context manager.

    Args:
        lock: the directory's lock file; who is named there now is not who is looked for.
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._before = self._named()
        self._handle: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it has taken the directory, now or at an earlier look."""
        return self._seen() is not None

    @property
    def is_gone(self) -> bool:
        """Whether it had begun, and has ended."""
        handle = self._seen()
        return handle is not None and bool(select.select([handle], [], [], 0)[0])

    def kill(self) -> None:
        """End it, if it has begun: one that Flower has given up must not own the directory any longer."""
        if (handle := self._seen()) is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    def _seen(self) -> int | None:
        """A handle of the process, which no later one of the same number can take over."""
        if self._handle is None and (named := self._named()) not in {self._before, os.getpid()} and named is not None:
            with suppress(ProcessLookupError):  # it has ended since its name was read; Flower will say how
                self._handle = os.pidfd_open(named)
        return self._handle

    def _named(self) -> int | None:
        try:
            text = self._lock.read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdecimal() else None  # empty while a new owner writes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
