"""Mini-batches drawn from a replay table or buffer, and losses given back to it as priorities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.errors import NotEnoughData, RateLimited, SettingsError, ShapeError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.batch.source import SourcePosition
    from fedmb.replay.sample import MixedSample, Sample

EVERY = 16  # batches whose losses begin to count together: a reading waits for the device, and a sixteenth is little


class Drawable(Protocol):
    """A `ReplayTable`, a `ReplayBuffer`, or a client of one."""

    @property
    def name(self) -> str:
        """Tells tables of one run apart."""
        ...

    @property
    def sample_schema(self) -> Schema:
        """Columns of a sample."""
        ...

    def sample(
        self, size: int, *, generator: np.random.Generator | None = None, timeout: float | None = None
    ) -> Sample | MixedSample:
        """Draw rows."""
        ...

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[np.float64]) -> int:
        """Give rows new priorities."""
        ...

    def close(self) -> None:
        """Give up the rows."""
        ...


class ReplaySource:
    """A `BatchSource` over a replay table or buffer: each mini-batch is a draw, its units the importance weights.

    A draw depends on (seed, client, its number) and on what the table holds, not on the table's own generator. So the
    position is small: the number of the next draw and the table's name. Going back to it repeats the draws as long as
    the table holds the same rows with the same priorities, which a snapshot of the table makes sure of; a sampler that
    remembers draws, a limit of draws and a limiter are part of that snapshot, not of the position.

    With `prioritizes` it is a `LossListener`: losses are the rows' new priorities. Those of draws 0 to 15 count from
    draw 16 on, and so forth, however early they are told; until then they are part of the position. A loss that is
    not finite changes nothing.

    Args:
        table: to draw from; closed with this source.
        seed: the run's seed.
        client: name or number of this site.
        prioritizes: whether losses are wanted and become priorities.
        id_column: name of an added int64 column with the rows' ids; None adds none.
        patience_seconds: how long the table's limiter may let a draw wait.

    Raises:
        SettingsError: seed or patience is negative.
        ShapeError: the rows have a column of the name of `id_column`.
    """

    def __init__(
        self,
        table: Drawable,
        *,
        seed: int,
        client: str | int,
        prioritizes: bool = False,
        id_column: str | None = None,
        patience_seconds: float = math.inf,
    ) -> None:
        if seed < 0:
            raise SettingsError(f"seed must be 0 or more, got {seed}", key="seed")
        if not patience_seconds >= 0:
            raise SettingsError(
                f"patience_seconds must be 0 or more, got {patience_seconds}; math.inf waits without end",
                key="patience_seconds",
            )
        schema = dict(table.sample_schema)
        if id_column in schema:
            raise ShapeError(f"a column of ids must be new, got {id_column!r} of {sorted(schema)}; rename it")
        self._table = table
        self._seed = int(seed)
        # NumPy integers print differently from Python's, and keys are hashed as printed.
        self._client = client if isinstance(client, str) else int(client)
        self._prioritizes = prioritizes
        self._id_column = id_column
        self._patience = None if patience_seconds == math.inf else patience_seconds
        self._schema = schema | ({id_column: Column("int64")} if id_column else {})
        self._draws = 0
        self._ids: dict[int, NDArray[np.int64]] = {}  # of draws whose losses were not told
        self._told: dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}  # losses that do not count yet

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: rows are drawn again without end."""
        return math.inf

    def take(self, size: int) -> MiniBatch:
        """Draw `size` rows; blocks while the table's limiter lets nothing out.

        Raises:
            NotEnoughData: there is nothing to draw, or the patience ran out.
            ValueError: `size` is below 1.
        """
        if self._draws % EVERY == 0:
            self._apply()
        random = generator(self._seed, self._client, self._draws, "replay source")
        try:
            sample = self._table.sample(size, generator=random, timeout=self._patience)
        except RateLimited as error:
            raise NotEnoughData(str(error)) from error
        if self._prioritizes:
            self._ids[self._draws] = sample.ids
        self._draws += 1
        if self._id_column:
            sample.columns[self._id_column] = sample.ids
        return sample.minibatch()

    @property
    def listens(self) -> bool:
        """Whether losses become priorities."""
        return self._prioritizes

    @property
    def batches(self) -> int:
        """Number of the next draw."""
        return self._draws

    @property
    def wants_losses(self) -> bool:
        """Whether the next draw depends on losses that were not told."""
        return bool(self._ids) and self._draws % EVERY == 0

    def hear(self, batch: int, losses: NDArray[np.float32]) -> None:
        """Learn the loss of each row of a draw; losses of a draw that was made before a seek are nobody's.

        Raises:
            ShapeError: there is not one loss a row.
        """
        if (ids := self._ids.get(batch)) is None:
            return
        if losses.shape != ids.shape:
            raise ShapeError(f"there must be a loss for each of {len(ids)} rows of draw {batch}, got {losses.shape}")
        del self._ids[batch]
        known = np.isfinite(losses)
        self._told[batch] = ids[known], np.maximum(losses[known], 0).astype(np.float64)

    def position(self) -> SourcePosition:
        """How many draws were made, of which table, and losses that do not count yet, where there are any."""
        told = {str(draw): [part.tolist() for part in parts] for draw, parts in sorted(self._told.items())}
        return {"draws": self._draws, "table": self._table.name, **({"told": told} if told else {})}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source, or to another table.
        """
        target = position or {"draws": 0, "table": self._table.name}
        draws, told = target.get("draws"), target.get("told", {})
        is_known = target.keys() - {"told"} == {"draws", "table"} and isinstance(told, dict)
        if not (is_known and type(draws) is int and draws >= 0):
            raise ValueError(
                f"a replay source's position must be {{'draws': 0.., 'table': name}}, got {str(position)[:200]}; it "
                "belongs to another source"
            )
        if target["table"] != self._table.name:
            raise ValueError(f"a position must be of table {self._table.name!r}, got {target['table']!r}; seek its own")
        self._draws, self._ids = draws, {}
        self._told = {int(draw): (np.array(ids, np.int64), np.array(losses)) for draw, (ids, losses) in told.items()}

    def close(self) -> None:
        """Close the table."""
        self._table.close()

    def _apply(self) -> None:
        """Let the losses that were told count, those of later draws last."""
        self._ids.clear()
        for _, (ids, priorities) in sorted(self._told.items()):
            self._table.reprioritize(ids, priorities)
        self._told = {}
