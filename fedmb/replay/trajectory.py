"""Windows in time: stretches of one episode, `(size, time, ...)`, each begun at a drawn row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.episodes import EpisodeIndex
from fedmb.replay.reader import not_skipped, require_columns, require_order, row_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.reader import TableView

MASK = "mask"


class Windows:
    """The `length` rows that begin at each anchor, and `burn_in` rows before it; never beyond an episode's edge.

    Every column becomes `(size, burn_in + length, ...)`. Where rows may be missing (`pad`, or `burn_in` above 0) there
    is also `mask`, bool `(size, burn_in + length)`: False where a row would lie in another episode, was overwritten
    or has yet to come; such rows are 0. Burn-in rows are for warming a recurrent state up: learn from `[:, burn_in:]`.

    A row whose window is not whole is no valid anchor, and another is drawn for it, unless `pad` is True. So among
    valid anchors frequencies are the sampler's, and rows at an edge are seen in fewer windows than rows in the middle.
    A lack of rows to burn in is always padded: it invalidates no anchor.

    Args:
        length: rows learned from.
        ends: columns of bool; an episode's last row is True in one of them or more.
        burn_in: rows before the anchor.
        pad: take windows that an episode's end or the newest row cuts short, and mask what is missing.
        stride: only every `stride`-th row of an episode, from its first on, is an anchor, so windows overlap by
            `length - stride` rows; `math.inf`: only the first. From 2 on, an episode whose first row or the end
            before it was overwritten gives no window.
        num_streams: environments whose rows come in turn; see `fedmb.replay.reader`.
        skip: a column of bool; rows where it is True are no anchor. Let them end an episode, too.

    Raises:
        SettingsError: a number is out of range, or there is no column that ends an episode.

    Source: burn-in and overlapping sequences as in Kapturowski et al. 2019, "Recurrent Experience Replay in
    Distributed Reinforcement Learning" (R2D2), section 2.3.
    """

    def __init__(
        self,
        length: int,
        *,
        ends: Sequence[str] = ("terminated", "truncated"),
        burn_in: int = 0,
        pad: bool = False,
        stride: float = 1,
        num_streams: int = 1,
        skip: str | None = None,
    ) -> None:
        if length < 1 or burn_in < 0:
            raise SettingsError(f"a window needs 1 row or more, burn_in 0 or more, got {length} and {burn_in}")
        if not (stride >= 1 and (stride == math.inf or float(stride).is_integer())):
            raise SettingsError(f"stride must be a whole number of rows from 1 on, or math.inf, got {stride}")
        if isinstance(ends, str) or not ends:
            raise SettingsError(f"ends must be a tuple of columns, one or more, got {ends!r}")
        self._length = length
        self._ends = tuple(ends)
        self._burn_in = burn_in
        self._pad = pad
        self._stride = stride
        self._num_streams = num_streams
        self._skip = skip
        self._index: EpisodeIndex | None = None

    @classmethod
    def episodes(cls, max_length: int, **options: Any) -> Windows:  # the options are those of the class
        """Whole episodes from their first row, cut or padded to `max_length`; each is as likely as its first row."""
        return cls(max_length, pad=True, stride=math.inf, **options)

    def check(self, view: TableView) -> None:
        """Refuse a table without order, or without the columns that end an episode."""
        require_order(view, self._num_streams)
        require_columns(view, [*self._ends, *([self._skip] if self._skip else [])])
        if self._is_masked and MASK in view.schema:
            raise SettingsError(f"windows give a column {MASK!r}, which the table has too; rename the table's")
        span = (self._burn_in + self._length) * self._num_streams
        if span > view.capacity:
            raise SettingsError(
                f"windows must fit into the table's {view.capacity} rows, got {span} rows for {self._num_streams} "
                "streams; raise the capacity or shorten the windows"
            )
        if self._index:
            raise SettingsError("a reader must belong to one table, this one has another; make one for each")
        self._index = EpisodeIndex(self._ends, self._num_streams, view.capacity)

    def schema(self, stored: Schema) -> dict[str, Column]:
        """Every column with an axis for time, and the mask."""
        time = self._burn_in + self._length
        windows = {name: Column(column.dtype, (time, *column.shape)) for name, column in stored.items()}
        return windows | ({MASK: Column("bool", (time,))} if self._is_masked else {})

    def valid(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows whose window is whole, or may be padded, and that lie on the stride."""
        index = self._followed(view)
        numbers = row_numbers(view, slots)
        good = not_skipped(view, slots, self._skip)
        if not self._pad:
            good &= index.after(view, numbers) >= self._length - 1
        if self._stride > 1:
            step = index.step(view, numbers)
            good &= step == 0 if self._stride == math.inf else (step >= 0) & (step % int(self._stride) == 0)
        return good

    def read(self, view: TableView, slots: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The windows."""
        index = self._followed(view)
        numbers = row_numbers(view, slots)
        steps = np.arange(-self._burn_in, self._length)
        rows = numbers[:, None] + steps * self._num_streams
        mask = None
        if self._is_masked:
            mask = (steps <= index.after(view, numbers)[:, None]) & (-steps <= index.before(view, numbers)[:, None])
            rows = np.where(mask, rows, numbers[:, None])
        columns = view.read((rows % view.capacity).reshape(-1))
        windows = {name: column.reshape(*rows.shape, *column.shape[1:]) for name, column in columns.items()}
        if mask is not None:
            missing = ~mask
            for window in windows.values():
                window[missing] = 0
            windows[MASK] = mask
        return windows

    def reset(self) -> None:
        """Look for episodes anew."""
        if self._index:
            self._index.reset()

    @property
    def _is_masked(self) -> bool:
        return self._pad or self._burn_in > 0

    def _followed(self, view: TableView) -> EpisodeIndex:
        assert self._index, "the table checks its reader before it is read"
        self._index.follow(view)
        return self._index
