"""Compiled steps give numpy's bits."""

import numpy as np
import pytest

from fedmb.replay import tree_kernels
from fedmb.replay.sum_tree import SumTree


@pytest.mark.parametrize("capacity", [1, 3000, 5000, 70_000, 1_100_000])
def test_compiled_and_numpy_trees_hold_the_same_sums_and_draw_the_same_leaves(capacity):
    numpy, numba = (SumTree(capacity, kernels=kernels) for kernels in ("numpy", "numba"))
    random = np.random.default_rng(capacity)
    assert numba._compiled is tree_kernels

    for step in range(60):
        size = int(random.integers(1, min(capacity, 400) + 1))
        slots = random.choice(capacity, size, replace=False)
        values = random.random(size) * 10.0 ** random.integers(-8, 8, size) * (random.random(size) < 0.9) + 1e-12
        drawn = []
        for tree in (numpy, numba):
            tree.set(slots, values)
            drawn.append(tree.draw(256, np.random.default_rng(step), stratified=step % 2 == 0).tolist())
        assert drawn[0] == drawn[1]
        assert numpy._tree.tobytes() == numba._tree.tobytes()


def test_compiled_steps_hold_no_lock_of_the_interpreter():
    assert all(each.targetoptions["nogil"] for each in (tree_kernels.find, tree_kernels.repair))
