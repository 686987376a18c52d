"""Which rows of a stream ring come next for a model, and which the model no longer needs.

stored     positions of the model's last checkpoint: rows that it covers are released to the writer
taken      positions behind the last row taken
release <= next <= scanned     row numbers: kept for the model | to be taken next | looked at
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import CorruptRing, RecordsGone
from fedmb.ledger import Ledger, Position, Span, StreamPartition
from fedmb.replay.ring_cursor import Release
from fedmb.replay.stream_places import array_of, behind, covers, is_covered, last_of_each, ledger_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.ring_cursor import RingCursor
    from fedmb.replay.stream_commit import StreamCommit
    from fedmb.replay.stream_ring_view import StreamRingView

NUM_LOOKS = 5  # at a block that fails its checksum: another core may see a commit before the rows it speaks of
LOOK_SECONDS = 0.001


class RingReader:
    """Reads one ring; a ring in the file's place needs another reader.

    Args:
        view: the ring.
        cursor: where released rows are told.
        stored: ledger of the last checkpoint; may name partitions of other sources.
        taken: ledger behind the rows taken since.
    """

    def __init__(self, view: StreamRingView, cursor: RingCursor, stored: Ledger, taken: Ledger) -> None:
        self.view = view
        self.skipped = 0
        """Rows that were overwritten before they could be taken, as the writer's policy allows."""
        self._cursor = cursor
        self._stored = array_of(stored, view.partitions)
        self._taken = array_of(taken, view.partitions)
        self._commit: StreamCommit | None = None
        self._release: Release | None = None
        self._next = self._scanned = self._checked = 0
        self._found: list[tuple[NDArray[np.int64], NDArray[np.void]]] = []

    @property
    def taken(self) -> Ledger:
        """The position behind the last row taken, by partition."""
        return ledger_of(self._taken, self.view.partitions)

    @property
    def stored(self) -> Ledger:
        """The positions of the last checkpoint."""
        return ledger_of(self._stored, self.view.partitions)

    @property
    def found(self) -> int:
        """Rows that the next `take` would give."""
        return sum(len(rows) for rows, _ in self._found)

    def is_full(self) -> bool:
        """Whether nothing more can come before a checkpoint releases rows that were taken."""
        commit = self._commit
        if commit is None or not commit.waits or self._scanned < commit.appended:
            return False
        kept_from = max(self._release.block, commit.oldest) if self._release else commit.oldest
        return commit.appended - kept_from >= self.view.capacity

    def unread(self, commit: StreamCommit) -> tuple[int, int, int]:
        """Rows that were not taken, rows that were released, and rows that were released or lie in front of a block."""
        release = self._cursor.last(commit.generation, len(self.view.partitions))
        row, block = (release.row, release.block) if release else (commit.oldest, commit.oldest)
        located = self._commit is not None and self._commit.generation == commit.generation
        following = max(row, commit.oldest, self._next if located else 0)
        return commit.appended - following, max(row, commit.oldest) - commit.dropped, max(block, commit.oldest)

    def seek(self, ledger: Ledger) -> None:
        """Go to a checkpoint's ledger, and release what it covers.

        Raises:
            RecordsGone: the ring no longer holds rows that it needs; nothing has changed.
        """
        wanted = array_of(ledger, self.view.partitions)
        commit = self.view.newest()
        if commit is not None:
            self._check_floor(commit, wanted)
        self._stored, self._taken = wanted, wanted.copy()
        self._commit = None  # located again
        self.refresh()

    def refresh(self) -> bool:
        """Look at the ring's newest commit; False while it has none that can be trusted.

        Raises:
            RecordsGone: the ring no longer holds rows that the model needs.
        """
        before, commit = self._commit, self.view.newest()
        while commit is not None and (before is None or before.generation != commit.generation):
            self._commit = None  # until it is known where in this generation the model stands
            self._check_floor(commit, self._taken)
            before, commit = (commit if self._locate(commit) else None), self.view.newest()
        if commit is None or before is None:
            self._commit = None
            return False
        if commit.oldest > self._next:
            self._check_floor(commit, self._taken)
            self.skipped += commit.oldest - self._next
            self._go_to(commit.oldest, commit.oldest)
        self._commit = commit
        return True

    def begin(self) -> None:
        """Forget what was found and not taken."""
        self._scanned = self._next
        self._found.clear()

    def gather(self, size: int) -> int:
        """Look for rows until `size` are found or there are no more at this moment; answers how many are found.

        Raises:
            RecordsGone: the ring no longer holds rows that the model needs.
            CorruptRing: rows cannot be trusted; those found before are kept.
        """
        while self.refresh():
            assert self._commit is not None
            while self._scanned < self._commit.appended and (missing := size - self.found) > 0:
                stop = min(self._commit.appended, self._scanned + missing)
                try:
                    if not self._is_whole(stop, self._commit):
                        break
                except CorruptRing:
                    if self._checked > self._scanned:
                        self._scan(self._checked)
                    raise
                self._scan(stop)
            else:
                break
        return self.found

    def take(self) -> tuple[dict[str, NDArray[Any]], dict[StreamPartition, Span]] | None:
        """Fresh columns of the rows found, and their span; None when they were overwritten in the meantime."""
        rows = np.concatenate([rows for rows, _ in self._found])
        marks = np.concatenate([marks for _, marks in self._found])
        columns = self.view.gather(rows)
        before, commit = self._commit, self.view.newest()
        # Looked at again behind the copy: under `drop_oldest` the writer may have been faster.
        if before is None or commit is None or commit.generation != before.generation or commit.oldest > rows[0]:
            return None
        found, last = last_of_each(marks["partition"])
        span = {}
        for index, place in zip(found.tolist(), behind(marks[last]).tolist(), strict=True):
            start = Position(*self._taken[index].tolist())
            span[self.view.partitions[index]] = Span(start, Position(*place))
            self._taken[index] = place
        self._next = self._scanned = int(rows[-1]) + 1
        self._found.clear()
        return columns, span

    def _scan(self, stop: int) -> None:
        """Add the rows up to `stop` that are not covered."""
        first, marks = self._scanned, self.view.marks(self._scanned, stop)
        fresh = np.flatnonzero(~is_covered(marks, self._taken))
        self._scanned = stop
        if len(fresh):
            self._found.append((first + fresh, marks if len(fresh) == len(marks) else marks[fresh]))
        elif not self._found:
            # A new ring that catches up with the model would fill up with rows that nobody will take.
            if self._release and self._release.row == self._next and (self._stored == self._taken).all():
                block = stop if stop == self._checked else self._release.block
                self._tell(self._release._replace(row=stop, block=block))
            self._next = stop

    def _locate(self, commit: StreamCommit) -> bool:
        """Stand at the first row that the stored ledger does not cover, and release those before it.

        False when rows were overwritten while they were looked at.
        """
        last = self._cursor.last(commit.generation, len(self.view.partitions))
        row = block = commit.oldest
        if last is not None and last.block > block and covers(self._stored, last.ledger).all():
            row = block = min(last.block, commit.appended)  # all before it was covered by less
        self._go_to(row, block)
        while block < commit.appended:
            if not self._is_whole(block + 1, commit):
                return False
            covered = is_covered(self.view.marks(block, self._checked), self._stored)
            row = self._checked if covered.all() else block + int(np.argmin(covered))
            if row < self._checked:
                break
            block = self._checked
        self._go_to(row, block)
        self._tell(Release(commit.generation, row, block, self._stored))
        return True

    def _tell(self, release: Release) -> None:
        self._release = release
        self._cursor.release(release)

    def _go_to(self, row: int, block: int) -> None:
        self._next = self._scanned = row
        self._checked = block
        self._found.clear()

    def _is_whole(self, stop: int, commit: StreamCommit) -> bool:
        """Whether the blocks of the rows up to `stop` have their checksums; False when they were overwritten."""
        looks = 0
        while self._checked < stop:
            end = self.view.block_end(self._checked)
            if end is not None:
                self._checked, looks = end, 0
                continue
            now = self.view.newest()
            if now is None or now.generation != commit.generation or now.oldest > self._checked:
                return False
            looks += 1
            if looks > NUM_LOOKS:
                raise CorruptRing(
                    f"{self.view.path} cannot be trusted: rows from {self._checked} on fail their checksum; move it "
                    "away and restart its writer, which reads them from the stream again"
                )
            time.sleep(LOOK_SECONDS)
        return True

    def _check_floor(self, commit: StreamCommit, ledger: NDArray[np.int64]) -> None:
        reach = covers(ledger, commit.floor)
        if reach.all():
            return
        index = int(np.argmin(reach))
        partition, here = self.view.partitions[index], Position(*ledger[index].tolist())
        raise RecordsGone(
            f"{self.view.path} holds rows of {partition} from {tuple(commit.floor[index].tolist())} on, and the model "
            f"stands at {tuple(here)}: they were overwritten, or the ring was begun later; go on from a newer "
            "checkpoint, or move the ring away and let its writer read the stream from there",
            topic=partition.topic,
            partition=partition.partition,
            offset=here.offset,
        )
