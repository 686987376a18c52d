"""A replay table in a device's memory, for learners that have room for it: rows never cross to the host.

    ring = DeviceRing(schema, 1_000_000, device="cuda", sampler=DevicePrioritized())
    ring.append(columns)                                # of the host or of the device
    sample = ring.sample(256)                           # tensors on the device
    ring.reprioritize(sample.ids, errors.abs())         # nothing waits for the device

The calls of `ReplayTable` with its ids, its chances and its counts, where the oldest row goes first. Rows, priorities
and the generator live on the device; what the host must know (how many rows, which id is the oldest) is arithmetic over
what was appended, so that only counts, states and `minibatch` of a weighted sample wait for the device. Work is
enqueued on the caller's current stream; threads that use streams of their own must order them.

Nothing here is special to one kind of device. How much of a GPU's bandwidth it reaches has not been measured yet.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.replay_source import Drawable, ReplaySource
from fedmb.replay.row_ids import NOT_KEPT
from fedmb.replay.row_store import RowStore
from fedmb.seeding import torch_seed
from fedmb.training.device import training_device
from fedmb.training.device_ids import ids_of, last_of_each
from fedmb.training.device_prioritized import DevicePrioritized, is_priority
from fedmb.training.device_random import DeviceRandom
from fedmb.training.device_rows import ClosedRows, DeviceRows
from fedmb.training.device_sample import DeviceSample
from fedmb.training.device_statistics import DeviceRingStatistics
from fedmb.training.to_device import on_device, priorities_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.replay.row_layout import Choice
    from fedmb.training.device_random import Generator
    from fedmb.training.device_rows import Rows
    from fedmb.training.to_device import Values

FORMAT = 1
COUNTS = ("reprioritized", "stale", "refused")
STAGED_ROWS = 256  # rows that wait on the host to be copied as one: a copy takes as long as appending twenty of them
STAGED_BYTES = 1 << 20


class DeviceRing:
    """Rows that are appended, drawn and weighed on a device; the oldest goes for a new one.

    Args:
        schema: columns of a row.
        capacity: rows in the ring.
        device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where there is one.
        sampler: draws by priority; uniformly, where left out.
        layout: how rows lie, as for a `RowStore`; "auto" fits most.
        seed: the run's seed.
        client: name or number of this site; rings of one seed and client draw alike.
        name: tells tables of one run apart.

    Raises:
        SettingsError: a setting is out of range, there is no such device, torch has no such dtype, or the sampler
            serves another ring.
    """

    def __init__(
        self,
        schema: Schema,
        capacity: int,
        *,
        device: torch.device | str = "auto",
        sampler: DevicePrioritized | None = None,
        layout: Choice = "auto",
        seed: int = 0,
        client: str | int = 0,
        name: str = "table",
    ) -> None:
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        self.device = device if isinstance(device, torch.device) else training_device(device)
        self._rows = DeviceRows(schema, capacity, self.device, layout=layout)
        self.capacity, self.name = int(capacity), name
        self._sampler = sampler
        if sampler is not None:
            sampler.bind(self.capacity, self.device)
        staged = max(1, min(STAGED_ROWS, capacity, STAGED_BYTES // self._rows.row_bytes))
        self._staging = RowStore.in_memory(schema, staged, layout=self._rows.layout)
        self._staged = 0
        self._appended = 0  # rows on the device, gone ones included
        self._sampled = 0
        self._counts = torch.zeros(len(COUNTS), dtype=torch.int64, device=self.device)
        self._random = DeviceRandom(self.device, torch_seed(seed, client, name, "device ring"))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return min(self._appended + self._staged, self.capacity)

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of a row."""
        return dict(self._rows.schema)

    @property
    def sample_schema(self) -> dict[str, Column]:
        """Columns of a sample, the same."""
        return self.schema

    def append(
        self, columns: Rows, *, priorities: Values | None = None, timeout: float | None = None
    ) -> NDArray[np.int64]:
        """Copy rows in, and answer an id for each, -1 for a row that a later one of these has replaced.

        Args:
            columns: of the schema, `(rows, ...)` each: arrays, which are free again at once, or tensors.
            priorities: of the rows, `(rows,)`; those that the sampler gives to new rows, where left out.
            timeout: a ring makes nobody wait; `ReplayTable` may.

        Raises:
            ShapeError: columns do not follow the schema, or there is not one priority a row.
            ValueError: a priority of the host is negative, not finite or above 1e100. In both cases nothing is
                appended. Such a priority in a tensor is counted as refused, and the row is a new one without.
        """
        count = self._rows.count(columns)
        given = None if priorities is None else priorities_on(self.device, priorities, count)
        with self._lock:
            self._flush()
            return self._append(columns, count, given)

    def append_row(self, row: Sequence[Any]) -> None:
        """Copy one row in, values in the order of the schema; it goes to the device with others, before a draw.

        Raises:
            ShapeError: values do not follow the schema; nothing is appended.
        """
        with self._lock:
            self._staging.write_row(self._staged, row)
            self._staged += 1
            if self._staged == self._staging.capacity:
                self._flush()

    def sample(self, size: int, *, generator: Generator | None = None, timeout: float | None = None) -> DeviceSample:
        """Draw `size` rows, in fresh tensors; nothing waits for the device.

        Args:
            size: rows.
            generator: to draw with instead of the ring's own, which is left as it is; of NumPy's a seed is taken.
            timeout: a ring makes nobody wait; `ReplayTable` may.

        Raises:
            NotEnoughData: there is no row.
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a sample must have 1 row or more, got size={size}")
        with self._lock:
            self._flush()
            num_rows = min(self._appended, self.capacity)
            if not num_rows:
                raise NotEnoughData(f"a draw of {size} rows needs a row to draw, got none; append some first")
            random = self._random.lent(generator)
            weights = probabilities = None
            if self._sampler is None:
                # Of float64 each row can come; float32 has 24 bits, which is too few for 1e8 rows.
                chances = torch.rand(size, dtype=torch.float64, device=self.device, generator=random)
                slots = chances.mul_(num_rows).long()
            else:
                slots, probabilities = self._sampler.draw(size, random)
                weights = self._sampler.weights(probabilities, num_rows)
            self._sampled += size
            ids = ids_of(slots, self._appended, self.capacity)
            return DeviceSample(self._rows.read(slots), ids, weights, probabilities)

    def reprioritize(self, ids: Values, priorities: Values) -> Tensor:
        """Give rows new priorities; ids of rows that are gone are only counted.

        Args:
            ids: as `append` and `sample` gave them; of one that comes twice the last priority counts.
            priorities: one for each id, finite and 0 or more.

        Returns:
            How many rows that were, an int64 of shape () on the device; `int` of it waits for the device.

        Raises:
            ShapeError: there is not one priority an id.
            ValueError: a priority of the host is negative, not finite or above 1e100; nothing is changed. One in a
                tensor is ignored, and counted as refused.
        """
        given = priorities_on(self.device, priorities, len(ids))
        names = on_device(self.device, ids, torch.int64)
        with self._lock:
            self._flush()
            held = (names >= max(0, self._appended - self.capacity)) & (names < self._appended)
            fine = is_priority(given)
            ordered, places, is_last = last_of_each(names, held & fine)
            counts = torch.stack([is_last.sum(), (~held).sum(), (held & ~fine).sum()])
            self._counts += counts
            if self._sampler is not None and len(names):
                self._sampler.reprioritize(ordered.remainder(self.capacity), given[places], is_last)
            return counts[0]

    def statistics(self) -> DeviceRingStatistics:
        """A frozen snapshot; waits for the device."""
        with self._lock:
            appended = self._appended + self._staged
            counts = dict(zip(COUNTS, self._counts.tolist(), strict=True))
            return DeviceRingStatistics(
                capacity=self.capacity,
                rows=(rows := min(appended, self.capacity)),
                appended=appended,
                removed=appended - rows,
                sampled=self._sampled,
                num_bytes=self._rows.num_bytes,
                **counts,
            )

    def source(self, *, seed: int, client: str | int, **options: Any) -> ReplaySource:
        """A `BatchSource` of draws from this ring, for a `Trainer` whose step is on the same device.

        Args:
            seed: the run's seed.
            client: name or number of this site.
            options: others of `ReplaySource`, such as `prioritizes`.
        """
        return ReplaySource(cast("Drawable", self), seed=seed, client=client, **options)

    def state_dict(self) -> dict[str, Any]:
        """Everything but settings: arrays of the host and JSON values; waits for the device."""
        with self._lock:
            self._flush()
            rows = min(self._appended, self.capacity)
            first = self._appended % self.capacity if rows == self.capacity else 0
            return {
                "format": FORMAT,
                "capacity": self.capacity,
                "device": self.device.type,
                "appended": self._appended,
                "sampled": self._sampled,
                "counts": self._counts.tolist(),
                "random": self._random.state(),
                "sampler": None if self._sampler is None else self._sampler.state_dict(),
                "rows": self._rows.stored(first, rows),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the ring of `state` stood, whose settings and kind of device were the same.

        Raises:
            ShapeError: they were others.
        """
        wanted = (FORMAT, self.capacity, self.device.type, self._sampler is not None)
        found = (state["format"], state["capacity"], state["device"], state["sampler"] is not None)
        if found != wanted:
            raise ShapeError(
                f"a ring's state must fit its settings: format, capacity, device and priorities {wanted}, got {found}; "
                "make it as before"
            )
        with self._lock:
            self._staged = 0
            self._appended, self._sampled = int(state["appended"]), int(state["sampled"])
            if self._sampler is not None:
                self._sampler.load_state_dict(state["sampler"])
            self._counts.copy_(torch.tensor(state["counts"]))
            self._random.load(state["random"])
            rows = self._rows.count(state["rows"])
            self._rows.write(self._appended - rows, state["rows"], rows)

    def close(self) -> None:
        """Give up the rows; the ring is not used afterwards."""
        with self._lock:
            self._staging.close()
            self._rows, self._sampler = ClosedRows(), None

    def _flush(self) -> None:
        """Send rows that wait on the host to the device."""
        if self._staged:
            count, self._staged = self._staged, 0
            self._append({name: self._staging.column(name)[:count] for name in self._rows.schema}, count, None)

    def _append(self, columns: Rows, count: int, priorities: Tensor | None) -> NDArray[np.int64]:
        ids = np.arange(self._appended, self._appended + count)
        if lost := max(0, count - self.capacity):
            ids[:lost] = NOT_KEPT
            columns = {name: column[lost:] for name, column in columns.items()}
        self._rows.write(self._appended + lost, columns, count - lost)
        if priorities is not None:
            self._counts[COUNTS.index("refused")] += (~is_priority(priorities)).sum()
            priorities = priorities[lost:]
        if self._sampler is not None:
            self._sampler.store(self._appended + lost, count - lost, priorities)
        self._appended += count
        return ids
