"""Small states under names made from their bytes, the newest few, in memory or in files.

A name says which bytes it stands for, so a state is found whole or not at all, whatever happened to the file, and two
ways to the same moment never take each other's.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.telemetry.run_directory import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

NEWEST = 4  # the version in force, one before for an update that was dropped, two more for a torn checkpoint
_NAME = re.compile(r"\d+-[0-9a-f]{16}")


class KeptStates:
    """Keeps bytes by name.

    Args:
        directory: where they survive the process, made when it is needed; None keeps them in memory.
        keep: how many, the ones saved last; None keeps all.

    Raises:
        SettingsError: `keep` is below 1.
    """

    def __init__(self, directory: Path | None = None, *, keep: int | None = NEWEST) -> None:
        if keep is not None and keep < 1:
            raise SettingsError(f"1 state or more must be kept, got {keep}", key="keep")
        self._directory = directory
        self._keep = keep
        self._memory: dict[str, bytes] = {}

    def save(self, number: int, data: bytes) -> str:
        """Keep these bytes; `number` begins their name, for people who look at the files.

        Raises:
            OSError: the disk is full or fails; earlier states stay whole.
        """
        name = f"{number}-{hashlib.sha256(data).hexdigest()[:16]}"
        if self._directory is None:
            self._memory.pop(name, None)
            self._memory[name] = data
            stale = list(self._memory)[: -self._keep] if self._keep is not None else []
            for one in stale:
                del self._memory[one]
            return name
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / name
        if not path.exists():
            write_atomically(path, data)
        self._drop_stale(path)
        return name

    def load(self, name: str) -> bytes | None:
        """The bytes kept under this name; None where they are gone or damaged, or the name is none of ours."""
        if not _NAME.fullmatch(name):  # positions come from outside, and a name becomes a path
            return None
        try:
            data = self._memory.get(name) if self._directory is None else (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        is_whole = data is not None and hashlib.sha256(data).hexdigest().startswith(name.rpartition("-")[2])
        return data if is_whole else None

    def _drop_stale(self, newest: Path) -> None:
        """Make this file the newest, and drop what is too old."""
        others = [path for path in newest.parent.iterdir() if _NAME.fullmatch(path.name) and path != newest]
        others.sort(key=_changed_ns)
        # The kernel's own times stand still for milliseconds: files written in one of them would have no order.
        now = max([time.time_ns(), *(_changed_ns(path) + 1 for path in others[-1:])])
        os.utime(newest, ns=(now, now))
        if self._keep is not None:
            for path in others[: max(0, len(others) + 1 - self._keep)]:
                path.unlink(missing_ok=True)


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
