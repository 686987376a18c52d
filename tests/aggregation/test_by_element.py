import numpy as np
import pytest
from stacks import ZERO, models, rows, stacked

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.errors import NotEnoughData, SettingsError


@pytest.mark.parametrize(("count", "bad"), [(3, 1), (10, 2), (10, 4), (41, 7)])
def test_the_trimmed_mean_is_that_of_three_lines(count, bad):
    arrays = models(count)
    ordered = np.sort(rows(arrays), axis=0)
    expected = ordered[bad : count - bad].mean(axis=0)

    found = TrimmedMean(bad).combine(stacked(arrays), ZERO)["w"]
    assert np.allclose(found.ravel(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_the_median_is_numpys(count, dtype):
    arrays = models(count, dtype=dtype)

    found = Median().combine(stacked(arrays), ZERO)["w"]
    assert found.dtype == dtype
    assert np.array_equal(found.ravel(), np.median(rows(arrays), axis=0).astype(dtype))


def test_updates_refused_before_are_no_longer_cut_off():
    arrays = models(10)
    ordered = np.sort(rows(arrays), axis=0)

    found = TrimmedMean(2).combine(stacked(arrays), ZERO, refused=1)["w"]
    assert np.allclose(found.ravel(), ordered[1:9].mean(axis=0), rtol=1e-6, atol=1e-7)
    plain = TrimmedMean(2).combine(stacked(arrays), ZERO, refused=5)["w"]
    assert np.allclose(plain.ravel(), ordered.mean(axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", [TrimmedMean(1), Median()])
def test_integers_are_the_lower_median_of_what_was_sent(rule):
    arrays = [{"seen": np.array([k, -k]), "on": np.array(k > 1)} for k in (5, 1, 2**60, 3)]
    found = rule.combine(stacked(arrays), {})

    assert found["seen"].tolist() == [3, -5]
    assert found["on"].dtype == np.bool_
    assert found["on"]


def test_a_weight_buys_nothing():
    arrays = models(5)
    heavy, alike = stacked(arrays, [1, 1e9, 1, 1, 1]), stacked(arrays)

    for rule in (TrimmedMean(1), Median()):
        assert np.array_equal(rule.combine(heavy, ZERO)["w"], rule.combine(alike, ZERO)["w"])


def test_too_few_updates_keep_the_previous_model():
    with pytest.raises(NotEnoughData, match=r"at least 5 updates, got 4; keep the previous .*aggregation\.bad_clients"):
        TrimmedMean(2).combine(stacked(models(4)), ZERO)
    with pytest.raises(NotEnoughData, match="at least 3 updates beside 1 refused, got 2"):
        TrimmedMean(2).combine(stacked(models(2)), ZERO, refused=1)


def test_a_rule_that_would_cut_nothing_is_refused():
    with pytest.raises(SettingsError, match="at least 1 bad client, got 0; set bad_clients"):
        TrimmedMean(0)
