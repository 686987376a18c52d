"""The file behind a mapped ring.

    0             magic, format, length and CRC-32C of the description; the description (JSON: capacity, columns ...)
    commits       two commit slots of whole pages: counters, the stream's ledger, CRC-32C (see `ring_commit`)
    data          the rows, whole ones or by columns, then the elements of ragged columns

What was stored before a commit is there after it whenever the *process* dies, since the pages belong to the kernel;
a machine that loses power may have written pages in any order, and rows since the last `flush` cannot be trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import CorruptRing
from fedmb.replay.memory_order import keep_order
from fedmb.replay.ring_commit import NUM_SLOTS, SLOT_BYTES, RingCommit, decoded, encoded
from fedmb.replay.ring_layout import MAGIC, Head, check_description, described, own, reserve
from fedmb.replay.ring_rows import RingLayout

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.row_layout import Choice

FORMAT = 2  # 1 had columns only, and no ledger


def ring_head(layout: RingLayout) -> Head:
    """What stands before the rows of a ring's file."""
    return Head(
        layout.description(),
        magic=MAGIC,
        version=FORMAT,
        commit_bytes=NUM_SLOTS * SLOT_BYTES,
        data_bytes=layout.num_bytes,
    )


class RingFile:
    """A ring's rows as bytes over a file, and its counters and ledger as commits; one owner at a time.

    Args:
        path: the file, made with its parent folders when it does not exist; readable by its owner only.
        schema: columns of the ring.
        capacity: rows it holds.
        layout: how rows lie; "auto" takes a file that exists as it is.

    Raises:
        AlreadyOwned: another live ring has the file.
        SettingsError: the file was made for other columns or another capacity, or the disk cannot hold it.
        CorruptRing: the file is not a ring, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(self, path: Path, schema: Schema, capacity: int, layout: Choice = "auto") -> None:
        self.path = path
        self.layout = RingLayout(schema, capacity, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            own(self._descriptor, path)
            if os.fstat(self._descriptor).st_size > 0:
                found = json.loads(described(self._descriptor, path, MAGIC, FORMAT))
                if layout == "auto" and found.get("layout") in ("rows", "columns"):
                    self.layout = RingLayout(schema, capacity, found["layout"])
                check_description(self._descriptor, path, ring_head(self.layout))
            self._head = ring_head(self.layout)
            self._last = self._last_commit()
            self._map = mmap.mmap(self._descriptor, self._head.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.data: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)[self._head.data :]

    @property
    def last(self) -> RingCommit:
        """The commit that counts."""
        return self._last

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._head.size

    def commit(self, appended: int, oldest: int, ledger: bytes, *, rewound: bool = False) -> None:
        """Let counters and ledger be these, after everything stored so far and before everything stored later."""
        sequence, rewinds = self._last.sequence + 1, self._last.rewinds + rewound
        self._last = RingCommit(sequence, appended, oldest, rewinds, ledger)
        at = self._head.commits + sequence % NUM_SLOTS * SLOT_BYTES
        content = encoded(self._last)
        keep_order()
        self._map[at : at + len(content)] = content
        keep_order()

    def flush(self) -> None:
        """Write every changed page to the disk; blocks until it is there."""
        self._map.flush()

    def close(self) -> None:
        """Give up the file; its bytes are not used afterwards."""
        del self.data
        with contextlib.suppress(BufferError):  # somebody holds a view: the pages go with the last of them
            self._map.close()
        # The mapping holds a duplicate of the descriptor, so closing ours alone could keep the lock.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _last_commit(self) -> RingCommit:
        """The newer valid commit; makes the file first where that was never finished."""
        size = os.fstat(self._descriptor).st_size
        places = [self._head.commits + SLOT_BYTES * index for index in range(NUM_SLOTS)]
        slots = [os.pread(self._descriptor, SLOT_BYTES, place) for place in places]
        last = max(filter(None, map(decoded, slots)), default=None)
        untouched = (last is not None and last.sequence == 0) or not any(map(any, slots))
        if size < self._head.size and untouched:
            return self._make()
        if size < self._head.size or last is None:
            reason = "both commit slots fail their checksum" if last is None else f"its last rows are cut off at {size}"
            raise CorruptRing(f"{self.path} cannot be trusted: {reason}; delete it to begin with an empty memory")
        return last

    def _make(self) -> RingCommit:
        first, head = RingCommit(0, 0, 0, 0, b""), self._head.prefix + self._head.description
        reserve(self._descriptor, self.path, self._head, [(0, head), (self._head.commits, encoded(first))])
        return first
