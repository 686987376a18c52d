"""Stacks that the tests of rules are about."""

import numpy as np

from fedmb.aggregation.stack import Stack

ZERO = {"w": np.zeros((7, 3), np.float32), "b": np.zeros(5, np.float32), "n": np.array(0)}


def models(count, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return [
        {
            "w": random.standard_normal((7, 3)).astype(dtype),
            "b": random.standard_normal(5).astype(dtype),
            "n": np.array(k),
        }
        for k in range(count)
    ]


def stacked(arrays, weights=None, order=None, **options):
    """A stack of models whose clients are named a, b, ... whatever order they come in."""
    stack = Stack(**options)
    weights = [1.0] * len(arrays) if weights is None else weights
    for k in range(len(arrays)) if order is None else order:
        stack.put(f"client-{k:04d}", arrays[k], float(weights[k]))
    return stack


def rows(arrays, name="w"):
    """One array of all models, `(clients, elements)`, in float64."""
    return np.stack([one[name].astype(np.float64).ravel() for one in arrays])


def whole(arrays):
    """All floating values of all models, `(clients, elements)`, in float64."""
    return np.concatenate([rows(arrays, "w"), rows(arrays, "b")], axis=1)


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
    )
