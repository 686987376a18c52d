"""Rows of real gymnasium loops hold what each environment did, whichever way it resets."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fedmb.batch.minibatch import Column, check_columns
from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.n_step import NStep
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.vector_env import VectorRecorder, transition_schema

LENGTHS = [3, 5, 2]  # steps of an episode of each environment
MODES = list(AutoresetMode)


class Counting(gymnasium.Env):
    """Observes (environment, episode, steps so far); odd episodes terminate, even ones are truncated."""

    action_space = gymnasium.spaces.Discrete(100)
    observation_space = gymnasium.spaces.Box(-1, 1000, (3,), np.int32)

    def __init__(self, number, length):
        self.number, self.length, self.episode = number, length, 0

    def seen(self):
        return np.array([self.number, self.episode, self.steps], np.int32)

    def reset(self, *, seed=None, options=None):
        self.episode, self.steps = self.episode + 1, 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        return self.seen(), float(action), over and self.episode % 2 == 1, over and self.episode % 2 == 0, {}


class Goals(Counting):
    observation_space = gymnasium.spaces.Dict(
        {"seen": Counting.observation_space, "goal": gymnasium.spaces.Dict({"x": gymnasium.spaces.Discrete(9)})}
    )

    def seen(self):
        return {"seen": super().seen(), "goal": {"x": np.int64(self.steps)}}


class Kept:
    """A destination that keeps what it is given."""

    def __init__(self, schema):
        self.schema, self.blocks = schema, []

    def append(self, columns):
        check_columns(columns, self.schema)
        self.blocks.append({name: column.copy() for name, column in columns.items()})

    def column(self, name):
        return np.concatenate([block[name] for block in self.blocks])


def vector(mode, *, kind=Counting, make=SyncVectorEnv, **options):
    makers = [lambda i=i, length=length: kind(i, length) for i, length in enumerate(LENGTHS)]
    return make(makers, autoreset_mode=mode, **options)


def played(envs, steps=20, *, filler=None, flush=True, into=None):
    """What a recorder made of a loop, with the number of the step as action."""
    kept = into or Kept(transition_schema(envs, filler=filler))
    recorder = VectorRecorder.of(envs, kept, filler=filler)
    observations, _ = envs.reset()
    recorder.reset(observations)
    for step in range(steps):
        actions = np.full(len(LENGTHS), step)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        recorder.step(actions, observations, rewards, terminated, truncated, infos)
        ended = terminated | truncated
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
            recorder.reset(observations, ended)
    if flush:
        recorder.flush()
    envs.close()
    return kept


def check_rows(kept, env):
    """Rows of one environment are its steps in order: none is missing, doubled or joined across an episode's edge."""
    mine = kept.column("observation")[:, 0] == env
    before, after = kept.column("observation")[mine], kept.column("next_observation")[mine]
    terminated, truncated = kept.column("terminated")[mine], kept.column("truncated")[mine]
    length = LENGTHS[env]
    for row in range(len(before)):
        episode, step = divmod(row, length)
        is_over = step == length - 1
        assert before[row].tolist() == [env, episode + 1, step]
        assert after[row].tolist() == [env, episode + 1, step + 1]
        assert terminated[row] == (is_over and episode % 2 == 0)
        assert truncated[row] == (episode % 2 == 1 if is_over else row == len(before) - 1)
    return len(before)


@pytest.mark.parametrize("copy", [True, False], ids=["copied", "reused"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_are_the_steps_of_each_environment(mode, copy):
    kept = played(vector(mode, copy=copy))

    counts = [check_rows(kept, env) for env in range(3)]

    resets = [20 // (length + 1) if mode == AutoresetMode.NEXT_STEP else 0 for length in LENGTHS]
    assert counts == [20 - lost for lost in resets]
    assert np.array_equal(kept.column("reward"), kept.column("action"))


@pytest.mark.parametrize("mode", MODES)
def test_environments_in_processes_give_the_same_rows(mode):
    one, other = played(vector(mode)), played(vector(mode, make=AsyncVectorEnv))

    assert all(np.array_equal(one.column(name), other.column(name)) for name in one.schema)


@pytest.mark.parametrize("mode", MODES)
def test_with_a_filler_each_step_gives_one_row_of_each_environment(mode):
    kept, bare = played(vector(mode), filler="filler"), played(vector(mode))

    filler = kept.column("filler")
    assert kept.column("observation")[:, 0].tolist() == [0, 1, 2] * 20
    assert filler.any() == (mode == AutoresetMode.NEXT_STEP)
    assert kept.column("truncated")[filler].all()
    assert not kept.column("terminated")[filler].any()
    for name in bare.schema:
        assert np.array_equal(kept.column(name)[~filler], bare.column(name))


@pytest.mark.parametrize("mode", MODES)
def test_a_dictionary_of_observations_becomes_columns(mode):
    kept = played(vector(mode, kind=Goals))

    assert kept.schema["observation.goal.x"] == Column("int64")
    assert kept.schema["next_observation.seen"] == Column("int32", (3,))
    assert np.array_equal(kept.column("observation.goal.x"), kept.column("observation.seen")[:, 2])
    assert np.array_equal(kept.column("next_observation.goal.x"), kept.column("next_observation.seen")[:, 2])
    assert np.array_equal(kept.column("next_observation.goal.x"), kept.column("observation.goal.x") + 1)


def test_a_reset_in_the_middle_of_an_episode_truncates_it():
    envs = vector(AutoresetMode.DISABLED)
    kept = Kept(transition_schema(envs))
    recorder = VectorRecorder.of(envs, kept)
    recorder.reset(envs.reset()[0])
    for _ in range(2):
        recorder.step(np.zeros(3, int), *envs.step(np.zeros(3, int)))

    recorder.reset(envs.reset()[0])
    recorder.step(np.zeros(3, int), *envs.step(np.zeros(3, int)))

    assert kept.column("terminated").tolist() == [False] * 5 + [True]
    assert kept.column("truncated").tolist() == [False] * 3 + [True, True, False]


def test_the_newest_step_is_held_back_until_it_is_known_to_go_on():
    assert len(played(vector(AutoresetMode.SAME_STEP), steps=1, flush=False).blocks) == 0
    assert len(played(vector(AutoresetMode.SAME_STEP), steps=2, flush=False).blocks) == 1


def test_further_columns_travel_with_their_rows():
    envs = vector(AutoresetMode.SAME_STEP)
    kept = Kept(transition_schema(envs, others={"chance": Column("float32")}))
    recorder = VectorRecorder.of(envs, kept)
    recorder.reset(envs.reset()[0])

    recorder.step(np.zeros(3, int), *envs.step(np.zeros(3, int)), others={"chance": [0.5, 0.25, 1]})
    recorder.flush()

    assert kept.column("chance").tolist() == [0.5, 0.25, 1]


def test_a_loop_in_the_wrong_order_is_refused():
    envs = vector(AutoresetMode.DISABLED)
    kept = Kept(transition_schema(envs))
    recorder, lost = VectorRecorder.of(envs, kept), VectorRecorder(kept, 3, autoreset="SameStep")
    observations, _ = envs.reset()
    outcome = (observations, np.zeros(3), np.array([True, False, False]), np.zeros(3, bool), {})

    with pytest.raises(ValueError, match="call reset"):
        recorder.step(np.zeros(3, int), *outcome)
    recorder.reset(observations)
    recorder.step(np.zeros(3, int), *outcome)
    with pytest.raises(ValueError, match=r"after an episode, \[0\] were not"):
        recorder.step(np.zeros(3, int), *outcome)
    lost.reset(observations)
    with pytest.raises(ShapeError, match=r"what environments \[0\] saw last"):
        lost.step(np.zeros(3, int), *outcome)


def test_numbers_are_converted_within_their_kind_only():
    envs = vector(AutoresetMode.SAME_STEP)
    recorder = VectorRecorder.of(envs, Kept(transition_schema(envs)))
    recorder.reset(envs.reset()[0])
    recorder.step(np.full(3, 0.5), *envs.step(np.zeros(3, int)))

    with pytest.raises(ShapeError, match="'action' must hold int64"):
        recorder.flush()


def test_schemas_and_modes_that_do_not_fit_are_refused():
    envs = vector(AutoresetMode.SAME_STEP)

    with pytest.raises(SettingsError, match=r"lacks \['filler'\]"):
        VectorRecorder.of(envs, Kept(transition_schema(envs)), filler="filler")
    with pytest.raises(SettingsError, match="autoreset must be one of"):
        VectorRecorder(Kept(transition_schema(envs)), 3, autoreset="Sometimes")
    with pytest.raises(SettingsError, match="1 or more, got 0"):
        VectorRecorder(Kept(transition_schema(envs)), 0, autoreset="SameStep")
    envs.single_observation_space = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)])
    with pytest.raises(SettingsError, match="arrays or dictionaries"):
        transition_schema(envs)
    envs.single_observation_space = envs.single_action_space
    envs.single_action_space = Goals.observation_space
    with pytest.raises(SettingsError, match="actions must be arrays"):
        transition_schema(envs)


class Both(Kept):
    """A destination that keeps rows and hands them on to a table."""

    def __init__(self, table):
        super().__init__(table.schema)
        self.table = table

    def append(self, columns):
        super().append(columns)
        self.table.append(columns)


@pytest.mark.parametrize("mode", MODES)
def test_returns_from_a_table_are_those_of_the_recorded_episodes(mode):
    envs = vector(mode)
    reader = NStep(3, 0.5, num_streams=3, skip="filler")
    table = ReplayTable(transition_schema(envs, filler="filler"), 100, reader=reader, sampler=Prioritized(alpha=0.5))
    kept = played(envs, 50, filler="filler", into=Both(table))

    sample = table.sample(2000)

    every = {name: kept.column(name) for name in kept.schema}
    ends = every["terminated"] | every["truncated"]
    walks = {}
    for number in set(sample.ids):
        walks[number] = [number]
        while len(walks[number]) < 3 and not ends[walks[number][-1]] and walks[number][-1] + 3 < 150:
            walks[number].append(walks[number][-1] + 3)
    last = np.array([walks[number][-1] for number in sample.ids])
    steps = np.array([len(walks[number]) for number in sample.ids])
    returns = [sum(0.5**k * every["reward"][row] for k, row in enumerate(walks[number])) for number in sample.ids]
    assert set(sample.ids) == set(50 + np.flatnonzero(~every["filler"][50:]))
    assert np.array_equal(sample.columns["observation"], every["observation"][sample.ids])
    assert np.array_equal(sample.columns["next_observation"], every["next_observation"][last])
    assert np.array_equal(sample.columns["discount"], np.where(every["terminated"][last], 0, 0.5**steps))
    assert np.array_equal(sample.columns["reward"], returns)
