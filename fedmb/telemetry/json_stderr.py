"""One form for all that a process and its programs say: every line on stderr a JSON object.

Flower's programs, Python's tracebacks and libraries write lines of their own to the stderr that they inherit. Here the
descriptor itself is led through this process. fedmb's own lines come as JSON already, from each process that is told
so by its environment, and pass untouched; any other becomes an `event` without fields, whatever it looks like.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedmb.telemetry.log_lines import FORM

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDERR = 2
_LONGEST_LINE = 1 << 20  # bytes; a longer one is cut, so that none fills the memory
_END_SECONDS = 2.0  # for what was said last; a program that holds the pipe open longer is not waited for
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@contextmanager
def json_stderr() -> Iterator[None]:
    """Lead stderr, also that of programs started meanwhile, through `in_json`."""
    sys.stderr.flush()
    before = os.environ.get(FORM)
    os.environ[FORM] = "json"
    kept = os.dup(_STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, _STDERR)
    os.close(writing)
    relay = threading.Thread(target=_relay, args=(reading, kept), name="fedmb-stderr", daemon=True)
    relay.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, _STDERR)  # closes the pipe's end here; the relay ends with the last program's
        relay.join(_END_SECONDS)
        if before is None:
            del os.environ[FORM]
        else:
            os.environ[FORM] = before


def in_json(line: str) -> str:
    """The line if it is one of ours in JSON; a JSON object that has it as its event otherwise."""
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict) and {"time", "event", "fields"} <= found.keys():
            return line
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    event = _COLOUR.sub("", line).strip()
    return json.dumps({"time": now, "level": "INFO", "logger": "stderr", "event": event, "fields": {}})


def _relay(reading: int, writing: int) -> None:
    with open(reading, "rb") as lines, open(writing, "wb", buffering=0) as out:
        while line := lines.readline(_LONGEST_LINE):
            if text := line.decode(errors="replace").strip():
                out.write(f"{in_json(text)}\n".encode())
