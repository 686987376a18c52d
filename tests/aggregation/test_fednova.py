import numpy as np
import pytest
from stacks import models, whole

from fedmb.aggregation.fednova import FedNova
from fedmb.aggregation.rule import Mean
from fedmb.aggregation.stack import Stack
from fedmb.errors import NotEnoughData, ShapeError

BEFORE = models(1, seed=77)[0]


def flat(model):
    return np.concatenate([model["w"].ravel(), model["b"].ravel()]).astype(np.float64)


def stacked(arrays, weights, reaches):
    stack = Stack()
    for number, (model, weight, reach) in enumerate(zip(arrays, weights, reaches, strict=True)):
        stack.put(f"client-{number}", model, float(weight), reach=reach)
    return stack


def test_it_is_the_mean_direction_times_the_mean_reach():
    arrays, weights, reaches = models(4), np.array([1.0, 2, 3, 4]), np.array([0.1, 0.5, 0.2, 1.3])
    shares = weights / weights.sum()
    directions = (whole(arrays) - flat(BEFORE)) / reaches[:, None]

    found = flat(FedNova().combine(stacked(arrays, weights, reaches), BEFORE))
    assert np.allclose(found, flat(BEFORE) + (shares @ reaches) * (shares @ directions), atol=1e-5)


def test_of_equal_reaches_it_is_the_mean():
    arrays, weights = models(5), [3, 1, 4, 1, 5]
    found = FedNova().combine(stacked(arrays, weights, [0.3] * 5), BEFORE)
    mean = Mean().combine(stacked(arrays, weights, [0.3] * 5), BEFORE)

    assert all(np.allclose(found[name], mean[name], atol=1e-6) for name in mean)
    assert found["n"] == mean["n"] == 4


def test_what_is_no_parameter_is_averaged():
    arrays, weights, reaches = models(3), [1, 2, 3], [0.1, 1.0, 5.0]
    found = FedNova(frozenset({"w"})).combine(stacked(arrays, weights, reaches), BEFORE)
    every = FedNova().combine(stacked(arrays, weights, reaches), BEFORE)
    mean = Mean().combine(stacked(arrays, weights, reaches), BEFORE)

    assert np.array_equal(found["w"], every["w"])
    assert np.array_equal(found["b"], mean["b"])
    assert not np.allclose(found["b"], every["b"])


@pytest.mark.parametrize("reach", [0.0, -1.0, np.inf, np.nan])
def test_a_reach_that_is_none_is_refused(reach):
    with pytest.raises(ShapeError, match=r"must say how far its steps went, a number above 0, got .* 'client-1'"):
        FedNova().combine(stacked(models(2), [1, 1], [0.1, reach]), BEFORE)


def test_a_client_that_weighs_nothing_need_not_say_how_far_it_went():
    found = FedNova().combine(stacked(models(2), [1, 0], [0.1, np.nan]), BEFORE)

    assert np.allclose(found["w"], models(2)[0]["w"], atol=1e-6)


def test_no_weight_at_all_is_no_model():
    with pytest.raises(NotEnoughData, match="positive total weight"):
        FedNova().combine(stacked(models(2), [0, 0], [0.1, 0.1]), BEFORE)
