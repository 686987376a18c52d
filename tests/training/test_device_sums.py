"""Leaves on a device are drawn in proportion to their values, whatever the number of levels above them."""

import numpy as np
import pytest
import torch
from frequencies import expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.training.device_sums import DeviceSums, level_sizes

CPU = torch.device("cpu")


def filled(values, radix=3):
    sums = DeviceSums(len(values), CPU, radix=radix)
    sums.fill(0, len(values), torch.tensor(values, dtype=torch.float64))
    return sums


def leaf_of(values, target):
    """The slow reference: walk along the leaves."""
    for leaf, value in enumerate(values):
        if value and target < value:
            return leaf
        target -= value
    return max(leaf for leaf, value in enumerate(values) if value)


def test_a_level_has_whole_blocks_and_the_last_one_is_one_block():
    assert level_sizes(5, 8) == [8]
    assert level_sizes(9, 8) == [16, 8]
    assert level_sizes(1_000_000, 128) == [1_000_064, 7_936, 128]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=70).filter(any),
    st.integers(2, 5),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_a_target_finds_the_leaf_on_which_it_lies(values, radix, shares):
    targets = [share * sum(values) for share in shares]

    leaves = filled(values, radix).draw(torch.tensor(targets, dtype=torch.float64))

    assert leaves.tolist() == [leaf_of(values, target) for target in targets]


def test_a_leaf_that_is_zero_is_never_drawn_even_at_the_very_ends():
    random = np.random.default_rng(0)
    values = random.random(500) * (random.random(500) < 0.3)
    sums = filled(values.tolist(), 4)
    edges = np.concatenate([np.cumsum(values), np.nextafter(np.cumsum(values), np.inf), [0, values.sum() * 2]])

    leaves = sums.draw(torch.from_numpy(edges))

    assert (values[leaves.numpy()] > 0).all()


def test_leaves_come_as_often_as_their_values_say():
    values = np.random.default_rng(1).integers(0, 50, 200).astype(float)
    sums = filled(values.tolist(), 6)

    chances = torch.rand(60_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * sums.total()

    often = values > 3
    leaves = sums.draw(chances).numpy()
    expect_frequencies(leaves[often[leaves]], np.where(often, values, 0))
    assert not np.isin(leaves, np.flatnonzero(values == 0)).any()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40), st.integers(0, 9)), max_size=12), st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_every_sum_is_that_of_its_leaves_after_any_writes(writes, radix):
    sums, expected = filled([1.0] * 61, radix), np.ones(61)

    for start, count, value in writes:
        stop = min(61, start + count)
        slots = torch.arange(start, stop).flip(0)
        wanted = slots % 3 != 1
        if value % 2:
            sums.fill(start, stop, torch.tensor(float(value), dtype=torch.float64))
            expected[start:stop] = value
        else:
            given_values = torch.where(wanted, slots.double() + value, torch.nan)
            sums.put(slots, given_values, wanted)
            expected[slots[wanted]] = slots[wanted] + value

    assert sums.leaves.tolist() == expected.tolist()
    assert float(sums.total()) == expected.sum()
    assert [level.sum() for level in sums.stored()] == [expected.sum()] * len(sums.stored())


def test_levels_of_another_capacity_are_refused():
    with pytest.raises(ShapeError, match=r"levels must be of \[5, 3\]"):
        filled([1.0] * 5).load(filled([1.0] * 7).stored())
