"""Goals that were reached, put in place of goals that were not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.episodes import EpisodeIndex
from fedmb.replay.reader import not_skipped, require_columns, require_order, row_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns, Schema
    from fedmb.replay.reader import TableView

Strategy: TypeAlias = Literal["future", "final", "episode"]


class Rule(Protocol):
    """What a row would have held, had the goal been another."""

    def __call__(self, achieved: NDArray[Any], goal: NDArray[Any], columns: Columns, /) -> NDArray[Any]:
        """One value for each row: the goals they achieved, the goals they now have, and all of their columns.

        An environment's `compute_reward` of gymnasium-robotics fits as it is; it gets the columns for its info.
        """
        ...


class Hindsight:
    """Drawn rows, most of them with a goal that their own episode achieved, and the reward for it.

    Which rows are relabelled is chosen for each by itself, with probability `ratio`. The new goal is what was achieved
    by a row of the same episode:

        future     the anchor or a row after it, each as likely
        final      the episode's last row; rows of an episode that has not ended are no valid anchors
        episode    any of its rows, before the anchor too, each as likely

    Only rows that are stored count: of an episode that still runs, or whose beginning was overwritten, goals are
    drawn from the rest. Among valid anchors frequencies are the sampler's.

    Args:
        goal: columns that hold the goal a row was after, all of them overwritten alike: `("goal", "next_goal")`.
        achieved: column of the goal that a row's step achieved, seen after the step.
        reward: the reward's rule.
        strategy: where goals come from.
        ratio: share of relabelled rows, 0 to 1; 0.8 is four of them for each one left as it was.
        reward_column: column of the reward.
        others: rules for further columns: `{"terminated": rule}` where reaching a goal ends an episode.
        ends: columns of bool; an episode's last row is True in one of them or more.
        num_streams: environments whose rows come in turn; see `fedmb.replay.reader`.
        skip: a column of bool; rows where it is True are no anchor. Let them end an episode, too.

    Raises:
        SettingsError: ratio is out of range, the strategy is unknown, or `goal` or `ends` is empty.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, section 3.2 and, for strategies and ratio, 4.5.
    """

    def __init__(
        self,
        *,
        goal: Sequence[str],
        achieved: str,
        reward: Rule,
        strategy: Strategy = "future",
        ratio: float = 0.8,
        reward_column: str = "reward",
        others: Mapping[str, Rule] | None = None,
        ends: Sequence[str] = ("terminated", "truncated"),
        num_streams: int = 1,
        skip: str | None = None,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise SettingsError(f"ratio must be 0 to 1, the share of relabelled rows, got {ratio}")
        if strategy not in get_args(Strategy):
            raise SettingsError(f"strategy must be one of {get_args(Strategy)}, got {strategy!r}")
        for name, columns in [("goal", goal), ("ends", ends)]:
            if isinstance(columns, str) or not columns:
                raise SettingsError(f"{name} must be a tuple of columns, one or more, got {columns!r}")
        self._goal = tuple(goal)
        self._achieved = achieved
        self._rules = {reward_column: reward, **(others or {})}
        self._strategy = strategy
        self._ratio = ratio
        self._ends = tuple(ends)
        self._num_streams = num_streams
        self._skip = skip
        self._index: EpisodeIndex | None = None

    def check(self, view: TableView) -> None:
        """Refuse a table without order or columns, or whose achieved goals do not fit into its goals."""
        require_order(view, self._num_streams)
        names = [*self._goal, self._achieved, *self._rules, *self._ends, *([self._skip] if self._skip else [])]
        require_columns(view, names)
        for name in self._goal:
            if view.schema[name] != view.schema[self._achieved]:
                raise SettingsError(
                    f"goals must be of one type and shape, got {name!r}: {view.schema[name]} and {self._achieved!r}: "
                    f"{view.schema[self._achieved]}; store them alike"
                )
        if self._index:
            raise SettingsError("a reader must belong to one table, this one has another; make one for each")
        self._index = EpisodeIndex(self._ends, self._num_streams, view.capacity)

    def schema(self, stored: Schema) -> dict[str, Column]:
        """As stored."""
        return dict(stored)

    def valid(self, view: TableView, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All but those to skip, and, for "final", but those of episodes that have not ended."""
        good = not_skipped(view, slots, self._skip)
        if self._strategy == "final":
            good &= self._followed(view).is_finished(row_numbers(view, slots))
        return good

    def read(self, view: TableView, slots: NDArray[np.int64], random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The rows, relabelled.

        Raises:
            ShapeError: a rule does not give one value a row.
        """
        columns = view.read(slots)
        chosen = np.flatnonzero(random.random(len(slots)) < self._ratio)
        if len(chosen) == 0:
            return columns
        index = self._followed(view)
        numbers = row_numbers(view, slots[chosen])
        first = -index.before(view, numbers) if self._strategy == "episode" else np.zeros(len(chosen), np.int64)
        last = index.after(view, numbers)
        steps = last if self._strategy == "final" else random.integers(first, last + 1)
        goals = view.column(self._achieved)[(numbers + steps * self._num_streams) % view.capacity]
        for name in self._goal:
            columns[name][chosen] = goals
        relabelled = {name: column[chosen] for name, column in columns.items()}
        for name, rule in self._rules.items():
            values = rule(relabelled[self._achieved], goals, relabelled)
            if np.shape(values) != relabelled[name].shape:
                raise ShapeError(
                    f"a rule must give one {name!r} a row, of shape {relabelled[name].shape}, got {np.shape(values)}; "
                    "let it compute on whole arrays and not sum over them"
                )
            columns[name][chosen] = values
        return columns

    def reset(self) -> None:
        """Look for episodes anew."""
        if self._index:
            self._index.reset()

    def _followed(self, view: TableView) -> EpisodeIndex:
        assert self._index, "the table checks its reader before it is read"
        self._index.follow(view)
        return self._index
