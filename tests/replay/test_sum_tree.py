"""A wide tree draws in proportion to its leaves, and its sums are those of a tree built afresh, to the bit."""

import sys

import numpy as np
import pytest
from frequencies import expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay import sum_tree
from fedmb.replay.sum_tree import LARGEST, SMALLEST, SumTree

CAPACITIES = [1, 7, 4096, 4097, 70_000]  # one level, two and three
KERNELS = ["numpy", "numba"]


def filled(capacity, leaves, kernels="numpy"):
    tree = SumTree(capacity, kernels=kernels)
    tree.set(np.arange(len(leaves)), np.asarray(leaves, float))
    return tree


def leaf_under(leaves, target):
    """The slow reference: the first leaf whose end lies behind the target."""
    return int(np.flatnonzero(np.cumsum(leaves) > target)[0])


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_a_target_finds_the_leaf_on_which_it_lies(capacity, kernels):
    random = np.random.default_rng(capacity)
    leaves = random.integers(0, 3, capacity) * random.integers(0, 2, capacity) + (np.arange(capacity) == capacity // 2)
    tree = filled(capacity, leaves, kernels)  # whole numbers: every sum is exact, in any order
    num_draws = 40

    drawn = tree.draw(num_draws, np.random.default_rng(5))

    targets = (np.random.default_rng(5).random(num_draws) + np.arange(num_draws)) * (leaves.sum() / num_draws)
    assert tree.total() == leaves.sum()
    assert drawn.tolist() == [leaf_under(leaves, target) for target in targets]


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("kernels", KERNELS)
def test_leaves_are_drawn_in_proportion_to_their_values(kernels, stratified):
    random = np.random.default_rng(3)
    leaves = np.zeros(5000)
    some = random.choice(5000, 300, replace=False)
    leaves[some] = random.random(300) + 0.1
    tree = filled(5000, leaves, kernels)

    drawn = [tree.draw(256, random, stratified=stratified) for _ in range(200)]

    expect_frequencies(drawn, leaves, stratified=stratified)


def test_stratified_draws_take_one_leaf_from_each_stretch_and_independent_ones_do_not():
    tree, random = filled(8, np.ones(8)), np.random.default_rng(0)

    assert tree.draw(8, random).tolist() == list(range(8))
    assert np.unique(tree.draw(8, random, stratified=False)).size < 8


operations = st.lists(
    st.tuples(st.sampled_from(["store", "drop", "reprioritize", "draw"]), st.integers(0, 2**32 - 1)), max_size=25
)


@pytest.mark.parametrize("kernels", KERNELS)
@settings(deadline=None, max_examples=40)
@given(st.sampled_from(CAPACITIES), operations)
def test_whatever_happens_sums_and_draws_are_those_of_a_tree_built_afresh(kernels, capacity, steps):
    tree = SumTree(capacity, kernels=kernels)
    for operation, seed in steps:
        random = np.random.default_rng(seed)
        size = int(random.integers(1, min(capacity, 300) + 1))
        if operation == "store":
            first = int(random.integers(capacity))
            tree.set(np.arange(first, first + size) % capacity, np.full(size, random.random()))
        elif operation == "drop":
            tree.set(random.choice(capacity, size, replace=False), np.zeros(size))
        elif operation == "reprioritize":
            tree.set(random.choice(capacity, size, replace=False), 10.0 ** random.integers(-9, 9, size))
        elif tree.total() > 0:
            assert (tree.leaves[tree.draw(size, random, stratified=bool(seed % 2))] > 0).all()
    fresh = SumTree(capacity, kernels="numpy")
    fresh.load(tree.leaves)

    assert tree.total() == fresh.total()
    assert tree._tree.tobytes() == fresh._tree.tobytes()
    if tree.total() > 0:
        one, other = (each.draw(64, np.random.default_rng(1)) for each in (tree, fresh))
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("kernels", KERNELS)
@settings(deadline=None, max_examples=60)
@given(st.sampled_from(CAPACITIES), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_leaf_that_is_zero_is_never_drawn_however_unlike_the_others_are(kernels, capacity, seed, share):
    random = np.random.default_rng(seed)
    leaves = 10.0 ** random.integers(-300, 280, capacity) * (random.random(capacity) < share)
    leaves[random.integers(capacity)] = 1.0
    tree = filled(capacity, leaves, kernels)

    class Edges:
        """Chances at the very ends of what a generator answers."""

        def random(self, size):
            return random.choice([0.0, 1 - 2.0**-53, 0.5], size)

    for stratified in (True, False):
        assert (leaves[tree.draw(50, Edges(), stratified=stratified)] > 0).all()


def test_what_is_too_small_to_be_reckoned_with_counts_as_zero():
    tree = filled(3, [SMALLEST / 2, SMALLEST, 0.0])

    assert tree.leaves.tolist() == [0, SMALLEST, 0]
    assert set(tree.draw(20, np.random.default_rng(0)).tolist()) == {1}


def test_the_largest_leaves_can_be_summed():
    assert np.isfinite(filled(5000, np.full(5000, LARGEST)).total())


@pytest.mark.parametrize("kernels", KERNELS)
def test_nothing_is_drawn_where_all_leaves_are_zero(kernels):
    tree = filled(5000, np.zeros(5000), kernels)

    with pytest.raises(NotEnoughData, match="a priority above 0"):
        tree.draw(1, np.random.default_rng(0))


def test_leaves_of_another_number_are_refused():
    with pytest.raises(ShapeError, match="4 leaves does not fit 5"):
        SumTree(5).load(np.ones(4))


def test_groups_of_children_begin_at_a_cache_line():
    assert SumTree(10**6, kernels="numpy")._tree.ctypes.data % 64 == 0


def test_numba_is_taken_where_it_is_installed_and_never_needed(monkeypatch):
    assert sum_tree.compiled("auto") is not None
    assert sum_tree.compiled("numpy") is None
    with pytest.raises(SettingsError, match="auto, numpy or numba, got 'cuda'"):
        sum_tree.compiled("cuda")

    monkeypatch.setattr(sum_tree.importlib.util, "find_spec", lambda name: None)
    assert sum_tree.compiled("auto") is None
    monkeypatch.delitem(sys.modules, "fedmb.replay.tree_kernels")
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delattr("fedmb.replay.tree_kernels")
    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[numba\]'"):
        sum_tree.compiled("numba")
