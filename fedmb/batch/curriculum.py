"""Easy rows first: a pace decides which part of a table, by difficulty, may be drawn.

The evidence is thin. Bengio et al. 2009 (ICML, section 5) found faster training on small problems; Wu et al. 2021
(arXiv:2012.03107, section 4) found no gain over plain shuffling in standard training, and gains where the budget of
steps is short or labels are noisy. Compare with `TableSource` before believing in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Columns, MiniBatch, Schema
from fedmb.batch.table import TableSource, Tail, batch_rows
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedmb.batch.source import SourcePosition

POSITION_KEYS = {"epoch", "cursor", "samples"}


def root_pace(start: float, samples: float, *, power: float = 1.0) -> Callable[[float], float]:
    """A pace from fraction `start` at the beginning to 1 after `samples` rows: linear, or a root of `power`.

    With power 2 the allowed part grows so that new rows come at the rate at which old ones are drawn.

    Raises:
        SettingsError: a number is out of range.

    Source: Platanios et al. 2019, arXiv:1903.09848, section 2.2.
    """
    if not (0 < start <= 1 and 0 < samples < math.inf and power >= 1):
        raise SettingsError(
            f"a pace needs start above 0 up to 1, samples above 0, power from 1, got {start}, {samples}, {power}; "
            "root_pace(0.2, 10_000) is linear from a fifth"
        )

    def pace(seen: float) -> float:
        if seen >= samples:
            return 1.0
        return float((start**power + (1 - start**power) * seen / samples) ** (1 / power))

    return pace


class Curriculum:
    """Mini-batches from the easiest part of a table, which grows until it is the table; a `BatchSource`.

    A pass goes once over the rows that the pace allowed when the pass began, in the order in which a `TableSource` of
    the same seed and client draws them in that epoch. So once the pace is 1 the rows are the table source's, bit for
    bit; a pace of 1 from the start is a `TableSource`.

    Args:
        columns: see `TableSource`.
        score: difficulty of each row, low is easy: `(examples,)`, the name of a column, or a function of the columns.
        pace: rows drawn so far -> part of the rows that may be drawn; never falls, at most 1, and depends on nothing
            else, or a resumed run draws other rows.
        seed: the run's seed.
        client: name or number of this site.
        tail: see `TableSource`; applies to every pass.

    Raises:
        SettingsError: scores are not one finite number a row, or as `TableSource`.
    """

    def __init__(
        self,
        columns: Columns,
        score: NDArray[Any] | str | Callable[[Columns], NDArray[Any]],
        pace: Callable[[float], float],
        *,
        seed: int,
        client: str | int,
        tail: Tail = "balance",
    ) -> None:
        self._rows = TableSource(columns, seed=seed, client=client, tail=tail)  # checks columns, seed and tail
        count = int(self._rows.examples_per_epoch)
        if isinstance(score, str) and score not in columns:
            raise SettingsError(f"a score must be a column of {sorted(columns)}, got {score!r}; name one", key="score")
        scores = columns[score] if isinstance(score, str) else score(columns) if callable(score) else score
        scores = np.asarray(scores)
        if scores.shape != (count,) or scores.dtype.kind not in "biuf" or not np.isfinite(scores).all():
            raise SettingsError(
                f"scores must be {count} finite numbers, one a row, got {scores.dtype} of shape {scores.shape}; replace"
                " what is missing by the largest score",
                key="score",
            )
        self._columns = {
            name: np.require(array, array.dtype.newbyteorder("="), ["C"]) for name, array in columns.items()
        }
        self._rank = np.empty(count, np.int64)  # of rows by difficulty, equal scores by row number
        self._rank[np.argsort(scores, kind="stable")] = np.arange(count)
        self._pace = pace
        self._tail: Tail = tail
        self._order = TableSource({"row": np.arange(count)}, seed=seed, client=client, tail="keep")
        self._go(0, 0, 0)

    @property
    def schema(self) -> Schema:
        """Columns of the table."""
        return self._rows.schema

    @property
    def examples_per_epoch(self) -> float:
        """Rows of the table, also while fewer are allowed."""
        return self._rows.examples_per_epoch

    @property
    def allowed(self) -> int:
        """Rows of this pass."""
        return len(self._pass)

    def take(self, size: int) -> MiniBatch:
        """The next rows of this pass as fresh arrays, at most `size` of them.

        Raises:
            ValueError: `size` is below 1.
            SettingsError: under tail "drop", `size` exceeds the allowed rows, which would drop them for ever; or the
                pace is not a fraction.
        """
        if size < 1:
            raise ValueError(f"a batch size must be 1 or more, got {size}; ask for a row")
        count = batch_rows(self.allowed - self._cursor, size, self._tail)
        if count == 0:
            # A pass of which nothing was drawn brings the pace no further.
            if self._cursor == 0:
                raise SettingsError(
                    f"a batch must fit into the {self.allowed} rows that the pace allows under tail 'drop', got size "
                    f"{size}; start the pace higher or use tail 'balance'",
                    key="tail",
                )
            self._go(self._epoch + 1, 0, self._samples + self._cursor)
            return self.take(size)
        rows = self._pass[self._cursor : self._cursor + count]
        columns = {name: array[rows] for name, array in self._columns.items()}
        self._cursor += count
        if self._cursor == self.allowed:
            self._go(self._epoch + 1, 0, self._samples + self._cursor)
        return MiniBatch(columns, origins={"private": count})

    def position(self) -> SourcePosition:
        """Pass, rows of it already given, and rows given before it: `{"epoch": 2, "cursor": 96, "samples": 410}`."""
        return {"epoch": self._epoch, "cursor": self._cursor, "samples": self._samples}

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave; an empty one is the beginning.

        Raises:
            ValueError: it has other keys, or the cursor lies outside the pass.
        """
        target = position or dict.fromkeys(POSITION_KEYS, 0)
        before = self.position()
        if target.keys() == POSITION_KEYS and all(type(n) is int and n >= 0 for n in target.values()):
            self._go(**target)
            if self._cursor < self.allowed:
                return
            self._go(**before)
        raise ValueError(
            f"a curriculum's position must be {{'epoch': 0.., 'cursor': 0.., 'samples': 0..}} within the pass, got "
            f"{position!r}; it belongs to another source, or to another pace"
        )

    def close(self) -> None:
        """Nothing to release: a table holds no file and no thread."""

    def _go(self, epoch: int, cursor: int, samples: int) -> None:
        fraction = self._pace(samples)
        if not 0 <= fraction <= 1:
            raise SettingsError(f"a pace must be 0 to 1, got {fraction} after {samples} rows; clip it", key="pace")
        self._order.seek({"epoch": epoch, "cursor": 0})
        order = self._order.take(len(self._rank)).columns["row"]
        allowed = max(1, math.ceil(fraction * len(self._rank)))
        self._pass = order[self._rank[order] < allowed]
        self._epoch, self._cursor, self._samples = epoch, cursor, samples
