"""Mini-batches from a stream ring that another process fills, each with the span of exactly the rows it holds.

    take   rows behind the ledger, as they lie in the ring; those that the ledger covers are skipped
    seek   go to a checkpoint's ledger; the writer may overwrite what it covers

Reader and writer start in any order, and either may be killed and started again at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import CorruptRing, NotEnoughData, SettingsError
from fedmb.ledger import Ledger
from fedmb.replay.ring_cursor import RingCursor
from fedmb.replay.ring_layout import row_bytes, storable
from fedmb.replay.ring_reader import RingReader
from fedmb.replay.stream_places import ledger_of
from fedmb.replay.stream_ring_view import StreamRingView

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema
    from fedmb.batch.source import SourcePosition
    from fedmb.ledger import StreamPartition

SHORTEST_SECONDS = 0.0002  # between two looks at a silent ring: about what a small append takes
LONGEST_SECONDS = 0.02  # after some looks; costs less than a thousandth of a core


@dataclass(frozen=True, slots=True)
class RingSourceStatistics:
    """What a reader has done since it was made, and what its ring holds; a ring that is not there holds nothing."""

    rows: int
    """Rows given in mini-batches."""
    bytes: int
    """Bytes of their columns."""
    unread: int
    """Rows in the ring that were not taken; those that the ledger covers count until they are passed."""
    room: int
    """Rows that the writer may append without overwriting one that no stored model has learnt."""
    released: int
    """Rows of the ring that a stored model has learnt."""
    skipped: int
    """Rows overwritten before this reader could take them, as the writer's policy allows."""
    dropped: int
    """Rows that the writer has overwritten before they were released, since the ring was made."""


class RingSource:
    """A `BatchSource` over a stream ring; one for each ring, used by one thread.

    Batches depend on what lies in the ring, the position and the sizes alone while linger and patience are endless.
    Rows that were taken stay in the ring until `seek` is called with a position that covers them: a seek says that
    this position is part of a stored checkpoint. Nothing that seeks for other reasons, as `Prefetch` does, belongs
    between a ring and a run that must survive being killed. A round takes fewer rows than the ring holds; the ring
    that is full of them gives no more, and the round ends early.

    Args:
        path: the ring's file; need not exist yet.
        schema: columns of the rows.
        linger_seconds: a batch that has rows waits at most so long for more; what is there already is always taken.
        patience_seconds: how long the ring may give no row before `take` gives up waiting.
        clock: monotonic seconds.

    Raises:
        AlreadyOwned: another live reader has the ring.
        SettingsError: a time is negative.
        ShapeError: the ring has other columns.
        CorruptRing: the file is not a stream ring, or is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        *,
        linger_seconds: float = math.inf,
        patience_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for key, seconds in (("linger_seconds", linger_seconds), ("patience_seconds", patience_seconds)):
            if not seconds >= 0:
                raise SettingsError(f"{key} must be 0 or more, got {seconds}; math.inf waits without end", key=key)
        self._path = Path(path)
        self._schema = storable(schema, 1)
        self._row_bytes = row_bytes(self._schema)
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._waits_until = self._longest_silence = math.inf
        self._rows = self._skipped = 0
        self._stored = self._taken = Ledger()  # while no ring is attached
        self._reader: RingReader | None = None
        self._is_closed = False
        self._cursor = RingCursor(self._path)
        try:
            view = StreamRingView.opened(self._path, self._schema)
        except BaseException:
            self._cursor.close()
            raise
        if view is not None:
            view.close()

    @property
    def path(self) -> Path:
        """The ring's file."""
        return self._path

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: a stream has no end."""
        return math.inf

    def take(self, size: int) -> MiniBatch:
        """The next rows, at least one and at most `size`, in fresh arrays; blocks while there are none.

        Fewer than `size` come when the linger or the patience ran out, when the ring is full of rows that were taken
        and not stored, or when damage follows. Whatever is raised, the next `take` starts where this one did.

        Raises:
            NotEnoughData: the ring gave no row for as long as the patience lasts, or can give none.
            RecordsGone: the ring no longer holds rows that the model needs.
            CorruptRing: the next rows cannot be trusted.
            ValueError: `size` is not positive, or the source is closed.
        """
        if size < 1:
            raise ValueError(f"a mini-batch must have 1 row or more, got size={size}; raise the batch size")
        while True:
            reader = self._gathered(size)
            if (taken := reader.take()) is not None:
                break
        columns, span = taken
        num_rows = len(next(iter(columns.values())))
        self._rows += num_rows
        return MiniBatch(columns, span=span, origins={"stream": num_rows})

    def position(self) -> SourcePosition:
        """The ledger of the rows taken; a log source understands it too."""
        return {"ledger": (self._reader.taken if self._reader else self._taken).to_json()}

    def seek(self, position: SourcePosition) -> None:
        """Go to the position of a stored checkpoint, and let the writer overwrite what it covers.

        A ledger may name partitions of other sources, as a server's does; they are ignored. So is whose turn it is,
        which a log source's position says: the ring has an order already.

        Raises:
            ValueError: the position belongs to another kind of source, or the source is closed.
            RecordsGone: the ring no longer holds rows behind it.
        """
        ledger, turn = position.get("ledger", {}), position.get("turn", 0)
        if not (position.keys() <= {"ledger", "turn"} and isinstance(ledger, Mapping) and type(turn) is int):
            raise ValueError(
                f'a ring source\'s position is {{"ledger": {{...}}}}, got {str(position)[:200]}; seek the source that '
                "gave it"
            )
        found = Ledger.from_json(ledger)
        if (reader := self._attached()) is not None:
            reader.seek(found)
        else:
            self._stored = self._taken = found

    def limit_waiting(self, seconds: float, *, silence_seconds: float = math.inf) -> None:
        """Be less patient from now on than this source was made to be; inf lifts a limit.

        Args:
            seconds: no `take` waits for rows any longer than that from now on.
            silence_seconds: most time without a row that a `take` waits for.
        """
        self._waits_until, self._longest_silence = self._clock() + seconds, silence_seconds

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Nothing to do: a seek released what a stored model has learnt, and the daemon tells the log's monitors."""

    def lag(self) -> dict[StreamPartition, int]:
        """Records between the rows taken and the end of what the writer has read, by partition.

        Nothing lags while the ring has no row to take: records without rows behind the last one wait for the next.
        """
        reader = self._attached()
        if reader is None or (commit := reader.view.newest()) is None:
            return {}
        if reader.unread(commit)[0] == 0:
            return dict.fromkeys(reader.view.partitions, 0)
        ends, taken = ledger_of(commit.ledger, reader.view.partitions), reader.taken
        return {one: max(0, ends.position(one).offset - taken.position(one).offset) for one in reader.view.partitions}

    def statistics(self) -> RingSourceStatistics:
        """A snapshot of the counts."""
        reader = self._attached()
        if reader is None or (commit := reader.view.newest()) is None:
            return RingSourceStatistics(self._rows, self._rows * self._row_bytes, 0, 0, 0, self._skipped, 0)
        unread, released, kept_from = reader.unread(commit)
        return RingSourceStatistics(
            rows=self._rows,
            bytes=self._rows * self._row_bytes,
            unread=unread,
            room=reader.view.capacity - (commit.appended - kept_from),
            released=released,
            skipped=self._skipped + reader.skipped,
            dropped=commit.dropped,
        )

    def close(self) -> None:
        """Give up the ring; what was taken and not stored stays there. Closing twice is fine."""
        if not self._is_closed:
            self._detach()
            self._cursor.close()
        self._is_closed = True

    def _attached(self) -> RingReader | None:
        """The reader of the ring that lies there now; None while there is none."""
        if self._is_closed:
            raise ValueError("a source must be open to be used, this one was closed; make another")
        if self._reader is not None and self._reader.view.is_replaced():
            self._detach()
        if self._reader is None and (view := StreamRingView.opened(self._path, self._schema)) is not None:
            self._reader = RingReader(view, self._cursor, self._stored, self._taken)
        return self._reader

    def _detach(self) -> None:
        if self._reader is not None:
            self._stored, self._taken = self._reader.stored, self._reader.taken
            self._skipped += self._reader.skipped
            self._reader.view.close()
        self._reader = None

    def _gathered(self, size: int) -> RingReader:
        """A reader that has found rows to take; waits for them.

        Raises:
            NotEnoughData: there are none, and the patience ran out or the ring can give none.
        """
        if self._reader is not None:
            self._reader.begin()
        found, pause = 0, SHORTEST_SECONDS
        silent_since, closes_at = self._clock(), math.inf
        while True:
            reader = self._attached()
            before, found = found, self._found(reader, size)
            now = self._clock()
            if found > before:
                silent_since, pause = now, SHORTEST_SECONDS
                closes_at = min(closes_at, now + self._linger_seconds)
            patience = min(self._patience_seconds, self._longest_silence)
            deadline = min(silent_since + patience, closes_at, self._waits_until)
            is_full = reader is not None and reader.is_full()
            if found >= size or is_full or now >= deadline:
                break
            time.sleep(min(pause, deadline - now))
            pause = min(2 * pause, LONGEST_SECONDS)
        if reader is not None and found:
            return reader
        if is_full:
            raise NotEnoughData(
                f"{self._path} must give a row, it is full of rows that were taken since the last checkpoint; let a "
                "round take fewer, or make the ring larger"
            )
        raise NotEnoughData(
            f"{self._path} must give a row within {self._patience_seconds} s, "
            f"{'there is no ring' if reader is None else 'got none'}; start the daemon that fills it, or raise "
            "patience_seconds"
        )

    def _found(self, reader: RingReader | None, size: int) -> int:
        if reader is None:
            return 0
        try:
            return reader.gather(size)
        except CorruptRing:
            if not reader.found:
                raise
            return size  # the rows in front of the damage are given first
