"""The newest rows of a stream, drawn more often where they cost more.

A row may be drawn once its loss is known, the one it had when it was learnt as a fresh row; each time it is replayed
it gets the loss of that moment. Losses of batches 0 to 15 count from batch 16 on, those of the next 16 from 32 on, and
so forth, however early they are told: so nobody waits for a device in every step, and whoever stops in between and
goes on draws the same rows. Rows of a batch that was thrown away never get a loss and are never drawn.

The losses are the memory's own: the position names a state of them that is kept beside the rows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors.numpy import load, save

from fedmb.batch.minibatch import MiniBatch
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.kept_states import KeptStates
from fedmb.replay.prioritized import Prioritized
from fedmb.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema
    from fedmb.replay.ring import Ring

log = logging.getLogger(__name__)

EVERY = 16  # batches whose losses begin to count together: a reading waits for the device, and a sixteenth is little


class _Told(NamedTuple):
    """Losses that were told and do not count yet."""

    batch: int
    rows: NDArray[np.int64]
    losses: NDArray[np.float32]


class LossMemory:
    """Draws rows from the newest `window` of a ring in proportion to a power of their loss. A `RemembersLosses`.

    P(row) = (loss + epsilon)^alpha / sum over the window, losses below 0 counting as 0. A drawn row's unit is its
    importance weight (rows x P(row))^-beta: with beta 1 the gradient is on average that of uniform draws.

    Args:
        ring: the rows; has room for at least `window`, better `capacity_for(window)`.
        window: how many of the newest rows can be drawn.
        alpha: how much losses count; 0 draws uniformly.
        beta: how much of the bias is undone, 0 to 1; 0 gives no units.
        seed: the run's seed.
        client: name or number of this site.
        states: where losses are kept for whoever goes back; None keeps a few in memory.
        every: batches whose losses begin to count together.

    Raises:
        SettingsError: a setting is out of its range.
    """

    def __init__(
        self,
        ring: Ring,
        window: int,
        *,
        alpha: float = 0.6,
        beta: float = 0.4,
        seed: int,
        client: str | int,
        states: KeptStates | None = None,
        every: int = EVERY,
    ) -> None:
        if not 1 <= window <= ring.capacity:
            raise SettingsError(f"a window must be 1 to the ring's {ring.capacity} rows, got {window}", key="window")
        if every < 1:
            raise SettingsError(f"losses begin to count every 1 or more batches, got {every}", key="every")
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        self._ring = ring
        self._window = window
        self._alpha, self._beta = alpha, beta
        self._seed = int(seed)
        self._client = client if isinstance(client, str) else int(client)  # NumPy integers print differently
        self._states = states or KeptStates()
        self._every = every
        self._losses = np.full(ring.capacity, np.nan, np.float32)  # by slot, which is the row's number % capacity
        self._drawn = np.empty(0, np.int64)
        self._drawable = self._batches = 0
        self._expected: dict[int, NDArray[np.int64]] = {}
        self._told: list[_Told] = []
        self._sampler = self._fresh_sampler()

    def __len__(self) -> int:
        """Rows that can be drawn now: those of the window whose loss is known."""
        return self._drawable

    @property
    def schema(self) -> Schema:
        """Columns of every row."""
        return self._ring.schema

    @property
    def appended(self) -> int:
        """Rows remembered so far, forgotten ones included."""
        return self._ring.appended

    @property
    def batches(self) -> int:
        """Number of the next batch: appends so far."""
        return self._batches

    @property
    def wants_losses(self) -> bool:
        """Whether losses of expected batches count from the next batch on."""
        return self._batches % self._every == 0 and bool(self._expected)

    @property
    def drawn(self) -> NDArray[np.int64]:
        """Numbers of the rows that the last `sample` gave."""
        return self._drawn

    def append(self, columns: Columns) -> range:
        """Remember the fresh rows of one batch and answer their numbers.

        Raises:
            ShapeError: columns do not follow the schema.
        """
        numbers = self._ring.append(columns)
        capacity = self._ring.capacity
        self._losses[np.arange(max(numbers.start, numbers.stop - capacity), numbers.stop) % capacity] = np.nan
        leaving = np.arange(max(0, numbers.start - self._window), max(0, numbers.stop - self._window))
        slots = leaving[-capacity:] % capacity
        self._drawable -= int(np.count_nonzero(self._sampler.tree.leaves[slots]))
        self._sampler.drop(slots)
        self._batches += 1
        if self._batches % self._every == 0:
            told, self._told = self._told, []
            for one in told:
                self._set(one.rows, one.losses)
        return numbers

    def sample(self, size: int, draw: int) -> MiniBatch:
        """`size` rows in fresh arrays, without a span; units are their importance weights.

        Raises:
            NotEnoughData: no row's loss is known.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a draw must ask for 1 row or more, got {size}")
        if not self._drawable:
            raise NotEnoughData("a draw needs a row whose loss is known, got none; tell the losses of rows given")
        chosen = self._sampler.draw(size, generator(self._seed, self._client, draw, "replay"))
        newest = self._ring.appended - 1
        self._drawn = newest - (newest - chosen.slots) % self._ring.capacity
        units = self._sampler.weights(chosen, self._drawable) if self._beta else None
        return MiniBatch(self._ring.gather(self._drawn), units=units, origins={"replay": size})

    def expect(self, rows: NDArray[np.int64]) -> None:
        """Take note of which rows stand in the batch appended last, in its order; -1 is a row of no interest."""
        self._expected[self._batches - 1] = rows
        while len(self._expected) > 2 * self._every:  # batches that were thrown away are never told
            self._expected.pop(next(iter(self._expected)))

    def hear(self, batch: int, losses: NDArray[np.float32]) -> None:
        """Learn the losses of the rows of a batch, in its order; a batch that is not expected is passed over."""
        rows = self._expected.pop(batch, None)
        if rows is None:
            return
        known = (rows >= 0) & np.isfinite(losses)
        one = _Told(batch, rows[known], losses[known])
        if (batch // self._every + 1) * self._every <= self._batches:
            self._set(one.rows, one.losses)
        else:
            self._told.append(one)

    def kept_losses(self) -> str:
        """Keep all losses told so far, and answer their name. Ask when those of all batches were told."""
        window = self._slots_of_window()
        counts = [len(one.rows) for one in self._told]
        state = {
            "batches": np.array(self._batches),
            "losses": self._losses[window],
            "told_batches": np.repeat(np.array([one.batch for one in self._told], np.int64), counts),
            "told_rows": np.concatenate([np.empty(0, np.int64), *(one.rows for one in self._told)]),
            "told_losses": np.concatenate([np.empty(0, np.float32), *(one.losses for one in self._told)]),
        }
        return self._states.save(self.appended, save(state))

    def restore_losses(self, name: str) -> None:
        """Go to the losses kept under this name; to be called after the rewind to the same moment.

        Where they are gone, every row that is there may be drawn, all alike, which is logged.
        """
        self._forget_losses()
        window = self._slots_of_window()
        data = self._states.load(name)
        state = load(data) if data is not None else {}
        if state and len(state["losses"]) == len(window):
            self._batches = int(state["batches"])
            self._losses[window] = state["losses"]
            batches, rows, losses = state["told_batches"], state["told_rows"], state["told_losses"]
            for batch in np.unique(batches).tolist():
                self._told.append(_Told(batch, rows[batches == batch], losses[batches == batch]))
        elif self.appended:
            log.warning("losses of remembered rows were not found state=%s rows=%d", name, len(window))
            self._losses[window] = 1.0
        known = window[np.isfinite(self._losses[window])]
        self._sampler.store(known, np.maximum(self._losses[known], 0).astype(np.float64))
        self._drawable = len(known)

    def rewind(self, appended: int) -> int:
        """Go to where `appended` rows were remembered, with no loss known; answers how many rows are lost for good.

        Raises:
            ValueError: `appended` is negative.
        """
        missing = self._ring.rewind(appended, needed=self._window)
        self._forget_losses()
        return missing

    def flush(self) -> None:
        """Make the rows survive a power cut, where the ring has a file; kept losses do in any case."""
        self._ring.flush()

    def close(self) -> None:
        """Close the ring."""
        self._ring.close()

    def _forget_losses(self) -> None:
        self._sampler = self._fresh_sampler()
        self._losses[:] = np.nan
        self._drawable = self._batches = 0
        self._expected.clear()
        self._told.clear()

    def _fresh_sampler(self) -> Prioritized:
        # numba's import alone costs more than a round's draws, and a deployed client is a new process each round.
        sampler = Prioritized(self._alpha, self._beta, kernels="numpy")
        sampler.bind(self._ring.capacity)
        return sampler

    def _slots_of_window(self) -> NDArray[np.int64]:
        kept = self._ring.kept
        return np.arange(max(kept.start, kept.stop - self._window), kept.stop) % self._ring.capacity

    def _set(self, rows: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Let these losses count; of a row that comes twice the later one."""
        inside = rows >= max(self._ring.kept.start, self._ring.appended - self._window)
        rows, at = np.unique(rows[inside][::-1], return_index=True)
        slots = rows % self._ring.capacity
        self._losses[slots] = losses[inside][::-1][at]
        self._drawable += int(np.count_nonzero(self._sampler.tree.leaves[slots] == 0))
        self._sampler.reprioritize(slots, np.maximum(self._losses[slots], 0).astype(np.float64))
