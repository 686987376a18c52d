"""Rows of several tasks or tables in one mini-batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Column, MiniBatch, Schema, concatenated
from fedmb.errors import SettingsError, ShapeError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedmb.batch.source import BatchSource, SourcePosition

POSITION_KEYS = {"draws", "sources"}
TASK_DTYPE = "int64"


def tempered(sizes: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Share of each source in a batch, proportional to its size to the power 1 / `temperature`.

    1 is proportional to size, `math.inf` gives every source the same share, and small sources gain in between.

    Raises:
        SettingsError: the temperature is not above 0, or a size is not finite and above 0.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; Arivazhagan et al. 2019, arXiv:1907.05019.
    """
    if not temperature > 0:
        raise SettingsError(
            f"a temperature must be above 0, got {temperature}; 1 is proportional, inf is uniform", key="temperature"
        )
    for name, size in sizes.items():
        if not 0 < size < math.inf:
            raise SettingsError(
                f"a mixed source must have a finite weight above 0, {name!r} has {size}; a stream has no number of "
                "rows: give it one in weights",
                key="weights",
            )
    largest = max(sizes.values(), default=1.0)  # powers of ratios: 1 / 0.01 of a row count would overflow
    powers = {name: (size / largest) ** (1 / temperature) for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def apportioned(shares: NDArray[np.float64], size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of each source in a batch of `size`: the whole parts of `shares * size`, and remainders by one draw.

    Counts always add up to `size`, differ from `shares * size` by less than 1, and equal it on average; giving the
    rows left over to the largest remainders instead would never draw a source whose share is small.

    Source: systematic sampling, Madow 1949, Annals of Mathematical Statistics 20(3).
    """
    bounds = np.concatenate([np.zeros(1), np.cumsum(shares)]) * size
    cuts = np.minimum(np.floor(bounds + random.random()), size).astype(np.int64)
    cuts[-1] = size  # shares add up to 1 but for rounding, which must not lose the last row
    return cuts[1:] - cuts[:-1]


class Mixture:
    """Every batch holds rows of several sources, in shares set by temperature; a `BatchSource`.

    Rows of one source stand together, in the order in which the sources were named; spans and origins are kept. A
    source at rest always fills its share; where a stream gives fewer rows, the batch is shorter.

    Args:
        sources: by task name, all of one schema; closed with this source.
        temperature: 1 draws in proportion to size, `math.inf` evenly; see `tempered`.
        weights: sizes to reckon with instead of the sources' rows per epoch; needed for streams, which have none.
        task_column: name of an added int64 column with each row's task, numbered in the order of `sources`.
        seed: the run's seed.
        client: name or number of this site.

    Raises:
        SettingsError: there is no source, a weight is missing or names none, or the temperature is out of range.
        ShapeError: the sources' schemas differ, or have the task column already.
    """

    def __init__(
        self,
        sources: Mapping[str, BatchSource],
        temperature: float = 1.0,
        *,
        weights: Mapping[str, float] | None = None,
        task_column: str | None = None,
        seed: int,
        client: str | int,
    ) -> None:
        if not sources:
            raise SettingsError("a mixture needs at least one source, got none; name them in sources")
        if unknown := sorted((weights or {}).keys() - sources.keys()):
            raise SettingsError(f"weights must name sources of {sorted(sources)}, got {unknown}", key="weights")
        self._sources = dict(sources)
        schemas = [dict(source.schema) for source in self._sources.values()]
        if any(schema != schemas[0] for schema in schemas):
            raise ShapeError(f"mixed sources must have one schema, got {schemas}; give them the same columns")
        if task_column in schemas[0]:
            raise ShapeError(f"a task column must be new, got {task_column!r} of {sorted(schemas[0])}; rename it")
        sizes = {name: source.examples_per_epoch for name, source in self._sources.items()} | dict(weights or {})
        self.shares = tempered(sizes, temperature)
        """Expected part of a batch that each source fills."""
        self._schema = schemas[0] | ({task_column: Column(TASK_DTYPE)} if task_column else {})
        self._task_column = task_column
        self._seed = int(seed)
        self._client = client
        self._draws = 0

    @property
    def schema(self) -> Schema:
        """Columns of the sources, and the task column where there is one."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows of all sources together; `math.inf` with a stream among them."""
        return sum(source.examples_per_epoch for source in self._sources.values())

    def take(self, size: int) -> MiniBatch:
        """A batch of at most `size` rows of all sources.

        Raises:
            ValueError: `size` is below 1.
            NotEnoughData: a stream that is to fill a part is silent; no source has moved.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}; ask for a row")
        random = generator(self._seed, self._client, self._draws, "mixture")
        counts = apportioned(np.array([self.shares[name] for name in self._sources]), size, random)
        parts: list[MiniBatch] = []
        before: dict[str, SourcePosition] = {}
        try:
            for task, (name, count) in enumerate(zip(self._sources, counts.tolist(), strict=True)):
                if count:
                    before[name] = self._sources[name].position()
                    parts.append(self._marked(_filled(self._sources[name], count), task))
        except BaseException:
            for name, position in before.items():
                self._sources[name].seek(position)
            raise
        self._draws += 1
        return concatenated(parts)

    def position(self) -> SourcePosition:
        """Batches drawn so far, and every source's position."""
        return {"draws": self._draws, "sources": {name: source.position() for name, source in self._sources.items()}}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source, or to other tasks.
        """
        target = position or {"draws": 0, "sources": {name: {} for name in self._sources}}
        draws, sources = target.get("draws"), target.get("sources")
        valid = target.keys() == POSITION_KEYS and type(draws) is int and draws >= 0
        if not valid or draws is None or not isinstance(sources, dict) or sources.keys() != self._sources.keys():
            raise ValueError(
                f"a mixture's position must be {{'draws': 0.., 'sources': {sorted(self._sources)}}}, got {position!r}; "
                "it belongs to another source"
            )
        before = self.position()["sources"]
        try:
            for name, source in self._sources.items():
                source.seek(sources[name])
        except BaseException:
            for name, source in self._sources.items():
                source.seek(before[name])
            raise
        self._draws = draws

    def close(self) -> None:
        """Close every source."""
        for source in self._sources.values():
            source.close()

    def _marked(self, part: MiniBatch, task: int) -> MiniBatch:
        if self._task_column is None:
            return part
        tasks = np.full(len(part), task, TASK_DTYPE)
        columns = {**part.columns, self._task_column: tasks}
        return MiniBatch(columns, mask=part.mask, units=part.units, span=part.span, origins=part.origins)


def _filled(source: BatchSource, count: int) -> MiniBatch:
    """`count` rows of a source at rest, across the end of its epoch if need be; what a stream gives at once."""
    parts = [source.take(count)]
    if not math.isinf(source.examples_per_epoch):
        while missing := count - sum(map(len, parts)):
            parts.append(source.take(missing))
    return concatenated(parts)
