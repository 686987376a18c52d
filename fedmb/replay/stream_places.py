"""Where rows lie in a stream, many at a time: marks, and ledgers as arrays `(partitions, 2)` of offset and row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedmb.errors import StaleUpdate
from fedmb.ledger import Ledger, Position
from fedmb.replay.stream_block import MARK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.ledger import StreamPartition

MAX_LEFT = (1 << 32) - 1  # what a mark has room for


def array_of(ledger: Ledger, partitions: Sequence[StreamPartition]) -> NDArray[np.int64]:
    """A ledger's positions of these partitions, `(partitions, 2)`."""
    return np.array([ledger.position(partition) for partition in partitions], np.int64)


def ledger_of(places: NDArray[np.int64], partitions: Sequence[StreamPartition]) -> Ledger:
    """The ledger that `array_of` was given, without partitions that stand at their beginning."""
    found = zip(partitions, places.tolist(), strict=True)
    return Ledger({partition: Position(*place) for partition, place in found if any(place)})


def covers(ledger: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where positions `(..., 2)` stand at or behind others."""
    ahead: NDArray[np.bool_] = (ledger[..., 0] > other[..., 0]) | (
        (ledger[..., 0] == other[..., 0]) & (ledger[..., 1] >= other[..., 1])
    )
    return ahead


class Places(NamedTuple):
    """Where each of some rows lies, four arrays of shape `(rows,)`."""

    partitions: NDArray[np.integer[Any]]
    """Index of the row's partition."""
    offsets: NDArray[np.integer[Any]]
    """Offset of its record."""
    rows: NDArray[np.integer[Any]]
    """Its number within the record."""
    left: NDArray[np.integer[Any]]
    """Rows of the record behind it."""

    def check(self, num_rows: int, num_partitions: int) -> None:
        """Refuse places that are not one for each row, or numbers that cannot be stored.

        Raises:
            ValueError: they are.
        """
        if any(len(place) != num_rows for place in self):
            raise ValueError(f"each of {num_rows} rows needs its place, got {list(map(len, self))}; give one for each")
        for name, numbers, most in (("partitions", self.partitions, num_partitions - 1), ("left", self.left, MAX_LEFT)):
            if numbers.min() < 0 or numbers.max() > most:
                raise ValueError(f"{name} must be 0 to {most}, got {numbers.min()} to {numbers.max()}; name real ones")

    def marks(self) -> NDArray[np.void]:
        """Marks of the rows, without their blocks' lengths and checksums."""
        marks = np.zeros(len(self.offsets), MARK)
        marks["partition"], marks["offset"], marks["row"], marks["left"] = self
        return marks


def behind(marks: NDArray[np.void]) -> NDArray[np.int64]:
    """The position behind each row, `(rows, 2)`: the next row of its record, or the next record."""
    places = np.empty((len(marks), 2), np.int64)
    is_last = marks["left"] == 0
    places[:, 0] = marks["offset"] + is_last
    places[:, 1] = np.where(is_last, 0, marks["row"] + np.int64(1))
    return places


def last_of_each(partitions: NDArray[np.integer[Any]]) -> tuple[NDArray[np.integer[Any]], NDArray[np.intp]]:
    """The partitions among those of some rows, at least one, and the index of each one's last row."""
    if (partitions == partitions[0]).all():
        return partitions[:1], np.array([len(partitions) - 1])
    found, index = np.unique(partitions[::-1], return_index=True)
    return found, len(partitions) - 1 - index


def is_covered(marks: NDArray[np.void], ledger: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows lie before a ledger's positions."""
    places, offsets = ledger[marks["partition"]], marks["offset"]
    covered: NDArray[np.bool_] = offsets < places[:, 0]
    covered |= (offsets == places[:, 0]) & (marks["row"] < places[:, 1])
    return covered


def advanced(ledger: NDArray[np.int64], places: Places, partitions: Sequence[StreamPartition]) -> NDArray[np.int64]:
    """The ledger behind rows, at least one, which in each partition must follow it and one another.

    A row follows the one before it in its record, or is the first of a later record and the one before was the last
    of its own.

    Raises:
        StaleUpdate: a row does not.
    """
    index, offsets, rows, left = places
    firsts, lasts = np.array([0]), np.array([-1])
    if (index != index[0]).any():
        index, offsets, rows, left = (place[np.argsort(index, kind="stable")] for place in places)
        firsts = np.flatnonzero(np.append(True, index[1:] != index[:-1]))
        lasts = np.append(firsts[1:] - 1, len(index) - 1)
    is_last = left == 0
    behind_offsets, behind_rows = offsets + is_last.astype(np.int64), np.where(is_last, 0, rows + np.int64(1))
    due_offsets, due_rows = np.empty_like(behind_offsets), np.empty_like(behind_rows)
    due_offsets[1:], due_rows[1:] = behind_offsets[:-1], behind_rows[:-1]
    due_offsets[firsts], due_rows[firsts] = ledger[index[firsts]].T
    gaps = offsets - due_offsets
    follows = rows == due_rows
    if gaps.any():
        follows &= (gaps == 0) | ((gaps > 0) & (rows == 0))
    if not follows.all():
        bad = int(np.argmin(follows))
        raise StaleUpdate(
            f"rows of {partitions[int(index[bad])]} must go on at {(int(due_offsets[bad]), int(due_rows[bad]))}, got "
            f"one at {(int(offsets[bad]), int(rows[bad]))}; seek the reader to the ring's ledger"
        )
    result = ledger.copy()
    result[index[lasts], 0], result[index[lasts], 1] = behind_offsets[lasts], behind_rows[lasts]
    return result
