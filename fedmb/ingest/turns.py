"""Records of several partitions in one repeatable order: the partitions take turns.

Which partition's records arrive first is chance, so the order of arrival cannot be repeated. Here every partition
gives one record in its turn, and one that has none is passed over. Over records that lie in the log already, the
order is then a function of the offsets and of whose turn it is, whatever the polls gave together; while a producer
is still writing, a passed turn is chance, as in any stream.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.ingest.log import LogReader, Record
    from fedmb.ledger import StreamPartition


MOST_AHEAD = 64  # records given at once beyond those wanted: a call for each record would cost as much as decoding it


class Turns:
    """Bounded queues between a reader and whoever takes its records one by one.

    Args:
        reader: shares a poll's `max_records` between its partitions.
    """

    def __init__(self, reader: LogReader) -> None:
        self.partitions = tuple(reader.partitions)
        self.turn = 0
        """Index of the partition that gives the next record."""
        self._reader = reader
        self._queues: dict[StreamPartition, deque[Record]] = {partition: deque() for partition in self.partitions}
        self._in_order = list(self._queues.values())
        self._silent: set[StreamPartition] = set()

    def __len__(self) -> int:
        return sum(map(len, self._in_order))

    def seek(self, offsets: Mapping[StreamPartition, int], turn: int) -> None:
        """Drop what is queued, and go on at these offsets with this turn."""
        for partition, queue in self._queues.items():
            queue.clear()
            self._reader.seek(partition, offsets[partition])
        self._silent.clear()
        self.turn = turn

    def poll(self, timeout_seconds: float, share: int) -> None:
        """Queue up to `share` further records of each partition; waits only while no partition has any.

        Raises:
            CorruptLog: the reader met damage.
            RecordsGone: the log no longer holds the next record.
            AccessDenied: a broker refuses the reader.
        """
        queues = self._queues
        for record in self._reader.poll(timeout_seconds, share * len(self.partitions)):
            # A view is valid until the next poll, and the queue outlives it.
            kept = record if type(record.value) is bytes else record._replace(value=bytes(record.value))
            queues[record.partition].append(kept)
        self._silent = {partition for partition, queue in queues.items() if not queue}

    def take(self, wanted: int, share: int) -> list[Record]:
        """The next records in the order of turns: `wanted`, and more that every queue has ready; fewer at a dry moment.

        Args:
            wanted: records to fetch for, where they are not queued.
            share: records of each partition to fetch at most when a queue runs empty.

        Raises:
            CorruptLog, RecordsGone, AccessDenied: as `poll`; records found before it are given first.
        """
        found: list[Record] = []
        count = len(self._in_order)
        while len(found) < wanted:
            rounds = min(*map(len, self._in_order), max(wanted - len(found), MOST_AHEAD) // count)
            if rounds:  # whole rounds at once: a record at a time costs more than fetching it
                woven: list[Record] = [None] * (rounds * count)  # type: ignore[list-item]  # every place is filled below
                for step in range(count):
                    pop = self._in_order[(self.turn + step) % count].popleft
                    woven[step::count] = [pop() for _ in range(rounds)]
                found += woven
                continue
            try:
                record = self._next(share)
            except Exception:
                if found:  # the reader raises it again when nothing is left in front of it
                    return found
                raise
            if record is None:
                break
            found.append(record)
        return found

    def _next(self, share: int) -> Record | None:
        """The record whose turn it is, None when there is none at this moment."""
        for step in range(len(self.partitions)):
            index = (self.turn + step) % len(self.partitions)
            partition, queue = self.partitions[index], self._in_order[index]
            # A partition slower than the others would let their queues grow with every look at it.
            if not queue and partition not in self._silent and len(self) < 2 * share * len(self.partitions):
                self.poll(0.0, share)
            if queue:
                self.turn = (index + 1) % len(self.partitions)
                return queue.popleft()
        return None
