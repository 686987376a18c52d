"""A ring on a device keeps to what replay tables promise, and its learner never waits for it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from frequencies import expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled_table import SCHEMA, ModelledTable, rows, same_rows, values
from torch.utils._python_dispatch import TorchDispatchMode

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.sample import Sample
from fedmb.training.device_prioritized import DevicePrioritized
from fedmb.training.device_ring import STAGED_ROWS, DeviceRing

CAPACITY = 10


def ring(capacity=CAPACITY, *, priorities=False, **options):
    sampler = DevicePrioritized(1.0, epsilon=0.5) if priorities else None
    return DeviceRing(SCHEMA, capacity, device="cpu", sampler=sampler, **options)


def on_host(sample):
    """The same sample with arrays."""
    parts = (None if part is None else part.numpy() for part in (sample.ids, sample.weights, sample.probabilities))
    return Sample({name: column.numpy() for name, column in sample.columns.items()}, *parts)


class ReadByHost:
    """A ring whose samples and counts are those of a `ReplayTable`."""

    def __init__(self, inner):
        self.ring, self.capacity, self.statistics = inner, inner.capacity, inner.statistics
        self.append, self.append_row = inner.append, inner.append_row

    def __len__(self):
        return len(self.ring)

    def sample(self, size, timeout):
        return on_host(self.ring.sample(size, timeout=timeout))

    def reprioritize(self, ids, priorities):
        return int(self.ring.reprioritize(ids, priorities))


counts = st.integers(1, 23)
calls = st.one_of(
    st.tuples(st.just("append"), counts),
    st.tuples(st.just("append_rows"), counts),
    st.tuples(st.just("sample"), counts),
    st.tuples(st.just("reprioritize"), st.lists(st.integers(-1, 60), max_size=9)),
)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("priorities", [False, True])
@given(st.lists(calls, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_ring_does_what_a_dictionary_of_rows_does(priorities, layout, called):
    model = ModelledTable(ReadByHost(ring(priorities=priorities, layout=layout)))

    for name, argument in called:
        if name == "reprioritize":
            model.reprioritize(argument, [1.0] * len(argument))
        else:
            getattr(model, name)(argument)


def test_ids_counts_chances_and_weights_are_those_of_a_replay_table():
    table = ReplayTable(SCHEMA, CAPACITY, sampler=Prioritized(0.7, 0.5))
    one = DeviceRing(SCHEMA, CAPACITY, device="cpu", sampler=DevicePrioritized(0.7, 0.5))
    random = np.random.default_rng(0)
    for first, count in [(0, 4), (4, 9), (13, 25), (38, 1), (39, 7)]:
        priorities = random.random(count) if count != 9 else None
        asked, ids = random.random(6) * 4, random.integers(-3, first + count, 6)

        assert table.append(rows(first, count), priorities=priorities).tolist() == (
            one.append(rows(first, count), priorities=priorities).tolist()
        )
        for each in (table, one):
            each.append_row(values(1000 + first))
        assert table.reprioritize(ids, asked) == one.reprioritize(ids, asked)
        theirs, ours = table.sample(64), on_host(one.sample(64))
        known = dict(zip(theirs.ids.tolist(), zip(theirs.probabilities, theirs.weights, strict=True), strict=True))
        for name, *chances in zip(ours.ids.tolist(), ours.probabilities, ours.weights, strict=True):
            assert name not in known or np.allclose(chances, known[name], rtol=1e-6)
        found = dataclasses.asdict(one.statistics())
        assert found.pop("refused") == 0
        wanted = {name: value for name, value in dataclasses.asdict(table.statistics()).items() if name in found}
        assert found == wanted | {"num_bytes": found["num_bytes"]}
        assert len(one) == len(table)


@pytest.mark.parametrize("priorities", [None, np.arange(10.0)])
def test_rows_come_as_often_as_they_should(priorities):
    one = ring(priorities=priorities is not None)
    one.append(rows(0, 7))
    one.append(rows(7, 10), priorities=priorities)

    drawn = torch.cat([one.sample(500).ids for _ in range(100)]).numpy() - 7

    chances = np.ones(10) if priorities is None else priorities + 0.5
    expect_frequencies(drawn, chances, stratified=priorities is not None)


def test_of_an_id_that_comes_twice_the_last_priority_counts_and_stale_ids_count_nothing():
    one = ring(priorities=True)
    one.append(rows(0, 14))

    applied = one.reprioritize(np.array([3, 5, 5, 14, -1, 4, 5, 4]), np.array([9.0, 1, 2, 9, 9, 4, 3, 0]))

    assert int(applied) == 2
    leaves = one._sampler.leaves.tolist()
    assert leaves == [1.5, 1.5, 1.5, 1.5, 0.5, 3.5, 1.5, 1.5, 1.5, 1.5]
    found = one.statistics()
    assert (found.reprioritized, found.stale, found.refused) == (2, 3, 0)


def test_a_priority_of_the_host_is_refused_at_once_and_one_of_the_device_is_counted():
    one = ring(priorities=True)
    one.append(rows(0, 4), priorities=torch.tensor([1.0, torch.nan, 2.0, -1.0]))
    wrong = np.array([1.0, np.nan])

    with pytest.raises(ValueError, match=r"priorities must be 0 to 1e\+100, got nan"):
        one.reprioritize(np.array([0, 1]), wrong)
    with pytest.raises(ValueError, match=r"priorities must be 0 to 1e\+100, got nan"):
        one.append(rows(4, 2), priorities=wrong)
    applied = one.reprioritize(torch.tensor([0, 1, 99]), torch.tensor([7.0, torch.inf, -1.0]))

    assert (len(one), int(applied)) == (4, 1)
    assert one._sampler.leaves[:4].tolist() == [7.5, 1.5, 2.5, 1.5]
    found = one.statistics()
    assert (found.reprioritized, found.stale, found.refused) == (1, 1, 3)


class NothingIsRead(TorchDispatchMode):
    """Fails where the host asks a device for a number: what would make it wait on a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.name() not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("priorities", [False, True])
def test_appending_drawing_and_weighing_ask_the_device_for_nothing(priorities):
    one = ring(priorities=priorities)
    given = {name: torch.from_numpy(column) for name, column in rows(0, 7).items()}

    with NothingIsRead():
        for _ in range(3):
            one.append(rows(0, 7))
            one.append(given, priorities=torch.rand(7))
            one.append_row(values(3))
            sample = one.sample(32)
            one.reprioritize(sample.ids, torch.rand(32))

    assert same_rows(on_host(sample).columns)
    with pytest.raises(AssertionError), NothingIsRead():
        int(one.reprioritize(sample.ids, torch.rand(32)))


def test_rows_are_copied_in_and_out():
    one = ring()
    columns, first = rows(0, 5), values(5)
    one.append(columns)
    one.append_row(first)
    for array in [*columns.values(), first[0]]:
        array.fill(0)
    for column in one.sample(9).columns.values():
        column.zero_()

    sample = on_host(one.sample(64))

    assert same_rows(sample.columns)
    assert set(sample.columns["number"].tolist()) == set(range(6))


def test_tensors_go_in_as_arrays_do():
    by_arrays, by_tensors = ring(), ring()
    for first, count in [(0, 4), (4, 9), (13, 25)]:
        by_arrays.append(rows(first, count))
        by_tensors.append({name: torch.from_numpy(column) for name, column in rows(first, count).items()})

    one, other = on_host(by_arrays.sample(64)), on_host(by_tensors.sample(64))

    assert one.ids.tolist() == other.ids.tolist()
    assert same_rows(one.columns)
    assert all(np.array_equal(one.columns[name], other.columns[name]) for name in SCHEMA)


def test_rows_that_wait_on_the_host_are_counted_and_drawn():
    one = ring(3 * STAGED_ROWS)
    for number in range(STAGED_ROWS + 5):
        one.append_row(values(number))
        assert len(one) == one.statistics().rows == number + 1

    assert set(on_host(one.sample(20 * STAGED_ROWS)).columns["number"].tolist()) == set(range(STAGED_ROWS + 5))


def test_a_row_that_does_not_follow_the_schema_is_refused_and_leaves_no_trace():
    one = ring()
    one.append_row(values(0))

    with pytest.raises(ShapeError, match="a row's 'x' must hold"):
        one.append_row([np.zeros(4, np.float32), 1, 2, False])

    assert set(on_host(one.sample(9)).columns["number"].tolist()) == {0}


def test_draws_depend_on_seed_client_and_name():
    def drawn(**key):
        one = ring(1000, **key)
        one.append(rows(0, 1000))
        return one.sample(20).ids.tolist()

    keys = [{}, {"seed": 1}, {"client": 1}, {"client": "1"}, {"name": "other"}]
    assert drawn() == drawn(seed=0, client=0)
    assert len({tuple(drawn(**key)) for key in keys}) == len(keys)


@pytest.mark.parametrize("make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_a_generator_that_is_brought_leaves_the_ring_s_own_alone(make):
    one, other = ring(), ring()
    for each in (one, other):
        each.append(rows(0, 8))

    lent = [one.sample(30, generator=make(3)).ids.tolist() for _ in range(2)]

    assert lent[0] == lent[1] != one.sample(30, generator=make(4)).ids.tolist()
    assert one.sample(30).ids.tolist() == other.sample(30).ids.tolist()


@pytest.mark.parametrize("priorities", [False, True])
def test_a_state_goes_on_to_the_bit(priorities):
    def use(each, step):
        each.append(rows(20 * step, 7))
        each.append_row(values(step))
        sample = each.sample(13)
        each.reprioritize(sample.ids - 2, torch.arange(13.0) + step)
        return [part if part is None else part.numpy().tobytes() for part in (sample.ids, sample.weights)]

    one, other = ring(priorities=priorities), ring(priorities=priorities)
    for step in range(4):
        use(one, step)
    one.append_row(values(77))
    state = one.state_dict()

    other.append(rows(0, 3))
    other.append_row(values(0))
    other.load_state_dict(state)

    assert all(isinstance(array, np.ndarray) for array in state["rows"].values())
    json.dumps({name: state[name] for name in ("format", "capacity", "device", "appended", "sampled", "counts")})
    assert one.statistics() == other.statistics()
    assert [use(one, step) for step in range(4, 9)] == [use(other, step) for step in range(4, 9)]


@pytest.mark.parametrize("other", [{"capacity": 11}, {"priorities": True}])
def test_a_state_of_other_settings_is_refused(other):
    with pytest.raises(ShapeError, match="a ring's state must fit its settings"):
        ring(**other).load_state_dict(ring().state_dict())


def test_what_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="seed must be 0 or more, got -1"):
        ring(seed=-1)
    with pytest.raises(SettingsError, match="a device is auto, cpu, cuda or cuda:N"):
        DeviceRing(SCHEMA, 5, device="abacus")
    with pytest.raises(SettingsError, match="got 0"):
        ring(0)
    with pytest.raises(NotEnoughData, match="needs a row to draw"):
        ring().sample(3)
    with pytest.raises(ValueError, match="got size=0"):
        ring().sample(0)
    with pytest.raises(ShapeError, match="columns must be"):
        ring().append({"x": np.zeros((2, 3), np.float32)})
    for priorities in (np.ones(2), torch.ones(2), torch.ones(3, 1)):
        with pytest.raises(ShapeError, match="a priority for each of 3 rows"):
            ring().append(rows(0, 3), priorities=priorities)
    closed = ring()
    closed.close()
    for use in (lambda: closed.append(rows(0, 3)), lambda: closed.append_row(values(0)), closed.state_dict):
        with pytest.raises(ValueError, match="closed"):
            use()
