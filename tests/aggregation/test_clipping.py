import numpy as np
import pytest
from stacks import models, stacked, whole

from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.rule import Mean
from fedmb.errors import SettingsError

BEFORE = models(1, seed=77)[0]


def flat(model):
    return np.concatenate([model["w"].ravel(), model["b"].ravel()]).astype(np.float64)


@pytest.mark.parametrize(("norm", "medians"), [(2.0, 1.0), (None, 1.0), (None, 0.5), (None, 1.5)])
def test_it_is_the_mean_of_shortened_changes(norm, medians):
    arrays, weights = models(6), np.array([1.0, 2, 3, 4, 5, 6])
    changes = whole(arrays) - flat(BEFORE)
    lengths = np.linalg.norm(changes, axis=1)
    bound = norm or medians * np.median(lengths)
    shortened = changes * np.minimum(1, bound / lengths)[:, None]

    found = flat(ClippedMean(norm, medians).combine(stacked(arrays, weights), BEFORE))
    assert np.allclose(found, flat(BEFORE) + weights @ shortened / weights.sum(), atol=1e-6)


def test_a_bound_that_nobody_reaches_is_the_mean_bit_for_bit():
    stack = stacked(models(6), [3, 1, 4, 1, 5, 9])

    assert np.array_equal(ClippedMean(1e6).combine(stack, BEFORE)["w"], Mean().combine(stack, BEFORE)["w"])


def test_no_client_moves_the_model_further_than_its_share_of_the_bound():
    arrays = [{**one, "w": one["w"] * np.float32(1e30 if k == 2 else 1)} for k, one in enumerate(models(4))]
    moved = flat(ClippedMean(1.0).combine(stacked(arrays), BEFORE)) - flat(BEFORE)

    assert np.linalg.norm(moved) <= 1.0 + 1e-6


def test_clients_that_stand_still_leave_the_model():
    found = ClippedMean().combine(stacked([BEFORE] * 3), BEFORE)

    assert np.array_equal(found["w"], BEFORE["w"])


@pytest.mark.parametrize("told", [{"norm": 0.0}, {"norm": float("inf")}, {"medians": -1.0}])
def test_a_bound_that_is_none_is_refused(told):
    with pytest.raises(SettingsError, match="above 0 and finite, got"):
        ClippedMean(**told)
