"""A table of which every batch is drawn by chance: each row by itself, whatever the others do (Poisson sampling).

    batch = rows i with u_i < size / rows          # u drawn anew for every batch

So a batch holds more or fewer rows than were asked for, and may hold none; gradients are divided by what was to be
expected, which makes their mean that of the table. It is the sampling by which a private step tells less of a row that
nobody knows to be in it: `fedmb.training.example_gradients`.

The whole state is the number of batches drawn, and what is drawn follows from a key and that number. The key is the
run's seed and the client's name, which repeats a run; whoever may not know the draws has to `rekey`.

Source: Abadi et al. 2016, arXiv:1607.00133, section 3.1; Mironov et al. 2019, arXiv:1908.10530, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.batch.minibatch import Columns, MiniBatch, Schema, check_columns, schema_of
from fedmb.batch.table import gatherable, row_gatherer
from fedmb.errors import SettingsError
from fedmb.seeding import generator

if TYPE_CHECKING:
    from fedmb.batch.source import SourcePosition

DRAWN = "drawn"  # the only key of its position


class PoissonSource:
    """Mini-batches of a table in memory, each row of it with a chance of its own; a `BatchSource`.

    Columns are kept as `TableSource` keeps them.

    Args:
        columns: arrays of equal length, first axis examples.
        seed: the run's seed.
        client: name or number of this site; another client draws other rows from the same seed.

    Raises:
        SettingsError: there is no row.
        ShapeError: columns differ in length, or one holds Python objects.
    """

    def __init__(self, columns: Columns, *, seed: int, client: str | int) -> None:
        self._schema = schema_of(columns)
        self._rows = check_columns(columns, self._schema)
        if self._rows == 0:
            raise SettingsError("a table must hold at least one row, got none; leave this client out of the run")
        self._gather = {name: row_gatherer(gatherable(name, array)) for name, array in columns.items()}
        self._key: tuple[int, int | str] = (int(seed), client)
        self._drawn = 0

    @property
    def schema(self) -> Schema:
        """Columns of the table."""
        return self._schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows of the table."""
        return self._rows

    def rate(self, size: int) -> float:
        """Chance with which each row is in a batch of `size`, in (0, 1]."""
        return min(1.0, size / self._rows)

    def rekey(self, key: int) -> None:
        """Draw from another key from now on, such as one of the system's entropy, that nobody can guess."""
        self._key = (key, "own key")

    def take(self, size: int) -> MiniBatch:
        """Rows in the order of the table, as fresh arrays; `size` of them are to be expected.

        Raises:
            ValueError: `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}")
        key, client = self._key
        random = generator(key, client, self._drawn, "poisson")
        rows = np.flatnonzero(random.random(self._rows) < self.rate(size))
        self._drawn += 1
        expected = min(size, self._rows)
        columns = {name: gather(rows, 0) for name, gather in self._gather.items()}
        return MiniBatch(columns, origins={"private": len(rows)}, expected=expected)

    def position(self) -> SourcePosition:
        """Batches drawn: `{"drawn": 40}`."""
        return {DRAWN: self._drawn}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        drawn = position.get(DRAWN) if position else 0
        if (position and position.keys() != {DRAWN}) or type(drawn) is not int or drawn < 0:
            raise ValueError(
                f"a position of rows drawn by chance must be {{'{DRAWN}': 0..}}, got {position!r}; it belongs to "
                "another source, or rows.sampling was changed: start a new run"
            )
        self._drawn = drawn

    def close(self) -> None:
        """Nothing to release: a table holds no file and no thread."""
