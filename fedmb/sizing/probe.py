"""A second size for a while, without which no line through what steps cost is known.

Goodput and energy policies read a line `cost = fixed + slope * rows` (`fedmb.sizing.affine_fit`). A run that has only
ever taken one size has a point and no line, and its policy would answer its start for ever. Which size is tried follows
from the sizes that were seen and not from how long they took, so two runs try the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.sizing.policy import BatchSize
    from fedmb.sizing.stats import Cost, Stats

COSTS: tuple[Cost, ...] = ("seconds", "joules")


def probe(policy: BatchSize, held: int, stats: Stats) -> int | None:
    """The size to take in place of `held` until the policy is asked again; None where `held` may stay.

    Half of it, which any memory bears, or twice it where the policy's bounds forbid half. None where the policy reads
    no cost, where nothing was observed yet, once the line is known, and where the bounds leave one size only.
    """
    if not any(cost in policy.reads and stats.lacks_a_size(cost) for cost in COSTS):
        return None
    return next((size for size in map(policy.within, (held // 2, 2 * held)) if size != held), None)
