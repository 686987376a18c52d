"""What a policy may know about the run: noise, time, energy, loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedmb.sizing.affine_fit import AffineFit
from fedmb.sizing.moving_average import MovingAverage
from fedmb.sizing.noise_scale import heterogeneity, moments, noise_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from fedmb.sizing.affine_fit import Line

Cost: TypeAlias = Literal["seconds", "joules"]
"""What a step of some rows may cost."""

# A noise of 50 rows measured on batches of 32 is known to about 5 % after so many rows (256 measurements).
HALF_LIFE_ROWS = 8192.0
# Long enough to average timer noise, short enough to follow a machine that gets busy.
HALF_LIFE_STEPS = 256.0


class Stats:
    """Running figures of one learner, small and JSON-able; every figure is None until it is known.

    The two moments of the gradient are averaged apart and divided last. Moments, loss and heterogeneity forget by
    rows, so a changed batch size does not change their memory; cost forgets by steps.

    Args:
        half_life_rows: rows observed until a measurement of moments or loss counts half.
        half_life_steps: steps until a measurement of time or energy counts half.

    Raises:
        SettingsError: a half-life is not a positive number.
    """

    def __init__(self, *, half_life_rows: float = HALF_LIFE_ROWS, half_life_steps: float = HALF_LIFE_STEPS) -> None:
        self._averages = {
            name: MovingAverage(half_life_rows) for name in ("trace", "gradient_square", "tau_square", "loss")
        }
        self._fits = {name: AffineFit(half_life_steps) for name in ("seconds", "joules")}
        self.steps = 0
        """Steps observed."""
        self.rows = 0
        """Rows of these steps."""
        self.seconds = 0.0
        """Seconds of these steps."""
        self.joules = 0.0
        """Joules that were spent, on whatever steps."""
        self.measurements = 0
        """Measurements of moments that were counted."""
        self.set_aside = 0
        """Measurements that were not finite and not counted."""

    def observe_groups(self, sizes: ArrayLike, square_norms: ArrayLike, total_square_norm: float) -> None:
        """Count a measurement of groups of rows drawn alike; see `fedmb.sizing.noise_scale.moments`.

        A measurement that is not finite, such as one of a step skipped for overflow, is set aside.

        Raises:
            ShapeError: the arrays differ in shape or hold fewer than two groups.
            ValueError: a size is not positive, or the total is not that of the mean.
        """
        if self._is_broken(square_norms, total_square_norm):
            return
        found = moments(sizes, square_norms, total_square_norm)
        self._count(sizes, trace=found.trace, gradient_square=found.gradient_square)

    def observe_clients(
        self, sizes: ArrayLike, square_norms: ArrayLike, total_square_norm: float, traces: ArrayLike
    ) -> None:
        """Count a measurement across clients; see `fedmb.sizing.noise_scale.heterogeneity`.

        Raises:
            ShapeError: the arrays differ in shape or hold fewer than two clients.
            ValueError: a size is not positive, or the total is not that of the mean.
        """
        if self._is_broken(square_norms, total_square_norm, traces):
            return
        found = heterogeneity(sizes, square_norms, total_square_norm, traces)
        self._count(sizes, trace=found.trace, gradient_square=found.gradient_square, tau_square=found.tau_square)

    def observe_step(self, rows: int, seconds: float, joules: float | None = None) -> None:
        """Count what a step of `rows` took; leave joules out where nothing measures them.

        The first step after a start compiles, allocates and tunes: better not to report it. What it spent is spent all
        the same: tell `spend` of every joule, which this does not.

        Raises:
            ValueError: rows are below 1 or a cost is negative or not finite.
        """
        costs = [seconds] if joules is None else [seconds, joules]
        if rows < 1 or not all(0 <= cost < math.inf for cost in costs):
            raise ValueError(
                f"a step has rows and costs at least 0, got {rows} rows, {seconds} s, {joules} J; time whole steps"
            )
        self.steps += 1
        self.rows += rows
        self.seconds += seconds
        self._fits["seconds"].observe(rows, seconds)
        if joules is not None:
            self._fits["joules"].observe(rows, joules)

    def spend(self, joules: float) -> None:
        """Count joules that are gone, whichever step or waiting they went into.

        Raises:
            ValueError: they are negative or not finite.
        """
        if not 0 <= joules < math.inf:
            raise ValueError(f"spent energy must be at least 0 J and finite, got {joules}; read one meter twice")
        self.joules += joules

    def observe_loss(self, mean_loss: float, rows: int) -> None:
        """Count the mean loss over `rows`; one that is not finite is set aside."""
        if math.isfinite(mean_loss):
            self._averages["loss"].observe(mean_loss, rows)
        else:
            self.set_aside += 1

    @property
    def trace(self) -> float | None:
        """Trace of the covariance of one row's gradient."""
        return self._averages["trace"].value

    @property
    def gradient_square(self) -> float | None:
        """Squared norm of the true gradient; its average may still be negative after few measurements."""
        return self._averages["gradient_square"].value

    @property
    def noise(self) -> float | None:
        """Noise scale in rows: average trace over average |G|^2.

        None before the first measurement. `math.inf` while the average |G|^2 is not positive: the gradient cannot be
        told from noise, so every batch seen was small against it. Policies meet their upper bound there.
        """
        return noise_of(self.trace, self.gradient_square)

    @property
    def tau_square(self) -> float | None:
        """Variance between the clients' true gradients; None without measurements across clients."""
        return self._averages["tau_square"].value

    @property
    def dissimilarity(self) -> float | None:
        """1 + tau^2 / |G|^2 (FedProx): 1 where clients agree; `math.inf` while |G|^2 is not positive."""
        tau, square = self.tau_square, self.gradient_square
        if tau is None or square is None:
            return None
        return 1 + tau / square if square > 0 else math.inf

    @property
    def loss(self) -> float | None:
        """Mean loss of recent rows."""
        return self._averages["loss"].value

    @property
    def overhead(self) -> float | None:
        """Seconds that a step takes whatever its rows; None until two different sizes were timed."""
        return line.fixed if (line := self.seconds_line) else None

    @property
    def row_cost(self) -> float | None:
        """Seconds that one row adds to a step."""
        return line.slope if (line := self.seconds_line) else None

    @property
    def seconds_line(self) -> Line | None:
        """Seconds of a step as overhead + row_cost * rows; neither is negative."""
        return self._fits["seconds"].line

    @property
    def joules_line(self) -> Line | None:
        """Joules of a step in the same form; None until two different sizes were measured."""
        return self._fits["joules"].line

    def lacks_a_size(self, cost: Cost) -> bool:
        """Whether a cost was observed at one size only: at a second one its line would be known."""
        return self._fits[cost].lacks_a_size

    def state_dict(self) -> dict[str, Any]:
        """Everything observed, as JSON values; the half-lives are settings and stay outside."""
        return {
            "averages": {name: average.state_dict() for name, average in self._averages.items()},
            "fits": {name: fit.state_dict() for name, fit in self._fits.items()},
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, to the bit, from what `state_dict` gave.

        Raises:
            ValueError: the state is not one of `Stats`; nothing was changed.
        """
        known = {part: {*entries} for part, entries in self.state_dict().items()}
        if {part: {*entries} for part, entries in state.items()} != known:
            raise ValueError(f"a state of Stats must hold {sorted(known)}, got {sorted(state)}; it belongs elsewhere")
        for name, average in self._averages.items():
            average.load_state_dict(state["averages"][name])
        for name, fit in self._fits.items():
            fit.load_state_dict(state["fits"][name])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])

    def _is_broken(self, *figures: ArrayLike) -> bool:
        """True, and counted, when a figure is not finite."""
        broken = not all(np.isfinite(figure).all() for figure in figures)
        self.set_aside += broken
        return broken

    def _count(self, sizes: ArrayLike, **found: float) -> None:
        rows = float(np.sum(sizes))
        for name, value in found.items():
            self._averages[name].observe(value, rows)
        self.measurements += 1


_COUNTERS = ("steps", "rows", "seconds", "joules", "measurements", "set_aside")
