"""Gradient noise from any grouping of rows: micro-batches of a step, halves of a batch, clients of a round.

With M groups of n_m rows, N = sum n_m, w_m = n_m / N, mean gradients g_m and g = sum w_m g_m:

    Q     = sum w_m |g_m|^2 - |g|^2
    trace = N Q / (M - 1)              unbiased trace of the covariance of one row's gradient
    |G|^2 = |g|^2 - trace / N          unbiased squared norm of the true gradient
    noise = average(trace) / average(|G|^2)

Only squared norms enter, so groups need not show their gradients. Both moments are averaged first and divided last:
one measurement of |G|^2 is often negative, and the mean of ratios then means nothing. So nothing here divides one
measurement; `fedmb.sizing.stats.Stats` keeps the averages.

Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, which is the case of equal n_m (B_small = N / M,
B_big = N); unequal sizes are one-way analysis of variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FEWEST_GROUPS = 2
# Norms of 16-bit gradients carry relative errors of about 1e-3; a sum taken for a mean is off by far more.
NORM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Moments:
    """One unbiased measurement; average several before dividing."""

    trace: float
    """Trace of the covariance of a single row's gradient."""
    gradient_square: float
    """Squared norm of the true gradient; a single measurement may be negative."""


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """One unbiased measurement across clients; average several before dividing."""

    trace: float
    """Trace of the covariance within clients, averaged over rows: what a larger batch cures."""
    gradient_square: float
    """Squared norm of the true average gradient."""
    tau_square: float
    """Weighted variance of the clients' true gradients, which no batch size cures."""


def moments(sizes: ArrayLike, square_norms: ArrayLike, total_square_norm: float) -> Moments:
    """Both moments of the gradient from groups of rows drawn alike.

    Args:
        sizes: rows in each group, `(groups,)`; the true ones, unequal or not.
        square_norms: |g_m|^2 of each group's mean gradient, `(groups,)`.
        total_square_norm: |g|^2 of the mean gradient of all rows.

    Raises:
        ShapeError: the arrays differ in shape or hold fewer than two groups.
        ValueError: a size is not positive, a norm is not finite, or the total is not that of the mean.

    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1; here for unequal groups.
    """
    rows_in, norms = _groups(sizes, square_norms)
    rows = float(rows_in.sum())
    between = _between(rows_in / rows, norms, total_square_norm)
    trace = rows * between / (len(rows_in) - 1)
    return Moments(trace, total_square_norm - trace / rows)


def heterogeneity(
    sizes: ArrayLike, square_norms: ArrayLike, total_square_norm: float, traces: ArrayLike
) -> Heterogeneity:
    """What differs between clients, apart from the noise of the rows they happened to draw.

        tau^2 = Q - sum w_k (1 - w_k) trace_k / n_k
        |G|^2 = |g|^2 - sum w_k^2 trace_k / n_k

    Args:
        sizes: rows behind each client's gradient, `(clients,)`.
        square_norms: |g_k|^2 of each client's mean gradient, `(clients,)`.
        total_square_norm: |g|^2 of the mean gradient weighted by rows.
        traces: each client's own trace, measured on its own groups, `(clients,)`.

    Raises:
        ShapeError: the arrays differ in shape or hold fewer than two clients.
        ValueError: a size is not positive, a figure is not finite, or the total is not that of the mean.

    Source: tau^2 + |G|^2 over |G|^2 is B^2 of Li et al. 2018 (FedProx), arXiv:1812.06127, definition 3; the
    correction is that of one-way analysis of variance with unequal groups and unequal variances.
    """
    rows_in, norms = _groups(sizes, square_norms)
    within = np.asarray(traces, np.float64)
    if within.shape != rows_in.shape or not np.isfinite(within).all():
        raise ShapeError(f"every client must bring one finite trace, got {within.tolist()}; leave the client out")
    weights = rows_in / rows_in.sum()
    between = _between(weights, norms, total_square_norm)
    return Heterogeneity(
        trace=float(weights @ within),
        gradient_square=total_square_norm - float((weights**2) @ (within / rows_in)),
        tau_square=between - float((weights * (1 - weights)) @ (within / rows_in)),
    )


def noise_of(trace: float | None, gradient_square: float | None) -> float | None:
    """Noise scale of averaged moments in rows; None where one is unknown.

    `math.inf` where the average |G|^2 is not positive: every batch seen so far is small against the noise.

    Source: McCandlish et al. 2018, arXiv:1812.06162, equation 2.9 (B_simple).
    """
    if trace is None or gradient_square is None:
        return None
    if trace <= 0:
        return 0.0
    return trace / gradient_square if gradient_square > 0 else math.inf


def cosine(noise: float, size: float) -> float:
    """Expected cosine between the gradient of `size` rows and the true one: 1 / sqrt(1 + noise / size).

    Raises:
        ValueError: the size is not positive or the noise negative.

    Source: a corollary of E|g|^2 = |G|^2 + trace / size: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
    """
    if size <= 0 or noise < 0:
        raise ValueError(f"size must be positive and noise at least 0, got {size} and {noise}; measure the noise first")
    return 1 / math.sqrt(1 + noise / size)


def _groups(sizes: ArrayLike, square_norms: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both arrays in float64, checked."""
    rows_in, norms = np.asarray(sizes, np.float64), np.asarray(square_norms, np.float64)
    if rows_in.ndim != 1 or rows_in.shape != norms.shape or len(rows_in) < FEWEST_GROUPS:
        raise ShapeError(
            f"noise needs sizes and norms of at least two groups, got shapes {rows_in.shape} and {norms.shape}; "
            "split the batch in two halves"
        )
    if not (np.isfinite(rows_in).all() and (rows_in > 0).all()):
        raise ValueError(f"every group must have rows, got sizes {rows_in.tolist()}; leave empty groups out")
    if not (np.isfinite(norms).all() and (norms >= 0).all()):
        raise ValueError(f"squared norms must be finite and at least 0, got {norms.tolist()}; measure after unscaling")
    return rows_in, norms


def _between(weights: NDArray[np.float64], norms: NDArray[np.float64], total_square_norm: float) -> float:
    """Q = sum w |g_m|^2 - |g|^2, which is never negative but for rounding."""
    within = float(weights @ norms)
    if not math.isfinite(total_square_norm) or total_square_norm > within * (1 + NORM_TOLERANCE):
        raise ValueError(
            "|g|^2 of the mean gradient must be at most the weighted mean of the groups' "
            f"{within}, got {total_square_norm}; pass the norm of the mean over all rows, not of a sum"
        )
    return max(within - total_square_norm, 0.0)
