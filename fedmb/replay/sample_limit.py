"""Rows that may be drawn a number of times and are gone then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.sampler import Draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.replay.reader import Reader, TableView
    from fedmb.replay.sampler import Sampler, Slots

ROUNDS = 8  # that may draw rows in vain before those are taken from the sampler, which must then be able to go back
MOST_DOUBLINGS = 10  # of what is drawn for one missing row, where hardly any row is valid
CERTAINTY = 20  # fruitless draws for each row of the table before a valid one is no longer looked for
LARGEST = 2**32 - 1


class SampleLimit:
    """Counts how often the row of each slot was drawn, and draws none more often than it may be.

    A batch is drawn as if its rows were drawn one after another, each from those that are not used up: what is drawn
    in vain is drawn again.

    Args:
        capacity: slots.
        most: times that a row may be drawn.
        times: where the counts are kept, `(capacity,)`, such as a mapped file.

    Raises:
        SettingsError: `most` is below 1 or beyond 32 bits.
    """

    def __init__(self, capacity: int, most: int, times: NDArray[np.uint32] | None = None) -> None:
        if not 1 <= most <= LARGEST:
            raise SettingsError(
                f"max_times_sampled must be 1 to {LARGEST}, got {most}; leave it out to draw rows without end",
                key="max_times_sampled",
            )
        self.most = most
        self._times = np.zeros(capacity, np.uint32) if times is None else times
        self._left = 0

    @property
    def left(self) -> int:
        """Draws that the rows of the table have left, all together."""
        return self._left

    def store(self, slots: Slots) -> None:
        """Rows were put into distinct slots that held none."""
        self._times[slots] = 0
        self._left += self.most * len(slots)

    def drop(self, slots: Slots) -> None:
        """The rows of these distinct slots are gone."""
        self._left -= self.most * len(slots) - int(self._times[slots].sum(dtype=np.int64))

    def draw(
        self, sampler: Sampler, reader: Reader | None, view: TableView, size: int, random: np.random.Generator
    ) -> tuple[Draw, Slots]:
        """Draw `size` rows, count them, and answer too which slots are used up now; the sampler has dropped those.

        Raises:
            NotEnoughData: the rows have fewer draws left than `size`, or too few of them are valid; nothing was
                counted.
        """
        if size > self._left:
            raise NotEnoughData(
                f"{size} rows must have draws left, {view.num_rows} rows have {self._left}; append more, sample fewer "
                "or raise max_times_sampled"
            )
        drawing = _Drawing(self._times, self.most, sampler, reader, view, random)
        for _ in range(ROUNDS):
            if not (missing := size - len(drawing.slots)):
                break
            drawing.more(missing, missing)
        if len(drawing.slots) < size:
            before = sampler.state_dict()
            try:
                drawing.search(size)
            except NotEnoughData:
                sampler.load_state_dict(before)
                raise
        used_up = drawing.clear()
        np.add.at(self._times, drawing.slots, 1)
        self._left -= size
        return Draw(drawing.slots, drawing.probabilities), used_up

    def recount(self, slots: Slots) -> None:
        """Find out how many draws the rows of these slots, all there are, have left."""
        self._left = self.most * len(slots) - int(self._times[slots].sum(dtype=np.int64))

    def state_dict(self) -> dict[str, Any]:
        """How often each row was drawn, and how many draws are left."""
        return {"times": self._times.copy(), "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood.

        Raises:
            ShapeError: it is of another capacity.
        """
        if len(state["times"]) != len(self._times):
            raise ShapeError(f"a state must be of {len(self._times)} slots, got {len(state['times'])}")
        self._times[:] = state["times"]
        self._left = int(state["left"])


class _Drawing:
    """One batch while it is drawn."""

    def __init__(
        self,
        times: NDArray[np.uint32],
        most: int,
        sampler: Sampler,
        reader: Reader | None,
        view: TableView,
        random: np.random.Generator,
    ) -> None:
        self._times, self._most = times, most
        self._sampler, self._reader, self._view, self._random = sampler, reader, view, random
        self.slots = np.empty(0, np.int64)
        self.probabilities: NDArray[np.float64] | None = None
        self._cleared = np.empty(0, np.int64)

    def more(self, proposed: int, wanted: int) -> int:
        """Draw `proposed` rows, keep at most `wanted` that may be drawn, and answer how many there were."""
        slots, probabilities = self._sampler.draw(proposed, self._random)
        usable = self._rank(slots) < self._most - self._times[slots].astype(np.int64)
        if self._reader is not None:
            usable &= self._reader.valid(self._view, slots)
        found = np.flatnonzero(usable)
        if len(found) > wanted:  # any of them, not the first: a sampler may deal a batch in order of slots
            found = np.sort(self._random.permutation(found)[:wanted])
        self.slots = np.concatenate([self.slots, slots[found]])
        if probabilities is not None:
            before = [] if self.probabilities is None else [self.probabilities]
            self.probabilities = np.concatenate([*before, probabilities[found]])
        return len(found)

    def search(self, size: int) -> None:
        """Fill what is missing of a batch, with used-up rows out of the way.

        Raises:
            NotEnoughData: there are not so many valid rows, or they could not be found.
        """
        fruitless = doublings = 0
        while (missing := size - len(self.slots)) > 0:
            self.clear()
            proposed = missing << doublings
            found = self.more(proposed, missing)
            doublings = min(doublings + 1, MOST_DOUBLINGS) if found < missing else doublings
            fruitless = 0 if found else fruitless + proposed
            if fruitless > CERTAINTY * self._view.num_rows:
                raise NotEnoughData(
                    f"{size} rows must be valid and not used up, {len(self.slots)} of {self._view.num_rows} were "
                    "found; append more or sample fewer"
                )

    def clear(self) -> Slots:
        """Drop from the sampler what this batch uses up, and answer all slots that it does."""
        slots, counts = np.unique(self.slots, return_counts=True)
        used_up = slots[counts + self._times[slots] >= self._most]
        self._sampler.drop(np.setdiff1d(used_up, self._cleared, assume_unique=True))
        self._cleared = used_up
        return used_up

    def _rank(self, slots: Slots) -> NDArray[np.int64]:
        """How often each row would have been drawn in this batch before."""
        together = np.concatenate([self.slots, slots])
        order = np.argsort(together, kind="stable")
        ordered = together[order]
        is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        places = np.arange(len(together))
        rank = np.empty_like(places)
        rank[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
        return rank[len(self.slots) :]
