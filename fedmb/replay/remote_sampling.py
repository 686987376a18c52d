"""A client's sampling: batches are asked for before they are needed, and lie ready when they are.

Of each size that is drawn, `depth` batches are on their way or ready; every one that is taken makes room for another,
which is asked for once half of the room is free, so that several travel together. Beside shared memory a batch is read
where the service put it: its slot is free again when the last array of it is gone, and a caller who holds on to
batches gets copies.
"""

from __future__ import annotations

import functools
import math
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import DecodeError, RateLimited
from fedmb.replay.sample import Sample
from fedmb.replay.shared_arena import Wanted
from fedmb.replay.wire_batch import BatchForm
from fedmb.replay.wire_format import Kind, frame, frames, json_of
from fedmb.replay.wire_refusal import raised

if TYPE_CHECKING:
    from fedmb.replay.remote_connection import Connection
    from fedmb.replay.remote_stream import Stream
    from fedmb.replay.shared_arena import Arena
    from fedmb.replay.wire_format import Frame

MOST_SHARED = 256 << 20  # bytes of memory that one client shares for sampling
LEAST_ROWS = 256  # that a slot holds, for clients whose first batch is smaller than the others
MOST_SPARE = 1 << 20  # bytes of a slot for that
MOST_SIZES = 4  # of which batches are held ready, for callers whose batches change their size all the time
_LEAST_SLOTS = 3  # one that is read, one that is filled, one on its way


class Puller:
    """Draws through a stream that it opens when it is first used. For any number of threads, one at a time.

    Args:
        connection: to the service.
        depth: batches of a size that are on their way or ready, 1 or more.
    """

    def __init__(self, connection: Connection, depth: int) -> None:
        self._connection, self._depth = connection, depth
        self._form = BatchForm(connection.drawn_schema)
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._slots: Slots | None = None
        self._ready: dict[int, deque[Sample]] = {}
        self._asked: dict[int, int] = {}
        self._pulls = self._excused = 0
        self.table_rows = 0
        """Rows in the table when it gave the newest batch."""

    def sample(self, size: int, timeout: float | None) -> Sample:
        """As `RemoteTable.sample` says."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with self._lock:
            ready = self._ready_of(size)
            self._connection.retry(lambda: self._fetch(size, ready, deadline), self._forget, deadline)
            return ready.popleft()

    def close(self) -> None:
        """End the stream; whoever waits for a batch gets `Unreachable`."""
        if (stream := self._stream) is not None:
            stream.close()
        with self._lock:
            self._forget()
            self._ready.clear()

    def _ready_of(self, size: int) -> deque[Sample]:
        """Batches of this size that are ready; those of sizes that were not asked for lately are dropped."""
        ready = self._ready.pop(size, None)
        self._ready[size] = ready = deque() if ready is None else ready
        while len(self._ready) > MOST_SIZES:
            self._ready.pop(next(iter(self._ready)))
        return ready

    def _fetch(self, size: int, ready: deque[Sample], deadline: float) -> None:
        """Have a batch of this size ready, and others on their way."""
        self._ask(size, len(ready) - 1)
        while not ready:
            assert self._stream is not None, "opened by whoever asks"
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                message = self._stream.receive(left)
            except TimeoutError:
                raise RateLimited(
                    f"a batch of {size} rows must come before the deadline, none did: the service's limiter lets none "
                    "out, or it is slow; insert more, or raise the timeout",
                    side="sample",
                ) from None
            self._take(message)
            self._ask(size, len(ready) - 1)

    def _ask(self, size: int, in_hand: int) -> None:
        """Ask for what is missing, once that is half of the depth."""
        stream = self._stream or self._opened(size)
        missing = self._depth - max(in_hand, 0) - self._asked.get(size, 0)
        if missing < max(1, self._depth // 2):
            return
        slots = b""
        if self._slots and self._slots.fits(self._form.parts(size).stop):  # others come through the socket
            offered = self._slots.offer(missing)
            missing, slots = len(offered), np.array(offered, np.uint32).tobytes()
            if not missing:
                return
        self._asked[size] = self._asked.get(size, 0) + missing
        self._pulls += 1
        stream.send(frame(Kind.PULL, slots, rows=size, extra=missing, sequence=self._pulls))

    def _take(self, message: bytes | bytearray) -> None:
        """Sort what has come."""
        error: Exception | None = None
        # A copy that can be written to, like any other sample; of rows in shared memory there is but a header.
        for one in frames(bytearray(message)):
            if one.kind is Kind.BATCH:
                self._asked[one.rows] -= 1
                sample, ready = self._sample(one), self._ready.get(one.rows)
                if ready is not None:  # or its size was dropped
                    ready.append(sample)
                self.table_rows = one.extra
            elif one.kind is Kind.REFUSED:
                error = error or self._refused(one)
            else:
                raise DecodeError(f"a sample stream must bring batches, got {one.kind.name}; use one version")
        if error:
            raise error

    def _sample(self, one: Frame) -> Sample:
        if self._slots is None or len(one.payload):
            return self._form.sample(one.payload, 0, one.rows, one.flags)[0]
        return self._slots.sample(one, self._form)

    def _refused(self, one: Frame) -> Exception | None:
        """The error to raise; None for one that was raised already, for an earlier request."""
        content = json_of(one.payload)
        if content.get("ended"):
            self._forget()
            return raised(content)
        self._asked[one.rows] -= int(content["batches"])
        if self._slots:
            self._slots.returned(content["slots"])
        if one.sequence <= self._excused:
            return None
        self._excused = self._pulls  # the others that are on their way will be refused for the same reason
        return raised(content)

    def _opened(self, size: int) -> Stream:
        slot_bytes = max(self._form.parts(size).stop, min(self._form.parts(LEAST_ROWS).stop, MOST_SPARE))
        num_slots = max(_LEAST_SLOTS, min(2 * self._depth + 2, MOST_SHARED // slot_bytes))
        stream = self._connection.open("Sample", Wanted(num_slots, slot_bytes))
        self._stream, self._slots = stream, Slots(stream.arena, max(1, self._depth // 2)) if stream.arena else None
        self._asked.clear()
        self._connection.check_open()
        return stream

    def _forget(self) -> None:
        """Drop the stream with what it still owes; batches that are ready stay."""
        stream, self._stream, self._slots = self._stream, None, None
        self._asked.clear()
        if stream:
            stream.close()


class Slots:
    """Slots of shared memory, and which of them are free: not on offer, and not read by anybody.

    Args:
        arena: the memory.
        spare: how many slots are kept from those who hold on to batches.
    """

    def __init__(self, arena: Arena, spare: int) -> None:
        self._arena = arena
        self._spare = min(spare, arena.num_slots - 1)
        # Only appended to and popped from: a batch may go in any thread and at any time, also inside this class.
        self._free = deque(range(arena.num_slots))
        self._lent: dict[int, object] = {}

    def fits(self, num_bytes: int) -> bool:
        """Whether a batch fits into a slot."""
        return num_bytes <= self._arena.slot_bytes

    def offer(self, most: int) -> list[int]:
        """At most so many free slots, which are not free any more."""
        return [self._free.popleft() for _ in range(min(most, len(self._free)))]

    def returned(self, slots: list[int]) -> None:
        """Slots that were on offer are free again."""
        self._free.extend(slots)

    def sample(self, one: Frame, form: BatchForm) -> Sample:
        """The batch that a frame tells of, whose slot is free again when nothing refers to its rows any more."""
        slot = one.sequence
        start = self._arena.offset(slot, form.parts(one.rows, one.flags).stop)
        found, block = form.sample(self._arena.memory, start, one.rows, one.flags)
        columns = found.columns
        if len(self._lent) + self._spare >= self._arena.num_slots:
            columns = form.rows.columns(block.copy())
            self._free.append(slot)
        else:
            self._lent[slot] = weakref.ref(block, functools.partial(_gone, self._lent, self._free, slot))
        # Small, and not tied to the slot: a caller may keep ids long after the rows.
        weights = None if found.weights is None else found.weights.copy()
        probabilities = None if found.probabilities is None else found.probabilities.copy()
        return Sample(columns, found.ids.copy(), weights, probabilities)


def _gone(lent: dict[int, object], free: deque[int], slot: int, _reference: object) -> None:
    lent.pop(slot, None)
    free.append(slot)
