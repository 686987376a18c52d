"""The size that makes the most progress a second.

Progress a second is throughput times efficiency: a step of B rows takes a + c B seconds, and of its rows
B / (1 + B / noise) are worth their cost. The product has its maximum at B = sqrt(noise a / c): more where a step has
overhead to spread, less where rows are dear or the gradient is clear.

Source: Qiao et al. 2021 (Pollux), arXiv:2008.12260, section 3; the closed form follows for step times of the form
a + c B and equals the arg max of AdaptDL's expression.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from fedmb.sizing.policy import BatchSize, Progress, checked_start, relative_change

if TYPE_CHECKING:
    from fedmb.sizing.affine_fit import Line
    from fedmb.sizing.stats import Stats


def goodput(start: int) -> BatchSize:
    """`sqrt(noise * overhead / row_cost)`: the most progress a second on this machine.

    It needs step times at two sizes: tails of an epoch count, and where there are none a trainer takes half of the
    size, or twice it, for some steps (`fedmb.sizing.probe`).
    """
    return BatchSize(
        functools.partial(_goodput, checked_start(start)), reads=frozenset({"noise", "seconds"}), worth=goodput_gain
    )


def best_size(noise: float, cost: Line) -> float:
    """The size of most progress for its cost, where a step costs `fixed + slope * rows`.

    0 where nothing is fixed, so that no row need share it; `math.inf` where rows cost nothing.
    """
    if noise == 0 or cost.fixed == 0:
        return 0.0
    return math.sqrt(noise * cost.fixed / cost.slope) if cost.slope > 0 else math.inf


def progress_per_cost(size: float, noise: float, cost: Line) -> float:
    """Rows' worth of progress for one second (or joule): throughput times statistical efficiency.

    Source: Qiao et al. 2021, arXiv:2008.12260, section 3, up to a factor that no size changes.
    """
    if noise == 0:
        return 0.0
    return size / (1 + size / noise) / (cost.fixed + cost.slope * size)


def relative_gain(held: float, proposed: float, noise: float | None, cost: Line | None) -> float | None:
    """How much more progress for its cost `proposed` makes than `held`; None where it cannot be told."""
    if not noise or cost is None or not cost.fixed + cost.slope > 0:
        return None
    return progress_per_cost(proposed, noise, cost) / progress_per_cost(held, noise, cost) - 1


def goodput_gain(held: float, proposed: float, stats: Stats) -> float:
    """Relative gain in goodput; the relative change of the size where goodput is not known."""
    gain = relative_gain(held, proposed, stats.noise, stats.seconds_line)
    return relative_change(held, proposed, stats) if gain is None else gain


def _goodput(start: int, _progress: Progress, stats: Stats) -> float:
    noise, cost = stats.noise, stats.seconds_line
    return start if noise is None or cost is None else best_size(noise, cost)
