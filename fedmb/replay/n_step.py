"""Returns over several steps, made when a row is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.reader import not_skipped, require_columns, require_order, row_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.reader import TableView


class NStep:
    """The anchor's row, with the return of up to `n` steps in place of its reward.

    Let m be the number of steps from the anchor on: n, or fewer where the episode ends or the newest row is reached
    before. Then

        reward       r[0] + d r[1] + ... + d**(m - 1) r[m - 1]                   d is the discount
        next         what followed step m - 1: where to bootstrap from
        discount     d**m, or 0 where step m - 1 terminated: the factor of the bootstrapped value
        terminated, truncated                                                     as at step m - 1

    and everything else, observation and action first of all, is the anchor's. The target of a value is
    `reward + discount * value(next)`, with nothing else to be looked at: a truncated episode is bootstrapped from its
    last `next`, a terminated one is not. At the newest row a return of fewer steps is as right as one of n, so every
    row is a valid anchor, and its frequency is the sampler's.

    Args:
        n: steps at most.
        discount: d, 0 to 1.
        reward: column of the reward, of any shape; its returns are summed in float64.
        next_columns: columns that say what followed a row: its next observation.
        terminated: column of bool; the episode ended and there is nothing more to come.
        truncated: column of bool; the episode was cut short. None: none is.
        of_reward: what each step's reward counts as, applied to an array of rewards `(steps, rows, ...)` before
            they are summed: clipping, or a scale that changes as learning goes on. None: itself.
        discount_column: the name under which the factor is given, float32 `(size,)`.
        num_streams: environments whose rows come in turn; see `fedmb.replay.reader`.
        skip: a column of bool; rows where it is True are no anchor. Let them be truncated, too.

    Raises:
        SettingsError: `n` or `discount` is out of range.

    Source: Sutton and Barto, "Reinforcement Learning", 2nd edition, section 7.1; on truncation Pardo et al. 2018,
    arXiv:1712.00378.
    """

    def __init__(
        self,
        n: int,
        discount: float,
        *,
        reward: str = "reward",
        next_columns: Sequence[str] = ("next_observation",),
        terminated: str = "terminated",
        truncated: str | None = "truncated",
        of_reward: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        discount_column: str = "discount",
        num_streams: int = 1,
        skip: str | None = None,
    ) -> None:
        if n < 1:
            raise SettingsError(f"a return needs 1 step or more, got n={n}")
        if not 0 <= discount <= 1:
            raise SettingsError(f"discount must be 0 to 1, got {discount}")
        if isinstance(next_columns, str):
            raise SettingsError(f"next_columns must be a tuple of columns, got {next_columns!r}; add a comma")
        self._powers = np.float64(discount) ** np.arange(n + 1)
        self._reward = reward
        self._ends = (terminated,) if truncated is None else (terminated, truncated)
        self._from_last = (*next_columns, *self._ends)
        self._of_reward = of_reward
        self._discount_column = discount_column
        self._num_streams = num_streams
        self._skip = skip

    def check(self, view: TableView) -> None:
        """Refuse a table without order or without the columns."""
        require_order(view, self._num_streams)
        require_columns(view, [self._reward, *self._from_last, *([self._skip] if self._skip else [])])
        if self._discount_column in view.schema:
            raise SettingsError(
                f"n-step returns give a column {self._discount_column!r}, which the table has too; choose another "
                "discount_column"
            )

    def schema(self, stored: Schema) -> dict[str, Column]:
        """As stored, with float rewards and the discount."""
        reward = stored[self._reward]
        returns = Column(_float_type(np.dtype(reward.dtype)).name, reward.shape)
        return {**stored, self._reward: returns, self._discount_column: Column("float32")}

    def valid(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All but those to skip."""
        return not_skipped(view, slots, self._skip)

    def read(self, view: TableView, slots: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The returns."""
        numbers = row_numbers(view, slots)
        rows = numbers + (np.arange(len(self._powers) - 1) * self._num_streams)[:, None]  # (steps, rows)
        is_there = rows < view.appended
        places = np.where(is_there, rows, numbers) % view.capacity
        ends = np.zeros(rows.shape, np.bool_)
        for name in self._ends:
            ends |= view.column(name)[places] != 0
        # A step counts while no step before it has ended the episode.
        counts = is_there
        counts[1:] &= ~np.logical_or.accumulate(ends)[:-1]
        num_steps = counts.sum(axis=0)
        last = places[num_steps - 1, np.arange(len(slots))]

        columns = view.read(slots)
        rewards = view.column(self._reward)[places]
        dtype = _float_type(rewards.dtype)
        if self._of_reward:
            rewards = self._of_reward(rewards)
        factors = np.where(counts, self._powers[:-1, None], 0)
        columns[self._reward] = np.einsum("ts,ts...->s...", factors, rewards.astype(np.float64)).astype(dtype)
        for name in self._from_last:
            columns[name] = view.column(name)[last]
        terminated = columns[self._ends[0]] != 0
        columns[self._discount_column] = np.where(terminated, 0, self._powers[num_steps]).astype(np.float32)
        return columns

    def reset(self) -> None:
        """Nothing is noted."""


def _float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of a return over rewards of this type."""
    return dtype if dtype.kind == "f" else np.dtype(np.float32)
