"""Rows from the loop of a gymnasium vector environment, whichever way it resets.

    recorder = VectorRecorder.of(envs, table)
    observations, _ = envs.reset(seed=0)
    recorder.reset(observations)
    for _ in range(steps):
        actions = act(observations)
        observations, *outcome = envs.step(actions)
        recorder.step(actions, observations, *outcome)
    recorder.flush()

What follows the last step of an episode is found where the environment's mode has put it:

    next step    in the observations, as after any step; the step after it only resets: its action went nowhere, its
                 reward is 0, and its row is not recorded, or as a filler
    same step    in infos["final_obs"]; the observations are those of the next episode already
    disabled     in the observations; then the caller resets, and says so by `reset`

Nothing of gymnasium is imported: any environment that speaks like one will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from fedmb.batch.minibatch import Columns, Schema

Autoreset: TypeAlias = Literal["NextStep", "SameStep", "Disabled"]
OBSERVATION, NEXT_OBSERVATION, ACTION, REWARD = "observation", "next_observation", "action", "reward"
TERMINATED, TRUNCATED = "terminated", "truncated"


class Destination(Protocol):
    """Where rows go: a replay table, or anything else that takes rows of a schema."""

    @property
    def schema(self) -> Schema:
        """Columns of a row."""
        ...

    def append(self, columns: Columns) -> Any:  # what it answers is its own affair
        """Take rows."""
        ...


class VectorRecorder:
    """Makes rows of steps: observation, action, reward, next_observation, terminated, truncated.

    A dictionary of observations becomes a column for each entry: `observation.goal`, `next_observation.goal`. The
    rows of one step are appended together, environment 0 first, as readers with `num_streams` want them; nothing is
    appended between them.

    The newest step is held back until the next one, so that a `reset` in the middle of an episode can still mark it
    as truncated; `flush` hands it over when there is no next one.

    Args:
        destination: where rows go; its schema has the columns above. Numbers are converted to it within their kind.
        num_envs: environments.
        autoreset: the environment's mode, `envs.metadata["autoreset_mode"].value`.
        filler: a column of bool. None: a step that only resets gives no row, which is right where rows are drawn one
            by one. Where windows, returns or goals are read in time, every step must give a row of each environment:
            name the column here and as the reader's `skip`; it is True in rows that only reset.

    Raises:
        SettingsError: the mode is unknown, or the schema lacks a column.

    Source: https://farama.org/Vector-Autoreset-Mode.
    """

    def __init__(
        self, destination: Destination, num_envs: int, *, autoreset: Autoreset, filler: str | None = None
    ) -> None:
        if autoreset not in get_args(Autoreset):
            raise SettingsError(f"autoreset must be one of {get_args(Autoreset)}, got {autoreset!r}")
        if num_envs < 1:
            raise SettingsError(f"num_envs must be 1 or more, got {num_envs}")
        wanted = {ACTION, REWARD, TERMINATED, TRUNCATED, *([filler] if filler else [])}
        if absent := sorted(wanted - destination.schema.keys()):
            raise SettingsError(f"rows of steps need the columns {sorted(wanted)}, the schema lacks {absent}; add them")
        self._destination = destination
        self._dtypes = {name: np.dtype(column.dtype) for name, column in destination.schema.items()}
        self._num_envs = num_envs
        self._autoreset = autoreset
        self._filler = filler
        self._before: dict[str, NDArray[Any]] | None = None  # observations to act on, by column without its prefix
        self._held: dict[str, NDArray[Any]] | None = None
        self._is_row = np.ones(num_envs, np.bool_)  # of what is held
        self._ended = np.zeros(num_envs, np.bool_)

    @classmethod
    def of(cls, envs: Any, destination: Destination, *, filler: str | None = None) -> VectorRecorder:
        """A recorder for a gymnasium vector environment, which says how many it is and how it resets."""
        return cls(destination, envs.num_envs, autoreset=envs.metadata["autoreset_mode"].value, filler=filler)

    def reset(self, observations: Any, mask: NDArray[np.bool_] | None = None) -> None:
        """The environments where `mask` is True, by default all, were reset, and these are all observations now.

        The last row of an episode that still ran is marked as truncated.
        """
        were_reset = np.ones(self._num_envs, np.bool_) if mask is None else mask
        self._cut(were_reset)
        self._ended = self._ended & ~were_reset
        self._before = _flat(observations)

    def step(
        self,
        actions: Any,
        observations: Any,
        rewards: ArrayLike,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        infos: Mapping[str, Any] | None = None,
        *,
        others: Columns | None = None,
    ) -> None:
        """What `envs.step(actions)` gave; `others` are further columns of the schema, one value an environment.

        Raises:
            ValueError: there was no `reset` before, or, where autoreset is disabled, after an episode's end.
            ShapeError: observations at an episode's end are missing from the infos, or a row does not fit the schema;
                the latter is seen when the next step comes.
        """
        if self._before is None:
            raise ValueError("a recorder must know the first observations, got a step; call reset(observations)")
        if self._autoreset == "Disabled" and self._ended.any():
            raise ValueError(
                f"environments must be reset after an episode, {np.flatnonzero(self._ended).tolist()} were not; call "
                "reset(observations, mask)"
            )
        self._hand_over()
        after = _flat(observations)
        ended = np.logical_or(terminated, truncated)
        following = after
        if self._autoreset == "SameStep" and ended.any():
            following = self._with_final(after, ended, infos or {})
        columns: dict[str, Any] = {f"{OBSERVATION}{name}": column for name, column in self._before.items()}
        columns |= {f"{NEXT_OBSERVATION}{name}": column for name, column in following.items()}
        columns |= {ACTION: actions, REWARD: rewards, TERMINATED: terminated, TRUNCATED: truncated, **(others or {})}
        resets = self._ended if self._autoreset == "NextStep" else np.zeros(self._num_envs, np.bool_)
        self._held = {name: self._copied(name, column) for name, column in columns.items()}
        if self._filler:
            self._held[self._filler] = self._copied(self._filler, resets)
            self._held[TRUNCATED][resets] = True  # an episode of its own, so that no window crosses it
        else:
            self._is_row = ~resets
        self._before = after
        self._ended = ended

    def flush(self) -> None:
        """Hand over the step that was held back; episodes that still run are cut here, and marked as truncated."""
        self._cut(np.ones(self._num_envs, np.bool_))
        self._hand_over()

    def _cut(self, mask: NDArray[np.bool_]) -> None:
        if self._held is not None:
            self._held[TRUNCATED][mask & (self._held[TERMINATED] == 0)] = True

    def _hand_over(self) -> None:
        held, self._held = self._held, None
        if held is not None and self._is_row.all():
            self._destination.append(held)
        elif held is not None and self._is_row.any():
            self._destination.append({name: column[self._is_row] for name, column in held.items()})

    def _with_final(
        self, after: dict[str, NDArray[Any]], ended: NDArray[np.bool_], infos: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """Observations with those of the episodes' ends in place of those of the beginnings."""
        finals = infos.get("final_obs")
        lacking = [i for i in np.flatnonzero(ended).tolist() if finals is None or finals[i] is None]
        if finals is None or lacking:
            raise ShapeError(
                f"infos['final_obs'] must hold what environments {lacking} saw last, got nothing; pass the infos of "
                "this very step, or the right autoreset mode"
            )
        following = {name: column.copy() for name, column in after.items()}
        for i in np.flatnonzero(ended):
            for name, value in _flat(finals[i]).items():
                following[name][i] = value
        return following

    def _copied(self, name: str, column: Any) -> NDArray[Any]:
        """A copy, since environments may reuse their arrays, in the schema's type where that is of one kind."""
        array = np.array(column)
        dtype = self._dtypes.get(name, array.dtype)
        return array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else array


def transition_schema(
    envs: Any, *, filler: str | None = None, others: Mapping[str, Column] | None = None
) -> dict[str, Column]:
    """Columns of a transition in this vector environment, for a table that a `VectorRecorder` fills.

    Args:
        envs: a gymnasium vector environment.
        filler: the recorder's.
        others: further columns.

    Raises:
        SettingsError: observations or actions are neither arrays nor dictionaries of them.
    """
    observation = _space_columns(envs.single_observation_space)
    (action, *rest) = _space_columns(envs.single_action_space).items()
    if rest or action[0]:
        raise SettingsError(f"actions must be arrays, got {envs.single_action_space}; flatten them by a wrapper")
    return {
        **{f"{OBSERVATION}{name}": column for name, column in observation.items()},
        ACTION: action[1],
        REWARD: Column("float32"),
        **{f"{NEXT_OBSERVATION}{name}": column for name, column in observation.items()},
        TERMINATED: Column("bool"),
        TRUNCATED: Column("bool"),
        **({filler: Column("bool")} if filler else {}),
        **(others or {}),
    }


def _space_columns(space: Any) -> dict[str, Column]:
    if hasattr(space, "spaces") and hasattr(space.spaces, "items"):
        parts = {key: _space_columns(part) for key, part in space.spaces.items()}
        return {f".{key}{name}": column for key, part in parts.items() for name, column in part.items()}
    if space.shape is None or space.dtype is None:
        raise SettingsError(f"spaces must be arrays or dictionaries of them, got {space}; flatten it by a wrapper")
    return {"": Column(np.dtype(space.dtype).name, tuple(space.shape))}


def _flat(observations: Any) -> dict[str, NDArray[Any]]:
    """Arrays by name: "" alone, or one of the form ".key" for each entry of a dictionary."""
    if isinstance(observations, dict):
        parts = {key: _flat(part) for key, part in observations.items()}
        return {f".{key}{name}": column for key, part in parts.items() for name, column in part.items()}
    return {"": np.array(observations)}
