"""What a draw becomes: a reader says which rows may be drawn, and turns drawn rows into columns.

A drawn row is an anchor: the row itself, the first of a window, the first step of a return. A reader sees its table
through `TableView` and is called under the table's lock, so nothing moves while it looks.

Readers that walk in time need a table that is first in, first out: row number r (rows are numbered from 0 as they
are appended) lies in slot r % capacity. Rows of `num_streams` environments that step together are appended in turn,
environment 0 first, one row each at every step: row r belongs to stream r % num_streams, and row r + num_streams is
its next step. Nothing more is stored for it, and the capacity need not be a multiple of the streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.errors import NotEnoughData, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.replay.sampler import Draw, Sampler

PATIENCE = 32  # rounds that redraw exactly what is missing; at one valid row in ten 3 % of a batch is left after them
MOST_PROPOSALS = 1 << 16  # rows drawn in one round; half a megabyte of slots
CERTAINTY = 20  # fruitless draws for each row of the table; a single valid row is overlooked once in e ** 20 times


class TableView(Protocol):
    """What a reader sees of its table."""

    @property
    def schema(self) -> Schema:
        """Columns of a stored row."""
        ...

    @property
    def capacity(self) -> int:
        """Slots."""
        ...

    @property
    def is_fifo(self) -> bool:
        """Row number r lies in slot r % capacity."""
        ...

    @property
    def oldest(self) -> int:
        """Number of the oldest row that has not been overwritten; only where `is_fifo`."""
        ...

    @property
    def appended(self) -> int:
        """Number of the next row; only where `is_fifo`."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows that can be drawn."""
        ...

    def column(self, name: str) -> NDArray[Any]:
        """Live view of a column, `(capacity, ...)`, by slot; not to be written."""
        ...

    def read(self, slots: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Fresh columns of the rows in these slots, `(len(slots), ...)`."""
        ...


class Reader(Protocol):
    """Turns anchors into columns; belongs to one table."""

    def check(self, view: TableView) -> None:
        """Called once, when the table is made.

        Raises:
            SettingsError: the table lacks a column, or is not first in, first out where that is needed.
        """
        ...

    def schema(self, stored: Schema) -> dict[str, Column]:
        """Columns of what `read` gives, for rows that are stored under this schema."""
        ...

    def valid(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these slots, all of them with rows in them, may be an anchor."""
        ...

    def read(self, view: TableView, slots: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Fresh columns, `(len(slots), ...)`, of anchors that are valid."""
        ...

    def reset(self) -> None:
        """Forget what was noted of the rows: the table was loaded, restored or rewound."""
        ...


class Rows:
    """Each row as it was stored.

    Args:
        skip: a column of bool; rows where it is True are never drawn, such as those a vectorised environment gives
            while it resets.
    """

    def __init__(self, *, skip: str | None = None) -> None:
        self._skip = skip

    def check(self, view: TableView) -> None:
        """Refuse a table without the column to skip by."""
        require_columns(view, [self._skip] if self._skip else [])

    def schema(self, stored: Schema) -> dict[str, Column]:
        """As stored."""
        return dict(stored)

    def valid(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All but those to skip."""
        return not_skipped(view, slots, self._skip)

    def read(self, view: TableView, slots: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The rows."""
        return view.read(slots)

    def reset(self) -> None:
        """Nothing is noted."""


def draw_valid(sampler: Sampler, reader: Reader, view: TableView, size: int, random: np.random.Generator) -> Draw:
    """`size` slots from the sampler that are valid anchors; others are thrown away and drawn again.

    Rejection keeps ratios: of two valid rows each is drawn as many times as the other as the sampler would draw it,
    because both have the same number of chances and nothing but the sampler chooses between them. `probabilities`
    stay those of one draw by the sampler; given that a row is valid they are larger, all by the same factor, which
    cancels in sum(weights x gradient) / sum(weights).

    The first 32 rounds draw exactly what is missing, so that a sampler without replacement spends no valid row in
    vain. Where fewer than about one row in ten is valid, later rounds draw more than that and leave what is too much.
    Each round is a draw by itself: a batch that begins a new pass over the rows may hold a row of both passes.

    Raises:
        NotEnoughData: the sampler has nothing to draw, or no valid row was found.
    """
    draw = sampler.draw(size, random)
    missing = np.flatnonzero(~reader.valid(view, draw.slots))
    if len(missing) == 0:
        return draw
    slots = draw.slots.copy()
    probabilities = None if draw.probabilities is None else draw.probabilities.copy()
    rounds, fruitless = 0, size if len(missing) == size else 0
    while len(missing):
        if fruitless > CERTAINTY * view.num_rows:
            raise NotEnoughData(
                f"at least one of {view.num_rows} rows must be a valid anchor, {fruitless} draws found none; append "
                "more, shorten the windows or allow padding"
            )
        size = len(missing)
        if rounds >= PATIENCE:  # no more than there are rows: a sampler without replacement has no others
            size = max(size, min(MOST_PROPOSALS, view.num_rows, size << min(rounds - PATIENCE, 10)))
        more = sampler.draw(size, random)
        found = np.flatnonzero(reader.valid(view, more.slots))
        if len(found) > len(missing):  # any of them, not the first: a sampler may deal a batch in order of slots
            found = random.permutation(found)[: len(missing)]
        filled, missing = missing[: len(found)], missing[len(found) :]
        slots[filled] = more.slots[found]
        if probabilities is not None and more.probabilities is not None:
            probabilities[filled] = more.probabilities[found]
        rounds, fruitless = rounds + 1, 0 if len(found) else fruitless + len(more.slots)
    return draw._replace(slots=slots, probabilities=probabilities)


def row_numbers(view: TableView, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the rows in these slots of a first in, first out table."""
    newest = view.appended - 1
    return newest - (newest - slots) % view.capacity


def not_skipped(view: TableView, slots: NDArray[np.int64], skip: str | None) -> NDArray[np.bool_]:
    """True but where the column `skip` is."""
    return np.ones(len(slots), np.bool_) if skip is None else view.column(skip)[slots] == 0


def require_columns(view: TableView, names: Sequence[str]) -> None:
    """Refuse a table that lacks one of these columns.

    Raises:
        SettingsError: it does.
    """
    if absent := sorted({*names} - view.schema.keys()):
        raise SettingsError(
            f"a reader's columns must be among the table's {sorted(view.schema)}, got {absent}; rename them or add "
            "them to the schema"
        )


def require_order(view: TableView, num_streams: int) -> None:
    """Refuse a table whose rows cannot be walked in time.

    Raises:
        SettingsError: it is not first in, first out, or holds less than two steps of every stream.
    """
    if not view.is_fifo:
        raise SettingsError("a reader that walks in time needs a table that is first in, first out; use remover=Fifo()")
    if not 1 <= num_streams <= view.capacity // 2:
        raise SettingsError(
            f"num_streams must be 1 to half the capacity of {view.capacity} rows, got {num_streams}; raise the capacity"
        )
