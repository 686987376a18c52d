"""A mapped ring seen by other processes than its writer's: read only, without a lock, while it is written.

    writer:  commit "these rows are given up" -> overwrite their slots -> commit "these rows are there"
    reader:  look at the commit -> copy rows out -> look at the commit again

Whatever a reader copied of a slot that was being overwritten belongs to a row that the second look no longer finds
kept, so no torn row leaves a view. Rewinds number rows anew; a commit counts them, so that a reader sees one too.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fedmb.errors import CorruptRing, NotEnoughData
from fedmb.replay.memory_order import keep_order
from fedmb.replay.ragged import chosen, joined
from fedmb.replay.ring import RingStatistics, check_kept
from fedmb.replay.ring_commit import NUM_SLOTS, SEQUENCE, SLOT_BYTES, decoded, unpacked
from fedmb.replay.ring_file import FORMAT, ring_head
from fedmb.replay.ring_layout import MAGIC, check_description, described
from fedmb.replay.ring_rows import LENGTH, RingLayout, RingRows
from fedmb.replay.sample import Sample

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column
    from fedmb.ledger import Ledger
    from fedmb.replay.ring_commit import RingCommit

NUM_LOOKS = 1000  # at commits that are being written, or at rows that a writer overtakes; none of our tests needed 20


class RingView:
    """The rows of a ring that another process writes; made by `RingView.open`.

    Each look is at the newest commit, so two of them may differ; `state` gives rows and ledger of one. Copies rows out.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.redrawn = 0
        """Rows that were overwritten while `sample` copied them, and drawn again."""
        layout = RingLayout.described(json.loads(described(descriptor, path, MAGIC, FORMAT)))
        head = ring_head(layout)
        check_description(descriptor, path, head)  # also what only the head knows, such as the order of bytes
        status = os.fstat(descriptor)
        self._places = [head.commits + SLOT_BYTES * index for index in range(NUM_SLOTS)]
        if status.st_size < head.size:
            slots = [os.pread(descriptor, SLOT_BYTES, place) for place in self._places]
            if any(commit and commit.sequence for commit in map(decoded, slots)):
                raise CorruptRing(f"{path} cannot be trusted: its last rows are cut off; delete it to begin anew")
            raise _unfinished(path)
        self._identity = status.st_dev, status.st_ino
        self._layout = layout
        self._num_bytes = head.size
        self._map = mmap.mmap(descriptor, head.size, prot=mmap.PROT_READ)
        self._rows = RingRows(layout, np.frombuffer(self._map, np.uint8)[head.data :])
        self._last: RingCommit | None = None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Look at the ring in a file, whose writer may run, end and run again meanwhile.

        Raises:
            FileNotFoundError: there is no file.
            NotEnoughData: its writer is still making it.
            CorruptRing: the file is not a ring, or is damaged.
            VersionMismatch: the file has another format version.
        """
        path = Path(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size == 0:
                raise _unfinished(path)
            return cls(path, descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of every row, by name."""
        return self._layout.schema

    @property
    def capacity(self) -> int:
        """Rows the ring can hold."""
        return self._layout.rows.capacity

    @property
    def appended(self) -> int:
        """Number of the next row."""
        return self._newest().appended

    @property
    def kept(self) -> range:
        """Numbers of the rows that can be gathered now."""
        return self.state()[0]

    @property
    def ledger(self) -> Ledger:
        """Up to where the stream was read for the rows appended so far; empty where nobody said so."""
        return self.state()[1]

    def state(self) -> tuple[range, Ledger]:
        """Numbers of the kept rows, and the ledger that goes with them, of one commit.

        Raises:
            CorruptRing: no commit can be read.
        """
        commit = self._newest()
        return range(commit.oldest, commit.appended), unpacked(commit.ledger)

    def is_replaced(self) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def gather(self, row_ids: NDArray[np.int64]) -> dict[str, Any]:
        """Fresh columns of the rows with these numbers, in the order asked.

        Raises:
            NotEnoughData: a number lies outside `kept`, or its row was overwritten while it was copied.
            CorruptRing: no commit can be read.
        """
        for _ in range(NUM_LOOKS):
            before = self._newest()
            check_kept(row_ids, range(before.oldest, before.appended))
            rows = self._copied(row_ids, before)
            if self._torn(row_ids, before) is None:
                return rows
        raise _overtaken(len(row_ids))

    def sample(self, size: int, generator: np.random.Generator) -> Sample:
        """Rows drawn uniformly from the kept ones, with replacement; those overwritten meanwhile are drawn again.

        Raises:
            NotEnoughData: no row is kept, or the writer overwrites rows faster than they can be copied.
            CorruptRing: no commit can be read.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a draw must ask for 1 row or more, got {size}")
        found: list[tuple[NDArray[np.int64], dict[str, Any]]] = []
        missing = size
        for _ in range(NUM_LOOKS):
            before = self._newest()
            if before.oldest == before.appended:
                raise NotEnoughData(f"a draw needs kept rows, {self.path} has none at this moment; append some first")
            row_ids = generator.integers(before.oldest, before.appended, missing, np.int64)
            rows = self._copied(row_ids, before)
            torn = self._torn(row_ids, before)
            if torn is None:
                found.append((row_ids, rows))
                return Sample(_joined([rows for _, rows in found]), np.concatenate([row_ids for row_ids, _ in found]))
            whole = np.flatnonzero(~torn)
            found.append((row_ids[whole], {name: chosen(column, whole) for name, column in rows.items()}))
            missing -= len(whole)
            self.redrawn += missing
        raise _overtaken(size)

    def statistics(self) -> RingStatistics:
        """A frozen snapshot."""
        commit, layout = self._newest(), self._layout.rows
        kept = commit.appended - commit.oldest
        return RingStatistics(
            self.capacity, commit.appended, kept, self._num_bytes, self.path, layout.kind, layout.row_bytes
        )

    def close(self) -> None:
        """Release the file."""
        self._rows.close()
        with contextlib.suppress(BufferError):  # pragma: no cover
            self._map.close()

    def _copied(self, row_ids: NDArray[np.int64], before: RingCommit) -> dict[str, Any]:
        """Columns as they lie in these rows' slots now, torn ones too."""
        rows = self._rows.read(row_ids)
        if self._layout.ragged and (torn := self._torn(row_ids, before)) is not None:
            for name in self._layout.ragged:  # where a torn row says that its elements lie can be anywhere
                rows[LENGTH.format(name)][torn] = 0
        return self._rows.whole(rows)

    def _torn(self, row_ids: NDArray[np.int64], before: RingCommit) -> NDArray[np.bool_] | None:
        """Which of these rows, kept before, may have been overwritten since; None where none was."""
        keep_order()
        after = self._newest()
        if after.rewinds != before.rewinds:
            return np.ones(len(row_ids), np.bool_)
        if after.oldest == before.oldest:
            return None
        torn = row_ids < after.oldest
        return torn if torn.any() else None

    def _newest(self) -> RingCommit:
        """The commit that counts.

        Raises:
            CorruptRing: no commit can be read.
        """
        if self._last and self._last.sequence == max(SEQUENCE.unpack_from(self._map, at)[0] for at in self._places):
            return self._last
        for _ in range(NUM_LOOKS):  # the writer may be about to write the one slot while this reads the other
            found = [commit for at in self._places if (commit := decoded(self._map[at : at + SLOT_BYTES]))]
            if found:
                self._last = max(found)
                keep_order()
                return self._last
        raise CorruptRing(f"{self.path} cannot be trusted: its commits fail their checksums; restart its writer")


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {name: joined([part[name] for part in parts]) for name in parts[0]}


def _unfinished(path: Path) -> NotEnoughData:
    return NotEnoughData(f"a ring must be made before it is read, {path} is not finished; try again in a moment")


def _overtaken(size: int) -> NotEnoughData:
    return NotEnoughData(
        f"rows must stay until they are copied, {size} were overwritten {NUM_LOOKS} times; raise the ring's capacity "
        "or append less at once"
    )
