"""Processes that benchmarks/replay.py asks for slices of work, one contender each."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from typing import Any

from replay_items import REPLY

LONGEST = 600.0  # seconds that making a buffer or a slice may take


class ChildFailed(Exception):  # noqa: N818  # what happened
    """A contender's process ended, or took too long; the text is the end of what it said."""


class Child:
    """One contender's process, which does what it is asked and waits in between.

    `about` is what it said of the buffer that it made.

    Args:
        name: of the contender.
        command: that starts it.
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.about: dict[str, Any] = {}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(  # noqa: S603  # our own scripts
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ChildFailed: there was none.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Timer(LONGEST, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:  # libraries print there too
                if line.startswith(REPLY):
                    return dict(json.loads(line.removeprefix(REPLY)))
        except BrokenPipeError:
            pass
        finally:
            late.cancel()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        raise ChildFailed(f"no answer to {do} {details}: {' | '.join(lines[-3:])[-500:]}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None:
                pipe.close()
