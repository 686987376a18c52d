"""How far sampling and inserting may run ahead of each other.

    difference = inserts * samples_per_insert - samples

While the table holds fewer than `min_size` rows, every insert passes and every sample waits. From then on an insert
passes where the difference stays at or below `max_difference`, a sample where it stays at or above `min_difference`;
the other side moves the difference back, so nobody waits for long in a system in balance. A batch passes as a whole.

Source: Cassirer et al. 2021, arXiv:2102.04736, section 3.2; Reverb's `rate_limiter.cc` for single rows.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from fedmb.errors import RateLimited, SettingsError
from fedmb.replay.limiter_statistics import LimiterStatistics, WaitStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

Side = Literal["insert", "sample"]
COUNTS = ("inserts", "samples", "deletes")


class _Queue:
    """Those who wait on one side, and what waiting has cost it."""

    def __init__(self, lock: threading.Lock) -> None:
        self.condition = threading.Condition(lock)
        self.passed = self.blocked = self.missed = self.waiting = 0
        self.seconds = 0.0

    def statistics(self) -> WaitStatistics:
        return WaitStatistics(self.passed, self.blocked, self.missed, self.waiting, self.seconds)


class RateLimiter:
    """Lets a table's inserts and samples pass; one for each table, used by any number of threads.

    Its table does the waiting and the counting; whoever does without one holds the lock, which `serve` gives, in every
    call but `close`.

    Args:
        samples_per_insert: how many times a row is drawn on average, above 0.
        min_size: rows the table holds before anything is drawn.
        error_buffer: how far the difference may be from where it stood when the table reached `min_size`, in drawn
            rows; `math.inf` leaves only `min_size`. Two numbers are the least and largest difference themselves.
        clock: monotonic seconds.

    Raises:
        SettingsError: a number is out of range, or the buffer is so small that both sides would wait for ever.
    """

    def __init__(
        self,
        samples_per_insert: float,
        min_size: int = 1,
        error_buffer: float | tuple[float, float] = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < samples_per_insert < math.inf:
            raise SettingsError(
                f"samples_per_insert must be above 0 and finite, got {samples_per_insert}; for no ratio leave "
                "error_buffer at inf",
                key="samples_per_insert",
            )
        if min_size < 1:
            raise SettingsError(f"min_size must be 1 row or more, got {min_size}", key="min_size")
        start = samples_per_insert * min_size
        low, high = error_buffer if isinstance(error_buffer, tuple) else (start - error_buffer, start + error_buffer)
        if not high - low >= samples_per_insert + 1 and not (samples_per_insert == 1 == high - low):
            raise SettingsError(
                f"a limiter's window must be samples_per_insert + 1 = {samples_per_insert + 1} drawn rows or wider, "
                f"got {low} to {high}: both sides would wait for ever; raise error_buffer",
                key="error_buffer",
            )
        if not low <= start:
            raise SettingsError(
                f"a limiter's window must begin at or below min_size * samples_per_insert = {start}, got {low}: a "
                "table that has just reached min_size could not be drawn from; lower the first number",
                key="error_buffer",
            )
        self.samples_per_insert, self.min_size = float(samples_per_insert), int(min_size)
        self.min_difference, self.max_difference = float(low), float(high)
        self.inserts = self.samples = self.deletes = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[Side, _Queue] = {"insert": _Queue(self._lock), "sample": _Queue(self._lock)}
        self._serves = self._is_closed = self._has_warned = False

    @classmethod
    def min_rows(cls, min_size: int) -> RateLimiter:
        """Samples wait until the table holds `min_size` rows; nothing else waits."""
        return cls(1.0, min_size)

    @classmethod
    def queue(cls, size: int) -> RateLimiter:
        """Inserts wait while `size` rows have not been drawn, samples while there are none left.

        For a table that gives each row once: `max_times_sampled=1` and a sampler without replacement.
        """
        if size < 1:
            raise SettingsError(f"a queue must have room for 1 row or more, got {size}", key="size")
        return cls(1.0, 1, (0.0, float(size)))

    def serve(self) -> threading.Lock:
        """Serve a table from now on: the lock that it holds whenever it changes, given up while somebody waits.

        Raises:
            SettingsError: it serves a table already.
        """
        if self._serves:
            raise SettingsError("a limiter serves one table, this one has one already; make another")
        self._serves = True
        return self._lock

    @property
    def difference(self) -> float:
        """`inserts * samples_per_insert - samples`."""
        return self.inserts * self.samples_per_insert - self.samples

    def can_insert(self, count: int = 1) -> bool:
        """Whether so many rows would be let in now."""
        if self.inserts - self.deletes < self.min_size:
            return True
        return (self.inserts + count) * self.samples_per_insert - self.samples <= self.max_difference

    def can_sample(self, size: int = 1) -> bool:
        """Whether so many rows could be drawn now."""
        return self.inserts - self.deletes >= self.min_size and self.difference - size >= self.min_difference

    def wait(self, side: Side, count: int, timeout: float | None) -> None:
        """Wait until `count` rows may pass on this side; the lock is held before and after, and given up meanwhile.

        Args:
            side: which one.
            count: rows.
            timeout: seconds to wait at most; None waits as long as it takes, 0 does not wait.

        Raises:
            RateLimited: the time is over, or the limiter was closed.
            SettingsError: so many rows can never pass at once.
        """
        queue, may = self._queues[side], self.can_insert if side == "insert" else self.can_sample
        if not may(count):
            self._check_possible(side, count)
            self._wait(queue, side, count, timeout)
        elif self._is_closed:
            raise RateLimited(f"a table must be open to be used, its limiter was closed before this {side}", side=side)
        queue.passed += 1

    def inserted(self, count: int, deleted: int = 0) -> None:
        """So many rows were let in, and so many are gone: former ones, or new ones that were not kept."""
        self.inserts += count
        self.deletes += deleted
        self._notify()

    def sampled(self, size: int, deleted: int = 0) -> None:
        """So many rows were drawn, and so many are gone because they were."""
        self.samples += size
        self.deletes += deleted
        self._notify()

    def close(self) -> None:
        """Let nobody wait any more: calls that wait, and all that come, raise `RateLimited`."""
        with self._lock:
            self._is_closed = True
            for queue in self._queues.values():
                queue.condition.notify_all()

    def statistics(self) -> LimiterStatistics:
        """A snapshot; the lock is held."""
        return LimiterStatistics(
            self.inserts,
            self.samples,
            self.deletes,
            self.difference,
            self.min_difference,
            self.max_difference,
            self._queues["insert"].statistics(),
            self._queues["sample"].statistics(),
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts; what was waited is not remembered."""
        return {name: getattr(self, name) for name in COUNTS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the counts."""
        for name in COUNTS:
            setattr(self, name, int(state[name]))
        self._notify()

    def recover(self, appended: int, num_rows: int, state: dict[str, Any] | None) -> None:
        """Take over the counts of a table that was opened again: rows ever appended, rows there, and a former state."""
        self.inserts, self.deletes = appended, appended - num_rows
        self.samples = 0 if state is None else int(state["samples"])

    def _wait(self, queue: _Queue, side: Side, count: int, timeout: float | None) -> None:
        may = self.can_insert if side == "insert" else self.can_sample
        began = now = self._clock()
        deadline = math.inf if timeout is None else began + timeout
        queue.blocked += 1
        queue.waiting += 1
        self._warn_of_deadlock(side, count)
        try:
            while not self._is_closed and now < deadline:
                queue.condition.wait(None if deadline == math.inf else deadline - now)
                if may(count) and not self._is_closed:
                    return
                now = self._clock()
            queue.missed += 1
            raise RateLimited(self._refusal(side, count, now - began), side=side)
        finally:
            queue.waiting -= 1
            queue.seconds += self._clock() - began

    def _notify(self) -> None:
        for queue in self._queues.values():
            if queue.waiting:
                queue.condition.notify_all()

    def _check_possible(self, side: Side, count: int) -> None:
        cost = count * self.samples_per_insert if side == "insert" else count
        if cost > (width := self.max_difference - self.min_difference):
            raise SettingsError(
                f"{_named(side)} of {count} rows must fit into the limiter's window of {width:g} drawn rows, it takes "
                f"{cost:g}; raise error_buffer to {(cost + max(1.0, self.samples_per_insert)) / 2:g} or more, or "
                f"{side} fewer rows at once",
                key="error_buffer",
            )

    def _warn_of_deadlock(self, side: Side, count: int) -> None:
        other: Side = "sample" if side == "insert" else "insert"
        if self._queues[other].waiting and not self._has_warned and self.inserts - self.deletes >= self.min_size:
            self._has_warned = True
            logger.warning(
                "inserts and samples wait for each other side=%s rows=%d difference=%g window=%g..%g; raise "
                "error_buffer to half of what one insert and one sample take together, or use smaller ones",
                side,
                count,
                self.difference,
                self.min_difference,
                self.max_difference,
            )

    def _refusal(self, side: Side, count: int, seconds: float) -> str:
        if self._is_closed:
            return f"a table must stay open while {_named(side)} waits, it was closed"
        num_rows = self.inserts - self.deletes
        if side == "sample" and num_rows < self.min_size:
            return (
                f"a table must hold min_size = {self.min_size} rows to be drawn from, it holds {num_rows} after "
                f"{seconds:.3g} s; insert more or raise the timeout"
            )
        return (
            f"the limiter must let {count} rows {'in' if side == 'insert' else 'out'} before the deadline, it did not "
            f"for {seconds:.3g} s: the difference is {self.difference:g} of {self.min_difference:g} to "
            f"{self.max_difference:g}; let {'learners sample' if side == 'insert' else 'actors insert'} more, raise "
            "error_buffer or the timeout"
        )


def _named(side: Side) -> str:
    return "an insert" if side == "insert" else "a sample"
