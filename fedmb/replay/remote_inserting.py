"""A client's inserts: numbered, sent ahead of their acknowledgements, and sent again over a new connection.

The service keeps an insert once, however often it is sent, since each carries its writer's name and a number. Rows
given one by one are collected, and travel as a block when there are enough of them or the oldest has waited.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import check_columns
from fedmb.errors import DecodeError, RateLimited
from fedmb.replay.given_rows import checked_priorities
from fedmb.replay.ring_layout import rounded
from fedmb.replay.row_block import RowBlock
from fedmb.replay.row_store import RowStore
from fedmb.replay.shared_arena import Wanted
from fedmb.replay.wire_format import PAD, PRIORITIZED, SHARED, Kind, frame, frames, json_of
from fedmb.replay.wire_refusal import raised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns
    from fedmb.replay.remote_connection import Connection
    from fedmb.replay.remote_stream import Stream
    from fedmb.replay.wire_format import Frame

WINDOW = 16  # inserts that are not acknowledged; the service remembers twice as many
BLOCK_BYTES = 1 << 20  # of rows in one insert, unless a single row is larger


@dataclass(slots=True)
class Insert:
    """Rows on their way."""

    sequence: int
    rows: int
    columns: Columns
    priorities: NDArray[np.float64] | None
    store: RowStore | None
    """Where rows that were given one by one lie; nobody waits for the answer."""
    sent: Stream | None = field(default=None, repr=False)
    """The stream that it was sent on last."""
    is_abandoned: bool = False
    """Its caller was told that it failed: it may be kept, and is not sent again."""
    ids: NDArray[np.int64] | None = None
    error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        """Kept or refused."""
        return self.ids is not None or self.error is not None


class Inserter:
    """Inserts through a stream that it opens when it is first used. For any number of threads, one at a time.

    Args:
        connection: to the service.
        block_rows: rows given one by one that travel together.
        linger_seconds: how long such a row waits for others; looked at when the next one is given.
    """

    def __init__(self, connection: Connection, *, block_rows: int, linger_seconds: float) -> None:
        self._connection, self._linger = connection, linger_seconds
        self._form = RowBlock(connection.schema)
        most = min(BLOCK_BYTES, connection.max_message_bytes // 2)
        self._part_rows = max(1, most // (self._form.row_bytes + 8))
        self._block_rows = min(block_rows, self._part_rows)
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._free: deque[int] = deque()
        self._slots: dict[int, int] = {}
        self._sequence = 0
        self._under_way: list[Insert] = []
        self._refused: list[Exception] = []
        self._collected: RowStore | None = None
        self._spare: list[RowStore] = []
        self._num_collected, self._since = 0, math.inf

    def append(self, columns: Columns, priorities: NDArray[Any] | None, timeout: float | None) -> NDArray[np.int64]:
        """As `RemoteTable.append` says."""
        count = check_columns(columns, self._form.schema)
        given = None if priorities is None else checked_priorities(priorities, count)
        deadline = _deadline(timeout)
        inserts: list[Insert] = []
        with self._lock:
            self._send_collected(deadline)
            try:
                for start in range(0, count, self._part_rows):
                    part = slice(start, start + self._part_rows)
                    rows = {name: one[part] for name, one in columns.items()}
                    self._submit(rows, None if given is None else given[part], deadline, inserts)
                while not all(one.is_answered for one in inserts):
                    self._receive(deadline)
            except BaseException:
                for one in inserts:
                    one.is_abandoned = True
                raise
        for one in inserts:
            if one.error:
                raise one.error
        return np.concatenate([one.ids for one in inserts if one.ids is not None]) if inserts else np.empty(0, np.int64)

    def append_row(self, row: Sequence[Any]) -> None:
        """As `RemoteTable.append_row` says."""
        with self._lock:
            store = self._collected or self._fresh()
            store.write_row(self._num_collected, row)
            self._num_collected += 1
            now = time.monotonic()
            self._since = min(self._since, now)
            if self._num_collected == self._block_rows or now - self._since >= self._linger:
                self._send_collected(math.inf)
                self._raise_refused()

    def flush(self, timeout: float | None) -> None:
        """As `RemoteTable.flush` says."""
        deadline = _deadline(timeout)
        with self._lock:
            self._send_collected(deadline)
            while not all(one.is_abandoned for one in self._under_way):
                self._receive(deadline)
            self._raise_refused()

    def close(self) -> None:
        """End the stream; rows that were not acknowledged may be kept or not."""
        if (stream := self._stream) is not None:
            stream.close()
        with self._lock:
            self._forget()

    def _fresh(self) -> RowStore:
        # Making a store takes as long as a thousand rows.
        spare = self._spare.pop() if self._spare else None
        self._collected = spare or RowStore.in_memory(self._form.schema, self._block_rows, layout="rows")
        self._num_collected, self._since = 0, math.inf
        return self._collected

    def _send_collected(self, deadline: float) -> None:
        store, count = self._collected, self._num_collected
        if store is None or not count:
            return
        self._collected, self._num_collected = None, 0
        rows = {name: store.column(name)[:count] for name in self._form.schema}
        self._submit(rows, None, deadline, [], store)

    def _submit(
        self,
        columns: Columns,
        priorities: NDArray[np.float64] | None,
        deadline: float,
        inserts: list[Insert],
        store: RowStore | None = None,
    ) -> None:
        """Put rows on their way, once the window has room, and among `inserts`."""
        while len(self._under_way) >= WINDOW:
            self._receive(deadline)
        self._sequence += 1
        one = Insert(self._sequence, len(next(iter(columns.values()))), columns, priorities, store)
        self._under_way.append(one)
        inserts.append(one)
        self._connection.retry(self._push, self._forget, deadline)

    def _receive(self, deadline: float) -> None:
        """Take one message of answers."""
        self._connection.retry(lambda: self._await(deadline), self._forget, deadline)

    def _await(self, deadline: float) -> None:
        stream = self._push()
        try:
            message = stream.receive(None if deadline == math.inf else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise RateLimited(
                "rows must be kept before the deadline, the service has not said so: its limiter lets none in, or it "
                "is slow, and they may still be kept; let learners sample more, or raise the timeout",
                side="insert",
            ) from None
        for answer in frames(message):
            self._answered(answer)
        for one in self._under_way:
            if one.is_answered and one.store is not None:
                self._refused += [one.error] if one.error else []
                self._spare.append(one.store)
        self._under_way = [one for one in self._under_way if not one.is_answered]

    def _answered(self, one: Frame) -> None:
        insert = next((other for other in self._under_way if other.sequence == one.sequence), None)
        if one.kind is Kind.REFUSED and json_of(one.payload).get("ended"):
            self._forget()
            raise raised(json_of(one.payload))
        if insert is None or one.kind not in {Kind.INSERTED, Kind.REFUSED}:
            raise DecodeError(
                f"a write stream must answer inserts, got {one.kind.name} {one.sequence}; use one version"
            )
        if one.kind is Kind.INSERTED:
            insert.ids = np.frombuffer(bytes(one.payload), np.int64, insert.rows)
        else:
            insert.error = raised(json_of(one.payload))
        self._free.append(self._slots.pop(insert.sequence, -1))

    def _push(self) -> Stream:
        """Send what was not sent on this stream, which is opened where there is none."""
        stream = self._stream
        if stream is None:
            slot_bytes = rounded(self._part_rows * self._form.row_bytes, PAD) + 8 * self._part_rows
            stream = self._stream = self._connection.open("Write", Wanted(WINDOW, slot_bytes))
            self._free, self._slots = deque(range(WINDOW)), {}
            self._under_way = [one for one in self._under_way if not one.is_abandoned]
            self._connection.check_open()
        for one in self._under_way:
            if one.sent is not stream:
                stream.send(self._framed(one, stream))
                one.sent = stream
        return stream

    def _framed(self, one: Insert, stream: Stream) -> bytes:
        """An insert as a frame; beside shared memory its rows are put into a slot."""
        flags = 0 if one.priorities is None else PRIORITIZED
        size = one.rows * self._form.row_bytes
        at = rounded(size, PAD)
        if stream.arena is None:
            parts: list[Any] = [self._form.block(one.columns, one.rows)]
            if one.priorities is not None:
                parts += [bytes(at - size), one.priorities]
            return frame(Kind.INSERT, *parts, rows=one.rows, sequence=one.sequence, flags=flags)
        slot = self._slots[one.sequence] = self._free.popleft()
        memory, start = stream.arena.memory, stream.arena.offset(slot, at)
        self._form.filled(one.columns, one.rows, self._form.over(memory, one.rows, start))
        if one.priorities is not None:
            np.ndarray((one.rows,), np.float64, memory, start + at)[...] = one.priorities
        place = slot.to_bytes(4, "little")
        return frame(Kind.INSERT, place, rows=one.rows, sequence=one.sequence, flags=flags | SHARED)

    def _raise_refused(self) -> None:
        """The first refusal of rows that were given one by one."""
        refused, self._refused = self._refused, []
        if refused:
            raise refused[0]

    def _forget(self) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.close()


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout
