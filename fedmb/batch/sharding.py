"""Splitting one table into the shares of many clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dirichlet_shares(
    labels: NDArray[Any], shares: int, alpha: float, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Row numbers of each share in a split with label skew: each share draws its own mix of labels.

    Every row lands in exactly one share; shares differ by at most one row, so none is empty. Share k draws its label
    mix from Dirichlet(alpha * p), p being the labels' frequencies, and its rows without replacement; where a label
    runs out, the rest comes from the labels that remain in the proportions of the same mix, so late shares follow
    theirs less closely. Large `alpha` gives every share the mix of the table; near 0 a share holds few labels.

    Args:
        labels: one label per row, `(examples,)`, any dtype that can be compared.
        shares: number of shares, 1 to the number of rows.
        alpha: concentration, above 0.
        generator: decides the split; equal generators give equal splits.

    Raises:
        SettingsError: `shares` or `alpha` are out of range, or `labels` are not one per row.

    Source: Hsu et al. 2019, arXiv:1909.06335, section 3.
    """
    if labels.ndim != 1:
        raise SettingsError(f"labels must be one per row, got shape {labels.shape}; pass class numbers")
    if not 1 <= shares <= len(labels):
        raise SettingsError(f"shares must be 1 to the {len(labels)} rows there are, got {shares}", key="shares")
    if not 0 < alpha < np.inf:
        raise SettingsError(f"alpha must be above 0 and finite, got {alpha}; large means alike", key="alpha")
    _, kinds, counts = np.unique(labels, return_inverse=True, return_counts=True)
    pools = [generator.permutation(rows) for rows in np.split(np.argsort(kinds, kind="stable"), np.cumsum(counts)[:-1])]
    left = counts.astype(np.int64)
    result = []
    for share in range(shares):
        size = len(labels) // shares + (share < len(labels) % shares)
        mix = generator.dirichlet(np.maximum(alpha * counts / len(labels), np.finfo(float).tiny))
        drawn = _drawn_without_replacement(size, mix, left, generator)
        rows = [pool[stop - count : stop] for pool, stop, count in zip(pools, left, drawn, strict=True)]
        left -= drawn
        result.append(np.sort(np.concatenate(rows)))
    return result


def _drawn_without_replacement(
    size: int, mix: NDArray[np.float64], left: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """How many rows of each label make up `size` rows drawn by `mix` while no more than `left` exist."""
    drawn = np.zeros_like(left)
    while (missing := size - int(drawn.sum())) > 0:
        open_labels = drawn < left
        weights = np.where(open_labels, np.nan_to_num(mix), 0.0)
        if weights.sum() <= 0:  # a tiny alpha puts the whole mix on labels that have run out
            weights = (left - drawn).astype(np.float64)
        drawn = np.minimum(drawn + generator.multinomial(missing, weights / weights.sum()), left)
    return drawn


def shard(source_size: int, rank: int, world: int) -> slice:
    """Which of `source_size` rows in their global order worker `rank` of `world` takes: a level, consecutive part.

    Pure arithmetic: workers that read one source in step and each keep their part of every batch learn from the same
    rows, however many they are, and a run of four workers can be resumed by two, since the position is the source's.

        batch = source.take(size)                      # the same on every worker
        part = shard(len(batch), rank, world)
        batch.rows(part.start, part.stop)              # empty where there are more workers than rows

    Raises:
        SettingsError: `rank` is none of the `world` workers, or the size is negative.

    Source: elastic determinism, MosaicML Streaming, "Elastic determinism" in docs.mosaicml.com/projects/streaming.
    """
    if source_size < 0 or not 0 <= rank < world:
        raise SettingsError(
            f"a worker must be 0 to below the number of workers, got {rank} of {world} for {source_size} rows",
            key="rank",
        )
    return slice(rank * source_size // world, (rank + 1) * source_size // world)
