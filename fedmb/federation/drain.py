"""How `fedmb server` lets the server's own process, which Flower starts, end after the open round.

A signal would have to pass Flower's processes, which end at once. So SIGTERM leaves a file in the run directory; the
server's process looks for it, closes its round and leaves another file, which spares asking Flower how it ended. After
`seconds`, or a second signal, the processes are ended.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2  # short beside the 3 s in which a SuperNode looks for messages


class Drain:
    """The side of `fedmb server`: turns a wish to stop into an end after the open round.

    Args:
        state: directory of the run's state, which both processes see; an earlier wish there is forgotten.
        stop: set by the first signal.
        seconds: how long the open round may go on after that.
    """

    def __init__(self, state: Path, stop: threading.Event, seconds: float) -> None:
        self.over = threading.Event()
        """Set once the processes are to end; at once while there is no round to wait for."""
        self.has_begun = False
        """Whether the server's process was asked for, and may have a round open."""
        self._wish, self._done = _wish(state), _done(state)
        self._stop = stop
        self._seconds = seconds
        self._has_ended = threading.Event()

    @property
    def has_drained(self) -> bool:
        """Whether the server's process heard of it and ended as it should."""
        return self._done.exists()

    def __enter__(self) -> Self:
        self._forget()
        threading.Thread(target=self._watch, name="fedmb-drain", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._forget()

    def _forget(self) -> None:
        for file in (self._wish, self._done):
            file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            if self._has_ended.is_set():
                return
        if self.has_begun and not self._has_ended.is_set():
            log.info("server draining: the open round may take %g s more; a second signal ends it", self._seconds)
            self._wish.touch()
            self._has_ended.wait(self._seconds)
        self.over.set()


@contextmanager
def told_to_drain(state: Path) -> Iterator[threading.Event]:
    """The side of the server's own process: an event that is set once `Drain` wishes so."""
    told, left = threading.Event(), threading.Event()

    def watch() -> None:
        while not left.wait(_LOOK_SECONDS):
            if _wish(state).exists():
                told.set()
                return

    threading.Thread(target=watch, name="fedmb-drain", daemon=True).start()
    try:
        yield told
        if told.is_set():
            _done(state).touch()
    finally:
        left.set()


def _wish(state: Path) -> Path:
    return state / "drain"


def _done(state: Path) -> Path:
    return state / "drained"
