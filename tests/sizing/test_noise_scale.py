"""Noise against exact values on least squares with normal inputs, where every moment has a closed form.

A row is x ~ N(0, I), y = x . w + e with e ~ N(0, s^2); the gradient of half the squared error at distance d from the
solution is (x . d - e) x, so G = d and the trace of its covariance is |d|^2 (D + 1) + s^2 D.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.sizing.noise_scale import cosine, heterogeneity, moments, noise_of

FEATURES, SPREAD = 12, 1.5
DRAWS = 3000
SEED = 20


def exact_trace(distance):
    return distance @ distance * (FEATURES + 1) + SPREAD**2 * FEATURES


def row_gradients(random, distance, *shape):
    x = random.standard_normal((*shape, FEATURES))
    return ((x @ distance) - SPREAD * random.standard_normal(shape))[..., None] * x


def distance_of(norm, random):
    direction = random.standard_normal(FEATURES)
    return norm * direction / np.linalg.norm(direction)


def group_norms(gradients, sizes):
    """Square norms (groups,) and that of the whole, from row gradients (rows, features)."""
    parts = np.split(gradients, np.cumsum(sizes)[:-1])
    return [float(np.sum(part.mean(0) ** 2)) for part in parts], float(np.sum(gradients.mean(0) ** 2))


def measured(sizes, draws=DRAWS, seed=SEED):
    """Moments of `draws` windows: traces, gradient squares and the exact values."""
    print(f"seed={seed}")
    random = np.random.default_rng(seed)
    distance = distance_of(1.0, random)
    windows = row_gradients(random, distance, draws, sum(sizes))
    found = [moments(sizes, *group_norms(window, sizes)) for window in windows]
    traces = np.array([one.trace for one in found])
    squares = np.array([one.gradient_square for one in found])
    return traces, squares, exact_trace(distance), float(distance @ distance)


def z_score(samples, exact):
    return (samples.mean() - exact) / (samples.std(ddof=1) / math.sqrt(len(samples)))


@pytest.mark.parametrize("sizes", [[8] * 4, [8, 8, 2], [16, 16], [1] * 32, [1, 31]], ids=str)
def test_both_moments_are_unbiased_for_any_grouping(sizes):
    traces, squares, trace, square = measured(sizes)

    assert abs(z_score(traces, trace)) <= 3
    assert abs(z_score(squares, square)) <= 3


def test_nominal_sizes_for_an_unequal_window_double_the_noise():
    print(f"seed={SEED}")
    random = np.random.default_rng(SEED)
    distance = distance_of(1.0, random)
    true, nominal = [], []
    for window in row_gradients(random, distance, DRAWS, 18):
        norms, total = group_norms(window, [8, 8, 2])
        true.append(moments([8, 8, 2], norms, total))
        mean = (8 * norms[0] + 8 * norms[1] + 8 * norms[2]) / 24
        nominal.append(24 * (mean - total) / 2)
    trace = exact_trace(distance)

    assert np.mean([one.trace for one in true]) == pytest.approx(trace, rel=0.05)
    assert np.mean(nominal) > 1.5 * trace


def test_ratio_of_means_is_the_noise_and_mean_of_ratios_is_nothing():
    traces, squares, trace, square = measured([8] * 4)
    of_means = noise_of(traces.mean(), squares.mean())
    # Spread of a ratio of means, by the delta method.
    influence = (traces - of_means * squares) / squares.mean()
    error = influence.std(ddof=1) / math.sqrt(len(traces))

    assert abs(of_means - trace / square) <= 3 * error
    assert abs((traces / squares).mean() - trace / square) > 10 * error
    assert (squares < 0).mean() > 0.05


@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 10**6))
def test_groups_of_one_row_give_the_trace_of_the_sample_covariance(rows, features, seed):
    gradients = np.random.default_rng(seed).standard_normal((rows, features))
    norms, total = group_norms(gradients, [1] * rows)

    found = moments([1] * rows, norms, total)

    assert found.trace == pytest.approx(gradients.var(axis=0, ddof=1).sum(), rel=1e-9)


@given(st.integers(2, 8), st.integers(1, 16), st.integers(0, 10**6))
def test_equal_groups_give_mccandlish(groups, rows, seed):
    gradients = np.random.default_rng(seed).standard_normal((groups * rows, 4))
    norms, total = group_norms(gradients, [rows] * groups)
    big, small = groups * rows, rows

    found = moments([rows] * groups, norms, total)

    assert found.gradient_square == pytest.approx((big * total - small * np.mean(norms)) / (big - small), abs=1e-9)
    assert found.trace == pytest.approx((np.mean(norms) - total) / (1 / small - 1 / big), abs=1e-9)


def test_clients_that_differ_are_told_from_noise():
    print(f"seed={SEED}")
    random = np.random.default_rng(SEED)
    sizes = np.array([8, 16, 32, 16])
    weights = sizes / sizes.sum()
    distances = [distance_of(1.0, random) for _ in sizes]
    mean = weights @ np.array(distances)
    tau_square = float(weights @ [d @ d for d in distances] - mean @ mean)
    trace = float(weights @ [exact_trace(d) for d in distances])
    naive, honest = [], []
    for _ in range(DRAWS):
        windows = [row_gradients(random, d, n) for d, n in zip(distances, sizes, strict=True)]
        norms = [float(np.sum(window.mean(0) ** 2)) for window in windows]
        total = float(np.sum(np.concatenate(windows).mean(0) ** 2))
        halves = [[len(window) // 2] * 2 for window in windows]
        own = [moments(half, *group_norms(w, half)).trace for w, half in zip(windows, halves, strict=True)]
        naive.append(moments(sizes, norms, total))
        honest.append(heterogeneity(sizes, norms, total, own))
    taus = np.array([one.tau_square for one in honest])
    squares = np.array([one.gradient_square for one in honest])
    read_as_noise = noise_of(np.mean([o.trace for o in naive]), np.mean([o.gradient_square for o in naive]))
    noise = noise_of(np.mean([o.trace for o in honest]), squares.mean())
    print(f"true noise {trace / (mean @ mean):.0f}, corrected {noise:.0f}, uncorrected {read_as_noise:.0f}")

    assert abs(z_score(taus, tau_square)) <= 3
    assert abs(z_score(squares, mean @ mean)) <= 3
    assert noise == pytest.approx(trace / (mean @ mean), rel=0.1)
    assert read_as_noise > 1.5 * noise
    assert 1 + taus.mean() / squares.mean() == pytest.approx(1 + tau_square / (mean @ mean), rel=0.1)


def test_alike_clients_have_no_heterogeneity():
    print(f"seed={SEED}")
    random = np.random.default_rng(SEED)
    distance = distance_of(1.0, random)
    taus = []
    for _ in range(DRAWS):
        windows = row_gradients(random, distance, 3, 8)
        norms = [float(np.sum(window.mean(0) ** 2)) for window in windows]
        total = float(np.sum(windows.mean((0, 1)) ** 2))
        own = [moments([1] * 8, *group_norms(window, [1] * 8)).trace for window in windows]
        taus.append(heterogeneity([8] * 3, norms, total, own).tau_square)

    assert abs(z_score(np.array(taus), 0.0)) <= 3


def test_cosine_of_a_batch_gradient_is_what_was_measured():
    # minibatch reference, section 7: noise 30 predicts these for batches of 4, 16, 64, 256.
    assert [round(cosine(30, size), 3) for size in (4, 16, 64, 256)] == [0.343, 0.59, 0.825, 0.946]
    assert cosine(math.inf, 8) == 0
    assert cosine(0, 8) == 1


def test_absent_and_buried_gradients_have_names():
    assert noise_of(None, 1.0) is None
    assert noise_of(2.0, 0.5) == 4
    assert noise_of(2.0, -0.1) == math.inf
    assert noise_of(0.0, -0.1) == 0


def test_rounding_never_makes_a_trace_negative():
    assert moments([4, 4], [1.0, 1.0], 1.0 + 1e-7).trace == 0


@pytest.mark.parametrize(
    ("sizes", "norms", "total", "error", "rule"),
    [
        ([8], [1.0], 1.0, ShapeError, "at least two groups"),
        ([8, 8], [1.0], 1.0, ShapeError, "at least two groups"),
        ([8, 0], [1.0, 1.0], 0.5, ValueError, "every group must have rows"),
        ([8, 8], [1.0, math.nan], 0.5, ValueError, "must be finite"),
        ([8, 8], [1.0, 1.0], 4.0, ValueError, "not of a sum"),
    ],
)
def test_groups_that_cannot_be_are_refused(sizes, norms, total, error, rule):
    with pytest.raises(error, match=rule):
        moments(sizes, norms, total)


def test_a_client_without_a_trace_is_refused():
    with pytest.raises(ShapeError, match="one finite trace"):
        heterogeneity([8, 8], [1.0, 1.0], 0.5, [3.0])


def test_a_cosine_needs_rows():
    with pytest.raises(ValueError, match="size must be positive"):
        cosine(30, 0)
