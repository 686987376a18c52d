"""Laws that every aggregation rule keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import models, same, stacked

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum, krum
from fedmb.aggregation.rule import Mean

BEFORE = models(1, seed=123)[0]
BAD = 2
RULES = {
    "mean": Mean(),
    "clipped_mean": ClippedMean(),
    "clipped_mean to a norm": ClippedMean(norm=1.0),
    "trimmed_mean": TrimmedMean(BAD),
    "median": Median(),
    "geometric_median": GeometricMedian(),
    "krum": krum(BAD),
    "multi_krum": MultiKrum(BAD),
    "multi_krum, odd ones": MultiKrum(BAD, odd_medians=3.0, mixing=0.3),
}
LAW = settings(max_examples=25, deadline=None)
seeds, counts = st.integers(0, 2**32 - 1), st.integers(2 * BAD + 3, 12)


def weights_of(count, seed):
    return np.random.default_rng(seed).integers(1, 1000, count).astype(float)


@pytest.mark.parametrize("name", RULES)
@LAW
@given(seed=seeds, count=counts, data=st.data())
def test_the_order_of_arrival_changes_no_bit(name, seed, count, data):
    arrays, weights = models(count, seed), weights_of(count, seed)
    order = data.draw(st.permutations(range(count)))
    held = data.draw(st.sampled_from([0, 300, 1e9]))  # bytes in memory: none, some or all

    one = RULES[name].combine(stacked(arrays, weights), BEFORE)
    other = RULES[name].combine(stacked(arrays, weights, order, memory_bytes=held), BEFORE)
    assert same(one, other)


@pytest.mark.parametrize("name", RULES)
@LAW
@given(seed=seeds, count=counts, factor=st.sampled_from([2.0**-20, 3.0, 1e6]))
def test_only_the_ratios_of_weights_matter(name, seed, count, factor):
    arrays, weights = models(count, seed), weights_of(count, seed)

    one = RULES[name].combine(stacked(arrays, weights), BEFORE)
    other = RULES[name].combine(stacked(arrays, weights * factor), BEFORE)
    assert all(np.allclose(one[part], other[part], rtol=1e-6, atol=1e-6) for part in one)


@pytest.mark.parametrize("name", [name for name in RULES if name != "clipped_mean to a norm"])
@LAW
@given(seed=seeds, count=counts)
def test_one_model_of_all_clients_is_that_model(name, seed, count):
    model = models(1, seed)[0]

    assert same(RULES[name].combine(stacked([model] * count, weights_of(count, seed)), BEFORE), model)


@pytest.mark.parametrize("name", RULES)
@LAW
@given(seed=seeds, count=counts)
def test_what_is_given_is_not_written_to(name, seed, count):
    arrays = models(count, seed)
    for one in arrays:
        for array in one.values():
            array.flags.writeable = False
    model = RULES[name].combine(stacked(arrays), BEFORE)

    assert all(not np.shares_memory(model[part], one[part]) for one in arrays for part in model)
    assert [(part, array.dtype, array.shape) for part, array in model.items()] == [
        (part, array.dtype, array.shape) for part, array in arrays[0].items()
    ]


@pytest.mark.parametrize("name", [name for name in RULES if name != "mean"])
@LAW
@given(seed=seeds, count=counts, size=st.sampled_from([10.0, 1e4, 1e15]), apart=st.booleans())
def test_bad_clients_do_not_carry_the_model_away(name, seed, count, size, apart):
    random = np.random.default_rng(seed)
    honest = [
        {part: BEFORE[part] + array * np.float32(0.01) if part != "n" else array for part, array in one.items()}
        for one in models(count - BAD, seed)
    ]
    bad = [
        {
            **one,
            **{
                part: (size * (random.standard_normal(one[part].shape) if apart else 1)).astype(np.float32)
                if apart
                else np.full_like(one[part], size)
                for part in "wb"
            },
        }
        for one in models(BAD, seed + 1)
    ]
    arrays = honest + bad
    order = random.permutation(count)

    found = RULES[name].combine(stacked([arrays[k] for k in order]), BEFORE)
    for part in "wb":
        assert np.abs(found[part] - BEFORE[part]).max() < 0.5


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_how_few_updates_it_can_work_with_and_works_with_so_many(name):
    rule = RULES[name]
    for refused in range(BAD + 2):
        least = rule.least(refused)

        assert 1 <= least <= rule.least()
        rule.combine(stacked(models(least)), BEFORE, refused=refused)
