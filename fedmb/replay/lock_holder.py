"""Which process of this machine has locked a file."""

from __future__ import annotations

from pathlib import Path

LOCKS = Path("/proc/locks")


def lock_holder(path: Path) -> int | None:
    """Process that holds the lock of a file on this machine; None where the kernel does not tell.

    Source: proc_locks(5): number, kind, mode, access, process, device:inode, range.
    """
    try:
        inode = path.stat().st_ino
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if "->" not in fields and len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):  # noqa: PLR2004  # as the head says
            return int(fields[4]) if int(fields[4]) > 0 else None
    return None
