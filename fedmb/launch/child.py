"""A program started by this process that never outlives it, and nor does anything that the program starts."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

_KEEPER = Path(__file__).with_name("keeper.py")
_LOOK_SECONDS = 0.1  # between two looks at the stop event while a program runs


class Child:
    """A running program; use it as a context manager, which stops it on the way out.

    Args:
        command: program and arguments; run without a shell.
        environment: of the program.
        output: where its stdout and stderr go: a file, or `subprocess.PIPE` for `finished_output`.
        errors: where its stderr goes instead; with stdout by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: IO[bytes] | IO[str] | int,
        errors: IO[bytes] | IO[str] | int = subprocess.STDOUT,
    ) -> None:
        self.command = tuple(command)
        # -I: what the keeper imports is the standard library's, whatever the environment and the folder hold.
        self._keeper = subprocess.Popen(  # noqa: S603  # a list of our own making, no shell
            [sys.executable, "-I", str(_KEEPER), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C at the terminal is for fedmb, which then drains
        )

    @property
    def pid(self) -> int:
        """Process id of the keeper, below which the program and all that it starts lie."""
        return self._keeper.pid

    def poll(self) -> int | None:
        """The program's exit code; None while it or anything that it started runs."""
        return self._keeper.poll()

    def wait(self, stop: Event, *, seconds: float = math.inf) -> int | None:
        """The program's exit code once it has ended; None when `stop` was set or the time had passed first."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None and time.monotonic() < deadline and not stop.wait(_LOOK_SECONDS):
            continue
        return code

    def finished_output(self) -> str:
        """What the program wrote to its pipe, which must fit into one (64 KiB) while it runs."""
        assert self._keeper.stdout is not None, "output must be subprocess.PIPE"
        data: bytes = self._keeper.stdout.read()
        return data.decode(errors="replace")

    def ask_to_stop(self) -> None:
        """Let the program drain; it is killed after the keeper's grace period."""
        assert self._keeper.stdin is not None, "the keeper is started with a pipe"
        self._keeper.stdin.close()

    def stop(self) -> int:
        """Let the program drain and wait until it and everything that it started are gone; its exit code."""
        self.ask_to_stop()
        return self._keeper.wait()

    def kill(self) -> None:
        """End the program and everything that it started at once."""
        self._keeper.terminate()
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        try:
            if kind is not None and not issubclass(kind, Exception):
                self.kill()  # a second signal: at once
            else:
                self.stop()
        except KeyboardInterrupt:  # a second signal while the program drains
            self.kill()
            raise
        finally:
            if self._keeper.stdout is not None:
                self._keeper.stdout.close()
