import numpy as np
import pytest
from stacks import ZERO, models, stacked, whole

from fedmb.aggregation.geometric_median import GeometricMedian, median_shares
from fedmb.errors import NotEnoughData


def flat(model):
    return np.concatenate([model["w"].ravel(), model["b"].ravel()])


@pytest.mark.parametrize("seed", range(5))
def test_it_is_weiszfelds(seed):
    arrays, weights = models(9, seed, np.float64), np.random.default_rng(seed).integers(1, 9, 9).astype(float)
    points, median = whole(arrays), whole(arrays).mean(axis=0)
    for _ in range(500):
        pull = weights / np.linalg.norm(points - median, axis=1)
        median = pull @ points / pull.sum()

    found = flat(GeometricMedian().combine(stacked(arrays, weights), arrays[0]))
    assert np.allclose(found, median, atol=1e-6)


def test_a_majority_in_one_place_decides():
    arrays = [models(1)[0]] * 5 + models(4, seed=1)
    found = GeometricMedian().combine(stacked(arrays), ZERO)

    assert np.allclose(found["w"], arrays[0]["w"], atol=1e-4)


def test_integers_come_from_the_client_that_counts_most():
    arrays = [{"w": np.full(3, value), "n": np.array(k)} for k, value in enumerate([0.0, 1.0, 1.1, 0.9, 50.0])]

    assert GeometricMedian().combine(stacked(arrays, [1, 1, 1, 1, 1.5]), arrays[0])["n"] == 1


def test_clients_in_one_place_keep_their_weights():
    assert median_shares(np.zeros((3, 3)), np.array([0.5, 0.25, 0.25])).tolist() == [0.5, 0.25, 0.25]


def test_clients_without_weight_are_no_median():
    with pytest.raises(NotEnoughData, match="positive total weight"):
        GeometricMedian().combine(stacked(models(2), [0, 0]), ZERO)


def test_a_client_whose_distance_is_no_number_counts_nothing():
    arrays = [{"w": np.full(4, value)} for value in (1.0, 2.0, 3.0, 1e300, -1e300)]

    assert np.allclose(GeometricMedian().combine(stacked(arrays), {"w": np.zeros(4)})["w"], 2.0, atol=1e-3)
