"""The file behind a mapped store of rows: a description, then the rows as they lie in memory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import CorruptRing
from fedmb.replay.ring_layout import PREFIX, Head, check_description, described, own, reserve
from fedmb.replay.row_layout import RowLayout

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.row_layout import Choice

MAGIC = b"FEDMBROW"


class RowFile:
    """Rows as bytes over a file, with one owner at a time.

    Args:
        path: the file, made with its parent folders when it does not exist; readable by its owner only.
        schema: columns of every row.
        capacity: rows.
        layout: how the rows lie; "auto" takes a file that exists as it is.

    Raises:
        AlreadyOwned: another live store has the file.
        SettingsError: the file was made for other settings, or the disk cannot hold it.
        CorruptRing: the file is no store, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(self, path: Path, schema: Schema, capacity: int, layout: Choice) -> None:
        self.path = path
        self.layout = RowLayout(schema, capacity, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            own(self._descriptor, path)
            is_made = any(os.pread(self._descriptor, PREFIX.size, 0))
            if is_made and layout == "auto":
                found = json.loads(described(self._descriptor, path, MAGIC))["layout"]
                self.layout = RowLayout(schema, capacity, found)
            head = Head(self.layout.description(), magic=MAGIC, data_bytes=self.layout.num_bytes)
            self._check_or_make(head, is_made=is_made)
            self._map = mmap.mmap(self._descriptor, head.size)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.data = np.frombuffer(self._map, np.uint8)[head.data :]

    def flush(self) -> None:
        """Write every changed page to the disk; blocks until it is there."""
        self._map.flush()

    def close(self) -> None:
        """Give up the file; live views of its columns stay readable until they are dropped."""
        del self.data
        with contextlib.suppress(BufferError):  # such views: the pages go with the last of them
            self._map.close()
        # The mapping holds a duplicate of the descriptor, so closing ours alone could keep the lock.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _check_or_make(self, head: Head, *, is_made: bool) -> None:
        size = os.fstat(self._descriptor).st_size
        if is_made:
            check_description(self._descriptor, self.path, head)
            if size < head.size:
                raise CorruptRing(f"{self.path} cannot be trusted: its last rows are cut off; delete it to begin anew")
            return
        if size > head.size:
            raise CorruptRing(f"{self.path} must begin as a store does, got zeros; choose another path")
        reserve(self._descriptor, self.path, head, [(PREFIX.size, head.description)])
        os.pwrite(self._descriptor, head.prefix, 0)  # last: a making that was cut off is begun again
