"""Records out of a log into something that keeps rows, each once, by one thread that is never further ahead than room.

    seek to the sink's own ledger
    until told to stop:
        runs    = rows from the assembler, as many as there is room, until enough or lingered
        dead letters durable;  sink.append(runs);  sink.pass_over(what was set aside behind them)
        now and then: sink.flush();  reader.acknowledge(the sink's ledger)

The sink makes rows and the position behind them durable together, so whoever is killed when, the next pump starts
exactly behind the last row kept. A log that cannot be reached is waited for; damage, gaps and refusals end the pump
after everything in front of them is durable.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedmb.errors import FedmbError, SettingsError, Unreachable
from fedmb.ingest.assembler import Assembler
from fedmb.ingest.pump_tally import CountedLetters, PumpTally
from fedmb.ledger import Ledger, Position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedmb.ingest.assembler import Run
    from fedmb.ingest.codec import Codec
    from fedmb.ingest.dead_letter import DeadLetters
    from fedmb.ingest.log import LogReader
    from fedmb.ingest.producer import StopEvent
    from fedmb.ingest.pump_tally import PumpStatistics
    from fedmb.ingest.row_sink import RowSink
    from fedmb.ledger import StreamPartition

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # longest single wait inside a reader; a stop is seen within it
ROOM_SECONDS = 0.02  # between two looks at a sink without room: a step of a small model takes about that long
RETRY_SECONDS = 0.5  # between two tries to reach a log that did not answer


class Pump:
    """Moves records of some partitions into a sink; one thread calls `run`, any may ask for `statistics`.

    Args:
        reader: of the partitions, in the order of the sink's; not closed.
        codecs: all with one schema; the first decodes records whose headers name none.
        sink: where rows go; the pump starts at its ledger.
        dead_letters: where undecodable records go, before the ledger passes them; not closed.
        commit_rows: rows that are handed to the sink at once, at most.
        linger_seconds: how long rows wait for more of them.
        flush_seconds: time between two flushes of the sink; what a power cut may cost is read again.
        start: where a partition begins that the sink has no row of: at its oldest record, or behind its newest.
        note: told to the reader's lag monitors.
        clock: monotonic seconds.

    Raises:
        SettingsError: a number is not positive, or the codecs do not go together.
    """

    def __init__(
        self,
        reader: LogReader,
        codecs: Sequence[Codec],
        sink: RowSink,
        *,
        dead_letters: DeadLetters,
        commit_rows: int = 4096,
        linger_seconds: float = 0.02,
        flush_seconds: float = 1.0,
        start: Literal["oldest", "newest"] = "oldest",
        note: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for key, number in (("commit_rows", commit_rows), ("flush_seconds", flush_seconds)):
            if not number > 0:
                raise SettingsError(f"{key} must be above 0, got {number}; leave it at its default", key=key)
        if not 0 <= linger_seconds < math.inf:
            raise SettingsError(
                f"linger_seconds must be 0 or more and end, got {linger_seconds}; 0 hands rows over as they come",
                key="linger_seconds",
            )
        self._reader = reader
        self._sink = sink
        self._letters = CountedLetters(dead_letters)
        self._assembler = Assembler(reader, codecs, self._letters)
        self._tally = PumpTally(reader, self._assembler, self._letters, clock)
        self._commit_rows = commit_rows
        self._linger_seconds = linger_seconds
        self._flush_seconds = flush_seconds
        self._start: Literal["oldest", "newest"] = start
        self._note = note
        self._clock = clock
        self._flushed_at = clock()
        self._is_dirty = False
        self._keeping = threading.Lock()  # held while the sink is written to, never while the log is waited for
        self._is_given_up = False

    def run(self, stop: StopEvent) -> None:
        """Move records until `stop` is set; then, and whatever is raised, everything kept is durable.

        Raises:
            CorruptLog: the next record is damaged.
            RecordsGone: the log no longer holds the next record.
            AccessDenied: a broker refuses the reader.
            TooManyRejected: more records were set aside than a stream in order has.
            FedmbError: what the sink or the dead letters met, such as a full disk.
        """
        try:
            self._begin(stop)
            while not stop.is_set():
                self._move(stop)
        except BaseException:
            try:
                self._flush()
            except (FedmbError, OSError) as error:  # the first error says why; this one says what it cost
                logger.warning("sink not flushed error=%s", error)
            raise
        self._flush()

    def give_up(self, timeout_seconds: float) -> bool:
        """Make durable what is kept, from another thread, while `run` hangs in the log: it keeps nothing from then on.

        False when it does not hang there but in the sink, which is left alone.
        """
        if not self._keeping.acquire(timeout=timeout_seconds):
            return False
        try:
            self._is_given_up = True
            self._sink.flush()
        finally:
            self._keeping.release()
        return True

    def statistics(self) -> PumpStatistics:
        """A snapshot of the counts; from any thread."""
        return self._tally.statistics()

    def trouble(self, bound_seconds: float) -> str:
        """Why records have not moved for longer than the bound, empty when all is well; from any thread.

        A sink without room is no trouble: whoever reads it decides how fast records move.
        """
        return self._tally.trouble(bound_seconds)

    def stuck(self, bound_seconds: float) -> str:
        """That the pump's thread has not come back from a call for longer than the bound; empty when it has."""
        return self._tally.stuck(bound_seconds)

    def _begin(self, stop: StopEvent) -> None:
        """Seek to the sink's ledger; partitions that it has nothing of begin where `start` says."""
        positions = self._positions()
        fresh = [partition for partition, position in positions.items() if position == Position(0)]
        while fresh and not stop.is_set():
            try:
                edge = self._reader.begin_offsets() if self._start == "oldest" else self._reader.end_offsets()
            except Unreachable as error:
                self._tally.unreached(error)
                stop.wait(RETRY_SECONDS)
                continue
            positions |= {partition: Position(edge[partition]) for partition in fresh}
            break
        self._seek(positions)
        # Written down before the first row: a process killed in between would begin behind a newer newest.
        self._commit([])
        logger.info("pump started positions=%s", Ledger(positions).to_json())

    def _move(self, stop: StopEvent) -> None:
        """Hand over one lot of rows, or wait for records or room."""
        self._tally.beat()
        room = self._sink.room()
        if room <= 0:
            self._tally.stall()
            stop.wait(ROOM_SECONDS)
        else:
            self._tally.go_on()
            self._move_some(min(room, self._commit_rows), stop)
        if self._clock() - self._flushed_at >= self._flush_seconds:
            self._flush()
            self._tally.look(self._sink.ledger)

    def _move_some(self, limit: int, stop: StopEvent) -> None:
        """Hand over up to `limit` rows, and what can be of them before an error."""
        runs: list[Run] = []
        error: FedmbError | None = None
        try:
            self._gather(runs, limit, stop)
        except FedmbError as found:
            error = found
        try:
            if not self._letters.is_broken:
                self._commit(runs)
        except FedmbError as found:
            error = error or found
        if self._letters.is_broken:
            # Letters that were not written must be written before the ledger passes their records.
            self._letters.begin_again()
            self._seek(self._positions())
        if isinstance(error, Unreachable):
            self._tally.unreached(error)
            stop.wait(RETRY_SECONDS)
        elif error is not None:
            raise error

    def _gather(self, runs: list[Run], limit: int, stop: StopEvent) -> None:
        """Add runs of up to `limit` rows in all, for as long as the first one may wait; at once what is there."""
        missing, closes_at = limit, math.inf
        while missing and not stop.is_set():
            run = self._assembler.run(missing)
            if run is not None:
                self._tally.heard()
                if not runs:
                    closes_at = self._clock() + self._linger_seconds
                runs.append(run)
                missing -= len(run)
                if self._linger_seconds and self._clock() >= closes_at:
                    return
                continue
            remaining = closes_at - self._clock()
            if remaining <= 0 or self._letters.pending:
                return
            found = self._assembler.wait(min(remaining, POLL_SECONDS), missing)
            self._tally.heard()
            if not found and not runs:
                return

    def _commit(self, runs: Sequence[Run]) -> None:
        """Hand rows over, and pass what was set aside among and behind them."""
        self._letters.flush()  # first: the ledger passes a record only once its letter is safe
        with self._keeping:
            if not self._is_given_up:
                self._keep(runs)

    def _keep(self, runs: Sequence[Run]) -> None:
        if runs:
            origins = [run.origins(self._assembler.partitions) for run in runs]
            columns = {
                name: np.concatenate([run.columns[name] for run in runs]) if len(runs) > 1 else runs[0].columns[name]
                for name in self._assembler.schema
            }
            self._sink.append(columns, *map(np.concatenate, zip(*origins, strict=True)))
            self._tally.kept(len(next(iter(columns.values()))))
            self._is_dirty = True
        self._pass_over()

    def _pass_over(self) -> None:
        ledger = self._sink.ledger
        ahead = {p: position for p, position in self._assembler.cursor().items() if position != ledger.position(p)}
        if ahead:
            self._sink.pass_over(ahead)
            self._is_dirty = True

    def _flush(self) -> None:
        """Make what is kept durable, and tell monitors."""
        self._flushed_at = self._clock()
        with self._keeping:
            if not self._is_dirty or self._is_given_up:
                return
            self._sink.flush()
            self._is_dirty = False
        try:
            offsets = {partition: position.offset for partition, position in self._sink.ledger.items()}
            self._reader.acknowledge(offsets, self._note)
        except Unreachable as error:  # monitors learn of it with the next flush
            logger.warning("offsets not acknowledged error=%s", error)

    def _positions(self) -> dict[StreamPartition, Position]:
        ledger = self._sink.ledger
        return {partition: ledger.position(partition) for partition in self._assembler.partitions}

    def _seek(self, positions: Mapping[StreamPartition, Position]) -> None:
        self._assembler.seek(positions, next_turn(positions))


def next_turn(positions: Mapping[StreamPartition, Position]) -> int:
    """Index of the partition that gives the next record, by what was given: the one furthest behind, or the one cut.

    Exact while every partition had a record whenever it was its turn, as in a log that was written before.
    """
    places = list(positions.values())
    cut = next((index for index, position in enumerate(places) if position.row), None)
    return cut if cut is not None else min(range(len(places)), key=lambda index: places[index].offset)
