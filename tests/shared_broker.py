"""One broker for all workers of a run: who needs it first starts it, who leaves last ends it.

A broker that waits takes 2 to 3 % of a core and 320 MB, for as long as the suite runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kafka_broker import KafkaBroker, listens

if TYPE_CHECKING:
    from collections.abc import Iterator

END_SECONDS = 10.0  # for the kernel to take away a process that was killed


@dataclass(frozen=True)
class RunningBroker:
    """A broker that somebody else runs, such as the one that FEDMB_KAFKA names."""

    address: str
    """host:port for clients."""


@contextlib.contextmanager
def shared_broker(folder: Path) -> Iterator[RunningBroker]:
    """The broker of all processes that name this folder, which exists.

    A process that was killed has left too: whoever comes or leaves looks who is still alive.
    """
    with _noted(folder) as note:
        if not _alive(note.get("users", [])):
            _end(note)
            broker = KafkaBroker().start()
            note |= {"address": broker.address, "pid": broker.pid, "directory": str(broker.directory), "users": []}
        note["users"] = [*_alive(note["users"]), os.getpid()]
    try:
        yield RunningBroker(note["address"])
    finally:
        with _noted(folder) as note:
            note["users"] = [user for user in _alive(note["users"]) if user != os.getpid()]
            if not note["users"]:
                _end(note)


@contextlib.contextmanager
def _noted(folder: Path) -> Iterator[dict]:
    """What the folder says of the broker, while nobody else reads or changes it."""
    with (folder / "broker.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        note = json.loads(file.read() or "{}")
        yield note
        file.truncate(0)
        json.dump(note, file)


def _alive(users: list[int]) -> list[int]:
    return [user for user in users if Path(f"/proc/{user}").exists()]


def _end(note: dict) -> None:
    """Kill the broker, whose parent may be another process that is gone, and remove its data."""
    if (pid := note.pop("pid", None)) is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    deadline = time.monotonic() + END_SECONDS
    while listens(int(note["address"].rpartition(":")[2])) and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(note["directory"], ignore_errors=True)
