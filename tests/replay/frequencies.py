"""What tests of draws share: how often things came against how often they should have."""

import numpy as np


def expect_frequencies(drawn, probabilities, *, stratified=False):
    """Compare draws with their probabilities by a chi-square test at four deviations.

    Stratified draws vary less than independent ones, so that only too large a statistic speaks against them.
    """
    probabilities = np.asarray(probabilities, float)
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=len(probabilities))
    possible = probabilities > 0
    expected = counts.sum() * probabilities[possible] / probabilities.sum()
    degrees = np.count_nonzero(possible) - 1
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()

    assert len(counts) == len(probabilities)
    assert not counts[~possible].any(), f"impossible ones came: {np.flatnonzero(counts * ~possible)}"
    assert expected.min() > 5, "too few draws for a chi-square test"
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)
    assert stratified or statistic > degrees - 4 * np.sqrt(2 * degrees)


def bound(policy, capacity):
    policy.bind(capacity)
    return policy
