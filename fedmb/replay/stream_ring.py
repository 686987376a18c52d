"""Rows on their way from a stream to a trainer in another process, each with its place in the stream.

    daemon  --append(rows, places)-->  ring file  --RingSource.take-->  trainer
            <------- room() --------  cursor file <--seek(stored)-----

Rows and the position behind them become durable in one commit: a killed writer's successor goes on at `ledger`. A row
is overwritten only after a stored model has learnt it, unless the policy allows to drop it, which is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from fedmb.batch.minibatch import check_columns
from fedmb.errors import CorruptRing, NotEnoughRoom, SettingsError, StaleUpdate
from fedmb.ledger import Ledger, Position
from fedmb.replay.ring_cursor import last_release
from fedmb.replay.ring_layout import row_bytes, storable
from fedmb.replay.stream_block import MAX_PARTITIONS, block_cuts, block_rows, file_rows
from fedmb.replay.stream_places import Places, advanced, array_of, behind, covers, last_of_each, ledger_of
from fedmb.replay.stream_ring_file import StreamRingFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.ledger import StreamPartition
    from fedmb.replay.stream_commit import StreamCommit

    Whole: TypeAlias = NDArray[np.integer[Any]]

OnFull: TypeAlias = Literal["wait", "drop_oldest"]
GIVEN_UP_SHARE = 16  # room is made for at least this part of the ring at once: each time costs a page on the disk


@dataclass(frozen=True, slots=True)
class StreamRingStatistics:
    """A stream ring at one moment, seen by its writer."""

    capacity: int
    """Rows it can hold."""
    rows: int
    """Rows ever appended, less those that were forgotten."""
    bytes: int
    """Bytes of their columns."""
    unread: int
    """Rows that are kept for the reader: no stored model has learnt them, as far as the reader has said."""
    room: int
    """Rows that fit without overwriting one of these."""
    released: int
    """Rows that the reader gave back."""
    dropped: int
    """Rows overwritten before they were given back; the reader may have taken some of them."""
    forgotten: int
    """Rows that power cuts or damage took back, to be read from the stream again."""
    num_bytes: int
    """Size of the file."""
    path: Path
    """The file."""


class StreamRing:
    """The writer of a stream ring; one for each file, used by one thread but for `statistics`.

    Args:
        path: the file; made when it does not exist, in a folder of a disk that holds it.
        schema: columns of every row.
        partitions: of the stream; rows name them by their index here.
        max_bytes: room on the disk that the file may take; or
        max_rows: rows that it holds. A round takes fewer rows than that, or it waits for room that it takes up itself.
        on_full: whether an unread row is waited for, or dropped and counted.
        begin: positions behind which the rows of a new ring begin. A reader that needs earlier ones is refused. None
            is the stream's beginning; a ring that has been made keeps its own.

    Raises:
        AlreadyOwned: another live writer has the file.
        SettingsError: a setting is out of range or differs from the file's, or the disk is full.
        CorruptRing: the file is not a stream ring, or is damaged.
        VersionMismatch: the file has another format version.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        partitions: Sequence[StreamPartition],
        *,
        max_bytes: int | None = None,
        max_rows: int | None = None,
        on_full: OnFull = "wait",
        begin: Mapping[StreamPartition, Position] | None = None,
    ) -> None:
        self.partitions = tuple(partitions)
        if not 0 < len(set(self.partitions)) == len(self.partitions) <= MAX_PARTITIONS:
            raise SettingsError(
                f"a stream ring needs 1 to {MAX_PARTITIONS} different partitions, got {len(self.partitions)}; name "
                "each of the topic's once",
                key="partitions",
            )
        if on_full not in get_args(OnFull):
            raise SettingsError(f"on_full must be wait or drop_oldest, got {on_full!r}; choose one", key="on_full")
        self.schema = storable(schema, 1)
        self._row_bytes = row_bytes(self.schema)
        self.capacity = file_rows(self._row_bytes, max_bytes, max_rows)
        self._longest = block_rows(self.capacity, self._row_bytes)
        self._waits = on_full == "wait"
        self._is_closed = False
        self._shapes: tuple[int, dict[str, tuple[np.dtype[Any], tuple[int, ...]]]] = (-1, {})
        begins = array_of(Ledger(begin), self.partitions)
        self._file = StreamRingFile(Path(path), self.schema, self.capacity, self.partitions, begins)
        # A reader learns from this which policy holds, and after a power cut that the ring can be trusted again.
        self._file.commit(self._file.last._replace(waits=self._waits))

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def ledger(self) -> Ledger:
        """The position behind the last row appended or passed over, by partition: where the stream is read on.

        Partitions that stand at their beginning are not named.
        """
        return ledger_of(self._file.last.ledger, self.partitions)

    def room(self) -> int:
        """Rows that may be appended now; under `drop_oldest` always all that the ring holds."""
        self._check_open()
        last = self._file.last
        return self.capacity - (last.appended - self._unneeded(last)[1]) if self._waits else self.capacity

    def append(self, columns: Columns, partitions: Whole, offsets: Whole, rows: Whole, left: Whole) -> None:
        """Keep rows behind the newest, and let the ledger stand behind them; a killed process keeps all or none.

        Of each partition, rows come in the stream's order and begin where the ledger stands, or at a later record.

        Args:
            columns: the rows, `(rows, ...)` each; copied.
            partitions: index of each row's partition, `(rows,)` as the following.
            offsets: offset of its record.
            rows: its number within the record.
            left: rows of the record behind it.

        Raises:
            ShapeError: columns do not follow the schema.
            StaleUpdate: rows of a partition do not follow the ledger or each other.
            NotEnoughRoom: there is no room for them; ask `room` before.
            ValueError: the ring is closed, or places and columns differ in length, or no place is so numbered.
        """
        self._check_open()
        count = self._checked_count(columns)
        if count == 0:
            return
        places = Places(partitions, offsets, rows, left)
        places.check(count, len(self.partitions))
        ledger, marks = advanced(self._file.last.ledger, places, self.partitions), places.marks()
        self._make_room(count)
        first = self._file.last.appended
        for slot, start, stop in block_cuts(first, count, self.capacity, self._longest):
            self._file.store(slot, first + start, columns, marks[start:stop], start)
        self._file.commit(self._file.last._replace(appended=first + count, ledger=ledger))

    def pass_over(self, positions: Mapping[StreamPartition, Position]) -> None:
        """Let the ledger stand at these positions: what lies before them holds no row to keep.

        Raises:
            StaleUpdate: a position lies before the ledger's.
            ValueError: a partition is not the ring's, or the ring is closed.
        """
        self._check_open()
        ledger = self._file.last.ledger.copy()
        for partition, position in positions.items():
            index = self.partitions.index(partition)
            if position < (here := Position(*ledger[index].tolist())):
                raise StaleUpdate(
                    f"{partition} can be passed over from the ring's position {tuple(here)} on, got "
                    f"{tuple(position)}; seek the reader to the ring's ledger"
                )
            ledger[index] = position
        self._file.commit(self._file.last._replace(ledger=ledger))

    def flush(self) -> None:
        """Make rows and ledger survive a power cut; blocks on the disk."""
        self._check_open()
        self._file.flush()

    def close(self) -> None:
        """Give up the file; closing twice is fine, any other use afterwards is an error."""
        if not self._is_closed:
            self._file.close()
        self._is_closed = True

    def statistics(self) -> StreamRingStatistics:
        """A frozen snapshot; from any thread."""
        self._check_open()
        last = self._file.last
        released, block = self._unneeded(last)
        return StreamRingStatistics(
            capacity=self.capacity,
            rows=last.appended,
            bytes=last.appended * self._row_bytes,
            unread=last.appended - released,
            room=self.capacity - (last.appended - block),
            released=released - last.dropped,
            dropped=last.dropped,
            forgotten=last.forgotten,
            num_bytes=self._file.layout.size,
            path=self.path,
        )

    def _unneeded(self, last: StreamCommit) -> tuple[int, int]:
        """Up to which row the reader needs none, and the first row of the block that holds it."""
        release = last_release(self.path, last.generation, len(self.partitions))
        if release is None or release.row <= last.oldest:
            return last.oldest, last.oldest
        return min(release.row, last.appended), max(last.oldest, min(release.block, last.appended))

    def _make_room(self, count: int) -> None:
        """Give up what `count` rows will overwrite, before the first of them is stored."""
        last = self._file.last
        needed = last.appended + count - self.capacity
        if needed <= last.oldest <= self._file.durable.oldest or needed <= 0:
            return
        if needed > last.oldest:
            self._give_up(needed)
            last = self._file.last
        if self._file.durable.oldest < last.oldest:
            self._file.commit_durably(self._file.durable._replace(oldest=last.oldest, floor=last.floor))

    def _give_up(self, needed: int) -> None:
        last = self._file.last
        released, block = self._unneeded(last)
        limit = block if self._waits else last.appended
        if needed > limit:
            raise NotEnoughRoom(
                f"{self.path} has room for {self.capacity - last.appended + limit} rows, got "
                f"{needed + self.capacity - last.appended}; append what room() says, or make the ring larger"
            )
        target = min(limit, max(needed, last.oldest + self.capacity // GIVEN_UP_SHARE))
        marks = self._kept_marks(last.oldest, min(last.appended, target + self._longest))
        starts = last.oldest + np.flatnonzero(marks["length"])
        later = starts[np.searchsorted(starts, target) :]
        oldest = int(later[0]) if len(later) else last.oldest + len(marks)
        read = marks[: max(0, min(released, oldest) - last.oldest)]
        dropped = max(0, oldest - max(released, last.oldest))
        floor = last.floor.copy()
        if len(read):
            found, index = last_of_each(read["partition"])
            if found.max() >= len(self.partitions) or not covers(last.ledger[found], behind(read[index])).all():
                raise CorruptRing(
                    f"{self.path} cannot be trusted: rows {last.oldest} to {oldest} lie in no place of the stream; "
                    "move it away, and the stream is read again from where a new ring begins"
                )
            floor[found] = behind(read[index])
        self._file.commit(last._replace(oldest=oldest, floor=floor, dropped=last.dropped + dropped))

    def _kept_marks(self, first: int, stop: int) -> NDArray[np.void]:
        slots = np.arange(first, stop) % self.capacity
        return self._file.marks.take(slots)

    def _checked_count(self, columns: Columns) -> int:
        count = len(next(iter(columns.values()), ()))
        if {name: (array.dtype, array.shape) for name, array in columns.items()} != self._expected(count):
            count = check_columns(columns, self.schema)
        return count

    def _expected(self, count: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """What `count` rows look like; kept, since `check_columns` takes as long as the copying."""
        if self._shapes[0] != count:
            targets = self._file.columns
            self._shapes = count, {name: (array.dtype, (count, *array.shape[1:])) for name, array in targets.items()}
        return self._shapes[1]

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("a ring must be open to be used, this one was closed; make another")
