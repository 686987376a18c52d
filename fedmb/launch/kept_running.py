"""A program that is started again whenever it ends, beside whatever else this process does."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Self

from fedmb.launch.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

LONG_LIFE_SECONDS = 30.0  # a program that ran so long ended for a reason of its own, not because it cannot start
SHORTEST_SECONDS = 0.1  # before it is started again for the first time: somebody may wait for it
LONGEST_SECONDS = 30.0  # one that ends at once, again and again, must not eat the machine


class KeptRunning:
    """A program kept running inside a `with` block; it never outlives this process.

    Args:
        name: of the program, in log lines.
        command: program and arguments.
        environment: of the program.
        output: where what it says goes; to stderr if left out.
        on_restart: called each time that it is started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._command = command
        self._environment = environment
        self._output = output
        self._on_restart = on_restart
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fedmb-{name}")

    def _run(self) -> None:
        pause = SHORTEST_SECONDS
        while not self._stop.is_set():
            started = time.monotonic()
            with Child(self._command, environment=self._environment, output=self._output or sys.stderr) as child:
                code = child.wait(self._stop)
            if code is None:
                return
            if time.monotonic() - started > LONG_LIFE_SECONDS:
                pause = SHORTEST_SECONDS
            log.warning("%s ended code=%d again_seconds=%g", self._name, code, pause)
            if self._stop.wait(pause):
                return
            self._on_restart()
            pause = min(2 * pause, LONGEST_SECONDS)

    def ask_to_stop(self) -> None:
        """Let the program drain; leaving the block waits for it."""
        self._stop.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
