"""Which records of which partitions were set aside: offsets, few bytes each, the newest of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.ledger import StreamPartition

KEPT = 1 << 16  # offsets of each partition: half a megabyte; at the default limit they span six million records


class RejectedOffsets:
    """Offsets of each partition in ascending order; the lowest are forgotten where there are too many.

    Args:
        keep: how many of each partition.
    """

    def __init__(self, keep: int = KEPT) -> None:
        self._keep = keep
        self._offsets: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._offsets.values()))

    def add(self, partition: StreamPartition | str, offset: int) -> None:
        """Remember an offset; one that is known is not kept twice."""
        offsets = self._offsets.setdefault(str(partition), array("q"))
        place = bisect_left(offsets, offset)
        if place == len(offsets) or offsets[place] != offset:
            offsets.insert(place, offset)
            if len(offsets) > self._keep:
                del offsets[0]

    def holds(self, partition: StreamPartition | str, offset: int) -> bool:
        """True when the offset was added and not forgotten."""
        return self.count(partition, offset, offset) > 0

    def count(self, partition: StreamPartition | str, first: int, last: int) -> int:
        """How many are from `first` to `last`, both included."""
        offsets = self._offsets.get(str(partition), array("q"))
        return max(0, bisect_right(offsets, last) - bisect_left(offsets, first))

    def ranges(self) -> dict[str, list[list[int]]]:
        """JSON form: by partition, the first and the last of each run of consecutive offsets."""
        found: dict[str, list[list[int]]] = {}
        for partition, offsets in sorted(self._offsets.items()):
            runs = found[partition] = []
            for offset in offsets:
                if runs and runs[-1][1] == offset - 1:
                    runs[-1][1] = offset
                else:
                    runs.append([offset, offset])
        return found
