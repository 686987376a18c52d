"""The table gives what stable-baselines3's own buffers would give, and its algorithms learn from it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from fedmb.errors import SettingsError
from fedmb.training.stable_baselines import PrioritizedSamples, PrioritizedTableBuffer, TableReplayBuffer

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION = spaces.Box(-1, 1, (2,), np.float64)
SPACES = {
    "box": (BOX, ACTION),
    "pixels": (spaces.Box(0, 255, (2, 4, 4), np.uint8), spaces.Discrete(5)),
    "discrete": (spaces.Discrete(1000), spaces.MultiDiscrete([3, 4])),
    "dictionary": (spaces.Dict({"pose": BOX, "room": spaces.Discrete(1000)}), spaces.MultiBinary(3)),
}
NUM_ENVS, CAPACITY = 3, 60
FIELDS = ("observations", "actions", "next_observations", "dones", "rewards", "discounts")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of many processes on few cores each waits for the others
    yield
    torch.set_num_threads(threads)


def observed(space, numbers):
    """An observation for each number, which tells it from the others."""
    if isinstance(space, spaces.Dict):
        return {key: observed(part, numbers) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.asarray(numbers, np.int64)
    return np.broadcast_to(np.reshape(numbers, (-1, *[1] * len(space.shape))), (len(numbers), *space.shape)).astype(
        space.dtype
    )


def fill(buffers, steps, *, p_end=0.2):
    """Add the same random steps to each buffer; row numbers are in the observations."""
    random = np.random.default_rng(0)
    buffers[0].action_space.seed(0)
    for step in range(steps):
        numbers = np.arange(NUM_ENVS) + NUM_ENVS * step
        done = random.random(NUM_ENVS) < p_end
        infos = [{"TimeLimit.truncated": bool(over and random.random() < 0.5)} for over in done]
        actions = np.array([buffers[0].action_space.sample() for _ in range(NUM_ENVS)])
        rewards = random.integers(-8, 8, NUM_ENVS) / 8  # whose returns at a discount of 1/2 are exact
        for one in buffers:
            seen = observed(one.observation_space, numbers % 250)
            then = observed(one.observation_space, (numbers + NUM_ENVS) % 250)
            one.add(seen, then, actions, rewards, done, infos)


def made(kind, name, **options):
    return kind(CAPACITY, *SPACES[name], "cpu", n_envs=NUM_ENVS, **options)


def rows(samples):
    """Every distinct row of a sample, as sorted lists, and its tensors' types and shapes."""
    tensors = []
    for field in FIELDS:
        part = getattr(samples, field)
        tensors += [part[key] for key in sorted(part)] if isinstance(part, dict) else [part] * (part is not None)
    table = torch.cat([one.reshape(len(one), -1).double() for one in tensors], dim=1).numpy()
    return sorted(set(map(tuple, np.round(table, 5)))), [(one.dtype, one.shape[1:]) for one in tensors]


@pytest.mark.parametrize("steps", [8, 33], ids=["part", "wrapped"])
@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_samples_hold_the_same_rows(name, timeouts, steps):
    theirs = made(DictReplayBuffer if name == "dictionary" else ReplayBuffer, name, handle_timeout_termination=timeouts)
    ours = made(TableReplayBuffer, name, handle_timeout_termination=timeouts)
    fill([theirs, ours], steps)

    expected, got = theirs.sample(3000), ours.sample(3000)

    assert rows(got) == rows(expected)
    assert len(rows(got)[0]) == min(steps, 20) * NUM_ENVS
    assert (ours.size(), ours.pos, ours.full) == (theirs.size(), theirs.pos, theirs.full)
    assert type(got) is type(expected)


@pytest.mark.parametrize("steps", [8, 33], ids=["part", "wrapped"])
def test_returns_of_several_steps_are_the_same(steps):
    theirs = made(NStepReplayBuffer, "box", n_steps=3, gamma=0.5)
    ours = made(TableReplayBuffer, "box", n_steps=3, gamma=0.5)
    fill([theirs, ours], steps)

    expected, got = theirs.sample(3000), ours.sample(3000)

    alive = got.dones == 0  # behind a terminal the discount is theirs to ignore, and 0 here
    assert (expected.discounts[expected.dones == 0] > 0).all()
    assert (got.discounts[~alive] == 0).all()
    expected = expected._replace(discounts=torch.where(expected.dones == 1, 0, expected.discounts))
    assert rows(got) == rows(expected)


@pytest.mark.parametrize("options", [{}, {"n_steps": 3}], ids=["one step", "three steps"])
def test_observations_and_rewards_are_normalised_alike(options):
    envs = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * NUM_ENVS)
    normal = VecNormalize(envs, clip_reward=0.5)
    normal.reset()
    for _ in range(50):
        normal.step(np.array([envs.action_space.sample() for _ in range(NUM_ENVS)]))
    theirs = made(NStepReplayBuffer if options else ReplayBuffer, "box", **options)
    ours = made(TableReplayBuffer, "box", **options)
    fill([theirs, ours], 20, p_end=0)

    assert rows(ours.sample(3000, normal)) == rows(theirs.sample(3000, normal))
    assert rows(ours.sample(3000, normal)) != rows(ours.sample(3000))


@pytest.mark.parametrize("kind", [TableReplayBuffer, PrioritizedTableBuffer])
def test_rows_of_all_environments_are_equally_likely(kind):
    ours = made(kind, "box")
    fill([ours], 33)

    drawn = np.concatenate([ours.sample(60).observations[:, 0].numpy() for _ in range(300)])

    counts = np.unique(drawn, return_counts=True)[1]
    chi_square = ((counts - 300) ** 2 / 300).sum()
    assert len(counts) == CAPACITY
    assert chi_square < 59 + 4 * np.sqrt(2 * 59)


def test_priorities_change_what_is_drawn_and_weights_undo_it():
    ours = made(PrioritizedTableBuffer, "box", alpha=1, beta=1)
    fill([ours], 20)
    sample = ours.sample(CAPACITY * 20)
    numbers = sample.observations[:, :1]

    assert ours.update_priorities(sample.ids, torch.where(numbers < 30, -3.0, 1.0)) == CAPACITY
    after = ours.sample(8000)

    favoured = after.observations[:, :1] < 30
    assert favoured.float().mean() == pytest.approx(0.75, abs=0.02)
    assert torch.allclose(after.weights, torch.where(favoured, 1 / 3, 1.0), atol=1e-3)


def test_a_reset_forgets_every_row():
    ours = made(TableReplayBuffer, "box")
    fill([ours], 33)

    ours.reset()
    fill([ours], 2)

    assert ours.size() == 2
    assert len(rows(ours.sample(500))[0]) == 2 * NUM_ENVS


def test_the_memory_saving_variant_is_refused():
    with pytest.raises(SettingsError, match="lower buffer_size"):
        made(TableReplayBuffer, "box", optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(NotImplementedError, match="chooses its rows itself"):
        made(TableReplayBuffer, "box")._get_samples(np.arange(3))


DQN_OPTIONS = {"learning_starts": 100, "train_freq": 1, "buffer_size": 300, "device": "cpu", "seed": 3}


def learned(kind, **options):
    envs = make_vec_env("CartPole-v1", n_envs=2, seed=3)
    model = DQN("MlpPolicy", envs, replay_buffer_class=kind, **DQN_OPTIONS, **options)
    return model.learn(400)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(TableReplayBuffer, {}), (TableReplayBuffer, {"n_steps": 3, "gamma": 0.99}), (PrioritizedTableBuffer, {})],
    ids=["uniform", "three steps", "prioritised"],
)
def test_dqn_learns_from_it_and_runs_of_one_seed_are_alike(kind, options):
    first, second = (learned(kind, replay_buffer_kwargs=options) for _ in range(2))

    weights = [torch.cat([p.flatten() for p in model.policy.parameters()]) for model in (first, second)]
    assert torch.equal(*weights)
    assert weights[0].isfinite().all()
    assert first.replay_buffer.size() == 150
    assert first.replay_buffer.table.statistics().sampled > 0


def test_dqn_stores_what_it_would_store_in_its_own_buffer():
    at_random = {"exploration_fraction": 1e-9, "exploration_final_eps": 1}
    theirs, ours = (learned(kind, **at_random).replay_buffer for kind in (ReplayBuffer, TableReplayBuffer))

    assert rows(ours.sample(6000)) == rows(theirs.sample(6000))


def test_continuous_actions_and_dictionaries_are_learned_from():
    class Reach(gymnasium.Env):
        observation_space = spaces.Dict({"at": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(-1, 1, (2,))})
        action_space = spaces.Box(-1, 1, (2,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.steps, self.state = 0, {k: self.np_random.uniform(-1, 1, 2).astype(np.float32) for k in ("at", "goal")}
            return self.state, {}

        def step(self, action):
            self.steps += 1
            at = np.clip(self.state["at"] + action, -1, 1).astype(np.float32)
            self.state = {**self.state, "at": at}
            return self.state, -float(np.abs(at - self.state["goal"]).sum()), False, self.steps == 10, {}

    model = SAC("MultiInputPolicy", Reach(), replay_buffer_class=TableReplayBuffer, learning_starts=20, device="cpu")
    model.learn(60)

    sample = model.replay_buffer.sample(64)
    assert not sample.dones.any()  # time limits only
    assert sample.observations["at"].shape == (64, 2)


@pytest.mark.parametrize("kind", [TableReplayBuffer, PrioritizedTableBuffer])
def test_a_saved_buffer_goes_on_where_it_was(kind, tmp_path):
    model = learned(kind)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    other = DQN("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2), replay_buffer_class=kind, **DQN_OPTIONS)

    other.load_replay_buffer(tmp_path / "buffer.pkl")

    assert other.replay_buffer.size() == model.replay_buffer.size()
    for _ in range(3):
        assert torch.equal(other.replay_buffer.sample(32).observations, model.replay_buffer.sample(32).observations)


def test_a_loop_that_gives_errors_back_uses_weights_and_ids():
    class WeightedDQN(DQN):
        def train(self, gradient_steps, batch_size=100):
            for _ in range(gradient_steps):
                samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
                with torch.no_grad():
                    value = self.q_net_target(samples.next_observations).max(dim=1, keepdim=True).values
                    target = samples.rewards + (1 - samples.dones) * self.gamma * value
                errors = self.q_net(samples.observations).gather(1, samples.actions.long()) - target
                loss = (samples.weights * errors**2).mean()
                self.policy.optimizer.zero_grad()
                loss.backward()
                self.policy.optimizer.step()
                self.replay_buffer.update_priorities(samples.ids, errors)

    model = WeightedDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=PrioritizedTableBuffer, **DQN_OPTIONS)

    model.learn(300)

    statistics = model.replay_buffer.table.statistics()
    assert isinstance(model.replay_buffer.sample(4), PrioritizedSamples)
    assert statistics.reprioritized > 0
    assert statistics.stale == 0
