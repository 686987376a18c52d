"""Batches made ahead of time by a thread.

It pays where making a batch costs more than handing it over (some 50 microseconds) and a core is free: decoding,
augmentation, a network. For rows in memory it costs more than it saves.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fedmb.batch.replay_share import SharesReplay, replay_share
from fedmb.errors import NotEnoughData, SettingsError

if TYPE_CHECKING:
    from fedmb.batch.minibatch import MiniBatch, Schema
    from fedmb.batch.replay_share import ReplayShare
    from fedmb.batch.source import BatchSource, SourcePosition


class _Made(NamedTuple):
    """A batch with the position behind it, or the error in its place."""

    batch: MiniBatch | None
    position: SourcePosition
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PrefetchStatistics:
    """How far the thread was ahead."""

    ready: int
    """Batches made and not taken."""
    taken: int
    """Batches taken so far."""
    dropped: int
    """Batches made for nothing, because a seek or another size came."""
    waited_seconds: float
    """Time that takers spent waiting."""


class Prefetch:
    """Takes from a source ahead of time, in one thread; the batches are those of the source. A `BatchSource`.

    Batches are requested with the size asked for last. Another size, another replayed share, or a seek, rewinds the
    source to behind the last batch that was taken here, so prefetching changes no row. `position()` is that of taken
    batches: what lies ready does not count, and a run that stops loses none of it. The thread starts with the first
    `take` and ends with `close`. An exception of the source arrives at the taker in its turn, with its traceback; the
    next `take` goes on behind the last batch taken. A stream's silence counts only while somebody waits for it.

    Args:
        source: used by nobody else from now on; closed with this source.
        depth: most batches made ahead, each of which needs its memory. Over a `Blend`, its ring needs room for them
            beside its window.

    Raises:
        SettingsError: `depth` is below 1.

    Source: the position of yielded batches follows torchdata's StatefulDataLoader.
    """

    def __init__(self, source: BatchSource, depth: int = 2) -> None:
        if depth < 1:
            raise SettingsError(
                f"a prefetch depth must be 1 or more, got {depth}; use the source as it is", key="depth"
            )
        self._source = source
        self._depth = depth
        self._changed = threading.Condition()
        self._ready: deque[_Made] = deque()
        self._asked: int | None = None  # size that lies ready or is being made; None while the thread rests
        self._is_making = False
        self._is_waited_for = False
        self._is_silent = False
        self._has_failed = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._position = source.position()
        self._source_position: SourcePosition | None = self._position  # None after an error: unknown
        self._taken = self._dropped = 0
        self._waited = 0.0

    @property
    def schema(self) -> Schema:
        """Columns of the source."""
        return self._source.schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows in one pass over the source."""
        return self._source.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The batch that the source would give; blocks until it is made.

        Raises:
            ValueError: `size` is below 1.
            RuntimeError: the source was closed.
            NotEnoughData: a stream stayed silent for longer than its patience.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}; ask for a row")
        started = time.perf_counter()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("a closed source gives no batch; make a new one")
            if size != self._asked:
                self._rewind()
                self._asked = size
            self._start()
            self._is_waited_for = True
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._ready or self._is_closed)
            finally:
                self._is_waited_for = False
            if not self._ready:
                raise RuntimeError("a source gives no batch while it is being closed; end its takers first")
            made = self._ready.popleft()
            self._changed.notify_all()
            self._waited += time.perf_counter() - started
            if made.batch is None:
                self._asked = None  # the next take asks anew, behind the last batch taken
                assert made.error is not None
                raise made.error
            self._position = made.position
            self._taken += 1
            return made.batch

    def position(self) -> SourcePosition:
        """The source's position behind the last batch taken here; what lies ready does not count."""
        return copy.deepcopy(self._position)

    def seek(self, position: SourcePosition) -> None:
        """Go to a position of the source, dropping what lies ready; waits for a batch that is being made.

        Raises:
            ValueError: the position belongs to another kind of source; this one stands where it stood.
        """
        with self._changed:
            self._rest()
            self._source_position = None  # until the source has accepted
            self._source.seek(position)
            self._position = self._source_position = self._source.position()

    @property
    def replay_share(self) -> ReplayShare | None:
        """That of the source."""
        return replay_share(self._source)

    def change_replay_share(self, share: float) -> None:
        """Change the source's share from the next batch taken here on; what lies ready with the old one is dropped.

        Raises:
            SettingsError: the share is out of range, or nothing is remembered that could be replayed.
        """
        if not isinstance(self._source, SharesReplay) or (known := self._source.replay_share) is None:
            raise SettingsError(
                f"a replayed share of {share} needs a source that replays, got none; wrap it in a Blend"
            )
        if known.in_force == share:
            return
        with self._changed:
            self._rewind()
            self._source.change_replay_share(share)
            self._position = self._source_position = self._source.position()

    def statistics(self) -> PrefetchStatistics:
        """How far the thread was ahead until now."""
        with self._changed:
            ready = sum(made.batch is not None for made in self._ready)
            return PrefetchStatistics(ready, self._taken, self._dropped, self._waited)

    def close(self) -> None:
        """End the thread and close the source; waits for a batch that is being made."""
        with self._changed:
            self._is_closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._source.close()

    def _rewind(self) -> None:
        """Bring the source to where the last batch taken here ended; the condition is held."""
        self._rest()
        if self._source_position != self._position:
            self._source.seek(self._position)
            self._source_position = self._position

    def _rest(self) -> None:
        """Drop what lies ready and wait until the thread leaves the source alone; the condition is held."""
        self._asked = None
        self._has_failed = False
        self._dropped += sum(made.batch is not None for made in self._ready)
        self._ready.clear()
        self._changed.wait_for(lambda: not self._is_making)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon, so that a source that nobody closed does not keep the process alive.
            self._thread = threading.Thread(target=self._make_batches, name="fedmb-prefetch", daemon=True)
            self._thread.start()

    def _is_awaited(self) -> bool:
        """True while the taker has nothing to take; it may not have woken up yet to what lies ready."""
        return self._is_waited_for and not self._ready

    def _may_make(self) -> bool:
        is_due = self._is_awaited() or not self._is_silent
        is_wanted = self._asked is not None and not self._has_failed and len(self._ready) < self._depth
        return self._is_closed or (is_wanted and is_due)

    def _make_batches(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_make)
                if self._is_closed:
                    return
                size, was_waited_for = self._asked, self._is_awaited()
                self._is_making = True
            assert size is not None
            made = self._made(size)
            with self._changed:
                self._is_making = False
                self._source_position = None if made.error else made.position
                self._is_silent = isinstance(made.error, NotEnoughData) and not was_waited_for
                if self._asked != size:
                    self._dropped += made.error is None
                elif not self._is_silent:
                    self._ready.append(made)
                    self._has_failed = made.error is not None
                self._changed.notify_all()

    def _made(self, size: int) -> _Made:
        try:
            return _Made(self._source.take(size), self._source.position())
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the taker's to handle
            return _Made(None, {}, error)
