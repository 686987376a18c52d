"""The rows of a table with all that is known of them: what a table does, without its threads.

    append        limiter lets pass -> remover chooses slots -> store copies rows -> ids are given -> sampler is told
    sample        limiter lets pass -> sampler draws slots -> reader refuses some and reads the others
    reprioritize  ids to slots -> sampler and remover are told

Where the oldest row always goes first and a row may be drawn without end, all this is arithmetic: no remover is asked,
no id is stored, and rows that are appended one by one are told to the sampler before its next draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fedmb.batch.minibatch import check_columns
from fedmb.errors import ShapeError
from fedmb.replay.reader import draw_valid
from fedmb.replay.remover import Fifo
from fedmb.replay.row_ids import NOT_KEPT, FifoIds, SlotIds
from fedmb.replay.sample import Sample
from fedmb.replay.sample_limit import SampleLimit
from fedmb.replay.table_view import StoredRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns
    from fedmb.replay.reader import Reader
    from fedmb.replay.remover import Remover
    from fedmb.replay.row_commits import RowCommits
    from fedmb.replay.row_store import RowStore
    from fedmb.replay.sampler import Draw, Priorities, Sampler, Slots

FORMAT = 1
COUNTS = ("sampled", "reprioritized", "stale")


class TableContents:
    """Rows, ids and policies; one thread at a time.

    Args:
        store: where rows lie; empty.
        sampler: which rows are drawn.
        remover: which rows go.
        reader: what a drawn row becomes; None reads rows as they are.
        max_times_sampled: how often a row may be drawn; None is without end.
        random: the table's generator.
        commits: file that says which rows are whole, of a mapped table.
    """

    def __init__(
        self,
        store: RowStore,
        sampler: Sampler,
        remover: Remover,
        reader: Reader | None,
        max_times_sampled: int | None,
        random: np.random.Generator,
        commits: RowCommits | None = None,
    ) -> None:
        self.store, self.sampler, self.remover, self.reader = store, sampler, remover, reader
        self.random, self.commits = random, commits
        self.is_fifo = type(remover) is Fifo
        arrays = commits.columns if commits else {}
        self.limit: SampleLimit | None = None
        if max_times_sampled is not None:
            self.limit = SampleLimit(store.capacity, max_times_sampled, arrays.get("times"))
        self.fifo: FifoIds | None = None
        if self.is_fifo and self.limit is None:
            self.fifo = FifoIds(store.capacity)
        self._slot_ids = SlotIds(store.capacity if self.fifo is None else 0, arrays.get("code"))
        self._numbers = arrays.get("number")
        self.ids: FifoIds | SlotIds = self._slot_ids if self.fifo is None else self.fifo
        self.view = StoredRows(store, self.ids, is_fifo=self.is_fifo)
        self._told = 0  # number of the first row that the sampler does not know of
        self.sampled = self.reprioritized = self.stale = 0
        sampler.bind(store.capacity)
        remover.bind(store.capacity)
        if reader is not None:
            reader.check(self.view)

    def append(self, columns: Columns, count: int, priorities: Priorities | None) -> tuple[Slots, int]:
        """Ids of `count` new rows, and how many rows, of these or of former ones, are in the table no more."""
        if self.fifo is None:
            return self._place(columns, count, priorities)
        return self._append_in_order(columns, count, priorities)

    def settle(self) -> None:
        """Tell the sampler of rows that were appended one by one."""
        if (fifo := self.fifo) is not None and self._told != fifo.appended:
            first = max(self._told, fifo.appended - fifo.capacity)
            oldest = max(fifo.oldest, fifo.appended - fifo.capacity)
            fifo.oldest, self._told = oldest, fifo.appended
            self.sampler.store(fifo.slots_of(first, fifo.appended), None)

    def draw(self, size: int, random: np.random.Generator) -> tuple[Draw, Slots]:
        """Slots drawn, and those of rows that may not be drawn any more."""
        if self.limit is not None:
            return self.limit.draw(self.sampler, self.reader, self.view, size, random)
        if self.reader is None:
            return self.sampler.draw(size, random), _NONE
        return draw_valid(self.sampler, self.reader, self.view, size, random), _NONE

    def sample(self, size: int, random: np.random.Generator) -> tuple[Sample, int]:
        """A sample, and how many rows are in the table no more because of it."""
        num_rows = len(self.ids)
        draw, used_up = self.draw(size, random)
        weights = self.sampler.weights(draw, num_rows)
        if self.reader is None:
            columns = self.store.read(draw.slots)
        else:
            columns = self.reader.read(self.view, draw.slots, random)
        ids = self.ids.ids_of(draw.slots)
        if len(used_up):  # the sampler knows
            self.remover.drop(used_up)
            self._slot_ids.give_up(used_up)
        self.sampled += size
        return Sample(columns, ids, weights, draw.probabilities), len(used_up)

    def reprioritize(self, ids: Slots, priorities: Priorities) -> int:
        """Set priorities of the rows that are still there, the last one where an id comes twice; answers how many."""
        slots, where = self.ids.find(ids)
        if where is not None:
            priorities = priorities[where]
            self.stale += len(ids) - len(slots)
        ordered = np.sort(slots)
        if (ordered[1:] == ordered[:-1]).any():
            _, last = np.unique(slots[::-1], return_index=True)
            places = len(slots) - 1 - last
            slots, priorities = slots[places], priorities[places]
        if len(slots):
            self.sampler.reprioritize(slots, priorities)
            self.remover.reprioritize(slots, priorities)
            self.reprioritized += len(slots)
        return len(slots)

    def state_dict(self, *, rows: bool = True) -> dict[str, Any]:
        """Everything but settings; fresh arrays, JSON values and None only."""
        slots = self.view.slots_in_order()
        return {
            "format": FORMAT,
            "capacity": self.store.capacity,
            "counts": {name: getattr(self, name) for name in COUNTS},
            "random": self.random.bit_generator.state,
            "ids": self.ids.state_dict(),
            "sampler": self.sampler.state_dict(),
            "remover": self.remover.state_dict() if self.fifo is None else None,
            "limit": self.limit.state_dict() if self.limit else None,
            "rows": self.store.read(slots) if rows else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood, which came from a table of the same settings.

        Raises:
            ShapeError: it came from a table of others.
        """
        self.check_state(state)
        self.load_policies(state)
        self.ids.load_state_dict(state["ids"])
        if self.limit:
            self.limit.load_state_dict(state["limit"])
        self._told = self.ids.appended
        if state["rows"] is not None:
            self.store.write(self.view.slots_in_order(), state["rows"])
        if self.reader is not None:
            self.reader.reset()

    def load_policies(self, state: dict[str, Any]) -> None:
        """Load what is not known of single rows: counts, generator, sampler and remover."""
        try:
            self.sampler.load_state_dict(state["sampler"])
            if self.fifo is None:
                self.remover.load_state_dict(state["remover"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ShapeError(f"a state must be of this sampler and remover, got {error}; make both so") from error
        for name in COUNTS:
            setattr(self, name, int(state["counts"][name]))
        self.random.bit_generator.state = state["random"]

    def adopt(self, appended: int, oldest: int, slots: Slots) -> None:
        """Let these rows be those of the table: what the commits say is true, and the policies know of it."""
        self.ids.appended, self.ids.oldest = appended, oldest
        self._slot_ids.recount()
        if self.limit is not None:
            self.limit.recount(slots)
        self._told = appended
        if self.reader is not None:
            self.reader.reset()

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse a state that came from a table of other settings, as far as that shows.

        Raises:
            ShapeError: it did.
        """
        wanted = (FORMAT, self.store.capacity, self.fifo is not None, self.limit is not None)
        found = (state["format"], state["capacity"], state["remover"] is None, state["limit"] is not None)
        if found != wanted:
            names = ("format", "capacity", "first in, first out", "max_times_sampled")
            pairs = zip(names, found, wanted, strict=True)
            differences = [f"{name} {one} (wanted {other})" for name, one, other in pairs if one != other]
            raise ShapeError(f"a table's state must fit its settings, got {', '.join(differences)}; make it as before")
        if state["rows"] is not None:
            check_columns(state["rows"], self.store.schema)

    def _append_in_order(self, columns: Columns, count: int, priorities: Priorities | None) -> tuple[Slots, int]:
        fifo, capacity = self.fifo, self.store.capacity
        assert fifo is not None, "as `append` found"
        self.settle()
        first, stop = fifo.appended, fifo.appended + count
        stored = min(count, capacity)
        # The sampler first: it may refuse a priority, and nothing has changed then.
        self.sampler.store(fifo.slots_of(stop - stored, stop), None if priorities is None else priorities[-stored:])
        oldest = max(fifo.oldest, stop - capacity)
        if self.commits and oldest != fifo.oldest:
            self.commits.commit(first, min(oldest, first))  # give up what is about to be overwritten
        slot = (stop - stored) % capacity
        head = min(stored, capacity - slot)
        if stored == count == head:
            self.store.write(slice(slot, slot + head), columns)
        else:
            rows = {name: array[count - stored :] for name, array in columns.items()}
            self.store.write(slice(slot, slot + head), {name: array[:head] for name, array in rows.items()})
            self.store.write(slice(0, stored - head), {name: array[head:] for name, array in rows.items()})
        if self.commits:
            self.commits.commit(stop, oldest)
        removed = oldest - fifo.oldest
        fifo.appended, fifo.oldest, self._told = stop, oldest, stop
        ids = np.arange(first, stop)
        if stored < count:
            ids[: count - stored] = NOT_KEPT
        return ids, removed

    def _place(self, columns: Columns, count: int, priorities: Priorities | None) -> tuple[Slots, int]:
        ids, first = self._slot_ids, self._slot_ids.appended
        chosen = self.remover.place(count, columns, self.random, priorities)
        kept = _last_of_each(chosen)
        slots = chosen[kept]
        if self.is_fifo:
            ids.oldest = max(ids.oldest, first + count - self.store.capacity)
        if self.commits:
            self.commits.commit(first, ids.oldest)
        lost = ids.give_up(slots)
        if self.limit:
            self.limit.drop(lost)
            self.limit.store(slots)
        self.store.write(slots, columns if len(kept) == count else {name: one[kept] for name, one in columns.items()})
        if self._numbers is not None:
            self._numbers[slots] = first + kept
        ids.appended = first + count
        found = np.full(count, NOT_KEPT)
        found[kept] = ids.assign(slots)
        if self.commits:
            self.commits.commit(ids.appended, ids.oldest)
        self.sampler.store(slots, None if priorities is None else priorities[kept])
        removed = len(lost) + count - len(kept)
        return found, removed


class ClosedTable(TableContents):
    """What a closed table holds."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError("a table must be open to be used, this one was closed; make another")


_NONE = np.empty(0, np.int64)


def _last_of_each(slots: Slots) -> NDArray[np.int64]:
    """Places in `slots` of rows that stay: the last one of each slot that is one."""
    if len(slots) <= 1 or (slots[0] >= 0 and (slots[1:] > slots[:-1]).all()):
        return np.flatnonzero(slots >= 0)
    _, last = np.unique(slots[::-1], return_index=True)
    places = np.sort(len(slots) - 1 - last)
    return places[slots[places] >= 0]
