"""A replay table in the place of stable-baselines3's replay buffer.

    model = DQN("MlpPolicy", env, replay_buffer_class=TableReplayBuffer)
    model = DQN("MlpPolicy", env, replay_buffer_class=TableReplayBuffer, replay_buffer_kwargs={"n_steps": 3})

Same constructor, same samples; rows lie side by side in memory, which makes drawing them several times as fast.
Importing this module imports stable-baselines3, which must be installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.n_step import NStep
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.vec_env import VecNormalize

    from fedmb.replay.sample import Sample
    from fedmb.replay.sampler import Sampler

NEXT = "next_"
OBSERVATION = "observation"
FEW = 3  # environments; beyond, one call for all of them (7 us) costs less than one for each (1.7 us)


class PrioritizedSamples(NamedTuple):
    """What stable-baselines3's algorithms read of a sample, with weights, and ids for `update_priorities`."""

    observations: Any
    actions: torch.Tensor
    next_observations: Any
    dones: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor | None
    weights: torch.Tensor
    """Importance weights, float32 `(size, 1)`."""
    ids: NDArray[np.int64]


class TableReplayBuffer(ReplayBuffer):
    """stable-baselines3's `ReplayBuffer`, and its `DictReplayBuffer`, kept in a `ReplayTable`.

    Environments are drawn with the rows, each row as likely as the other, as there. Sampling is seeded by NumPy's
    global generator at construction, which the algorithm has seeded, so runs of one seed are alike.

    Args:
        buffer_size: rows of all environments together.
        observation_space: of one environment; arrays, or a dictionary of them.
        action_space: of one environment.
        device: where samples go.
        n_envs: environments.
        optimize_memory_usage: must be False: each row has its own next observation.
        handle_timeout_termination: an episode that a time limit ended is not done, and is bootstrapped.
        n_steps: steps of a return; from 2 on, samples have `discounts`, as with `NStepReplayBuffer`.
        gamma: the discount of such returns, the algorithm's own.

    Raises:
        SettingsError: `optimize_memory_usage` is True, or there is another number of steps or rows than can be.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if optimize_memory_usage:
            raise SettingsError(
                "optimize_memory_usage must be False, got True: a table keeps the next observation of every row; "
                "lower buffer_size instead"
            )
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self._env: VecNormalize | None = None
        self._seed = int(np.random.randint(2**31))  # noqa: NPY002  # the generator that stable-baselines3 seeds
        self._schema = self._row_schema()
        self._step = [((n_envs, *column.shape), np.dtype(column.dtype)) for column in self._schema.values()][:-2]
        self._no_cut = [False] * n_envs
        self.table = self._made()

    def add(
        self,
        obs: NDArray[Any] | dict[str, NDArray[Any]],
        next_obs: NDArray[Any] | dict[str, NDArray[Any]],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Copy one step of every environment in."""
        given = [*self._arrays(obs), action, reward, *self._arrays(next_obs)]
        steps = [
            array if array.shape == shape and array.dtype == dtype else np.asarray(array).reshape(shape).astype(dtype)
            for array, (shape, dtype) in zip(given, self._step, strict=True)
        ]
        ended = np.asarray(done).tolist()
        cut = self._no_cut
        if self.handle_timeout_termination and True in ended:
            cut = [bool(info.get("TimeLimit.truncated")) for info in infos]
        terminated = [over and not late for over, late in zip(ended, cut, strict=True)]
        truncated = [over and late for over, late in zip(ended, cut, strict=True)]
        if self.n_envs <= FEW:
            for env in range(self.n_envs):
                self.table.append_row([*[array[env] for array in steps], terminated[env], truncated[env]])
        else:
            steps += [np.array(terminated, np.bool_), np.array(truncated, np.bool_)]
            self.table.append(dict(zip(self._schema, steps, strict=True)))
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:  # samples, or samples of dictionaries
        """Draw rows, as tensors on the device; normalised by `env`, if there is one."""
        self._env = env
        return self._samples(self.table.sample(batch_size), env)

    def reset(self) -> None:
        """Forget every row."""
        super().reset()
        self.table = self._made()

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> Any:
        """Refused: rows are drawn by the table."""
        raise NotImplementedError("a table chooses its rows itself; call sample(batch_size)")

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_env": None}
        state["table"] = self.table.state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.table = self._made()
        self.table.load_state_dict(state["table"])

    def _sampler(self) -> Sampler | None:
        return None

    def _made(self) -> ReplayTable:
        reader = None
        if self.n_steps != 1:
            reader = NStep(
                self.n_steps,
                self.gamma,
                next_columns=[name for name in self._schema if name.startswith(NEXT)],
                of_reward=self._normalized,
                num_streams=self.n_envs,
            )
        capacity = self.buffer_size * self.n_envs
        return ReplayTable(self._schema, capacity, sampler=self._sampler(), reader=reader, seed=self._seed)

    def _row_schema(self) -> dict[str, Column]:
        shapes: Any = self.obs_shape  # of a dictionary of spaces: a dictionary
        parts = self._spaces().items()
        observation = {
            f"{OBSERVATION}.{key}" if key else OBSERVATION: Column(
                np.dtype(space.dtype).name, tuple(shapes[key] if key else shapes)
            )
            for key, space in parts
        }
        action = np.dtype(self._maybe_cast_dtype(self.action_space.dtype)).name
        return {
            **observation,
            "action": Column(action, (self.action_dim,)),
            "reward": Column("float32"),
            **{NEXT + name: column for name, column in observation.items()},
            "terminated": Column("bool"),
            "truncated": Column("bool"),
        }

    def _spaces(self) -> dict[str, spaces.Space[Any]]:
        space = self.observation_space
        return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}

    def _arrays(self, observations: Any) -> list[NDArray[Any]]:
        """In the order of the schema."""
        return [observations[key] for key in self._spaces()] if isinstance(observations, dict) else [observations]

    def _normalized(self, rewards: NDArray[Any]) -> NDArray[Any]:
        return self._normalize_reward(rewards, self._env)

    def _observations(self, prefix: str, columns: dict[str, NDArray[Any]], env: VecNormalize | None) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            return self._tensor(self._normalize_obs(columns[prefix + OBSERVATION], env))
        found = {key: columns[f"{prefix}{OBSERVATION}.{key}"] for key in self._spaces()}
        normalized: Any = self._normalize_obs(found, env)
        return {key: self._tensor(column) for key, column in normalized.items()}

    def _samples(self, sample: Sample, env: VecNormalize | None) -> Any:
        columns = sample.columns
        rewards = columns["reward"] if self.n_steps != 1 else self._normalize_reward(columns["reward"], env)
        parts = (
            self._observations("", columns, env),
            self._tensor(columns["action"]),
            self._observations(NEXT, columns, env),
            self._tensor(columns["terminated"].astype(np.float32)[:, None]),
            self._tensor(rewards[:, None]),
            self._tensor(columns["discount"][:, None]) if "discount" in columns else None,
        )
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return DictReplayBufferSamples(*parts) if is_dict else ReplayBufferSamples(*parts)

    def _tensor(self, array: Any) -> torch.Tensor:
        # Columns of a sample are fresh, but may lie in one block, a row beside the other.
        return self.to_torch(np.ascontiguousarray(array), copy=False)


class PrioritizedTableBuffer(TableReplayBuffer):
    """A `TableReplayBuffer` that draws by priority; samples are `PrioritizedSamples`.

    The algorithms of stable-baselines3 give no errors back and know no weights: they run, but learn as from rows that
    are all new. One that is to gain from priorities multiplies its loss by `weights` and then calls
    `update_priorities(samples.ids, errors)`.

    Args:
        alpha: how much priorities count; 0 is uniform.
        beta: how much of the bias the weights undo, 0 to 1.

    Others are those of `TableReplayBuffer`.
    """

    def __init__(self, *args: Any, alpha: float = 0.6, beta: float = 0.4, **options: Any) -> None:
        self._alpha, self._beta = alpha, beta
        super().__init__(*args, **options)

    def update_priorities(self, ids: NDArray[np.int64], errors: torch.Tensor | NDArray[Any]) -> int:
        """Take the size of a row's error as its priority; answers how many rows were still there."""
        found = errors.detach().cpu().numpy() if isinstance(errors, torch.Tensor) else errors
        return self.table.reprioritize(ids, np.abs(found).reshape(-1))

    def _sampler(self) -> Sampler | None:
        return Prioritized(self._alpha, self._beta, normalize="batch")

    def _samples(self, sample: Sample, env: VecNormalize | None) -> PrioritizedSamples:
        parts = super()._samples(sample, env)
        assert sample.weights is not None, "a prioritised draw has weights"
        return PrioritizedSamples(**parts._asdict(), weights=self._tensor(sample.weights[:, None]), ids=sample.ids)
