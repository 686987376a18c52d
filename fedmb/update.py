"""What a client sends back after a round, and the algebra that lets many become one.

An update is a weighted mean kept with its weight, so `weight * arrays` is a sum and sums may be added in any grouping:
clients into sites, sites into a round. Losses, metrics and rows travel as plain sums (invariant I5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmb.arrays.bfloat16 import BFLOAT16, is_real, rounded, widened
from fedmb.errors import ShapeError, StaleUpdate

if TYPE_CHECKING:
    from fedmb.ledger import Spans

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Named parameters and buffers of a model, as NumPy arrays."""

EPSILON = "epsilon"
"""Among the `sums` of a private client: what it has told of its rows so far. It is no sum, and depends on no row."""


@dataclass(frozen=True, slots=True)
class Update:
    """The outcome of local training, weighted by the units it was trained on.

    Adding two updates of one base version gives the update of both clients together.
    """

    arrays: Arrays
    """Parameters and buffers after training: the mean over the clients inside, weighted by their units."""
    weight: float
    """Units (rows, tokens, importance weights) that the gradients were summed over."""
    base_version: int
    """Version of the global model that training started from."""
    positions: Mapping[str, Mapping[str, Any]]
    """Where each client's source stands afterwards, by client name."""
    spans: Spans = field(default_factory=dict)
    """Stretches of stream partitions that were learnt."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """Sums over units: "units" itself, "loss" and the task's metrics."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows drawn, by origin: "private", "stream", "replay"."""

    @property
    def clients(self) -> tuple[str, ...]:
        """Names of the clients inside, sorted."""
        return tuple(sorted(self.positions))

    def mean(self, name: str) -> float:
        """Mean of one of the `sums` over units; not a number when no unit was seen."""
        units = self.sums.get("units", 0.0)
        return self.sums[name] / units if units else float("nan")

    def scaled(self, factor: float) -> Update:
        """The same outcome with `factor` times the say: weight and sums are multiplied, the mean stays."""
        sums = {name: value * factor for name, value in self.sums.items()}
        return replace(self, weight=self.weight * factor, sums=sums)

    def __add__(self, other: Update) -> Update:
        """Both updates together.

        Raises:
            StaleUpdate: they start from different versions, or one client or stream partition is in both.
            ShapeError: their arrays differ in names or shapes.
        """
        if self.base_version != other.base_version:
            raise StaleUpdate(
                f"updates must start from one model version to be added, got {self.base_version} and "
                f"{other.base_version}; drop the older one"
            )
        twice = sorted(self.positions.keys() & other.positions.keys())
        twice += sorted(str(partition) for partition in self.spans.keys() & other.spans.keys())
        if twice:
            raise StaleUpdate(
                f"a client or stream partition counts once in a round, got {twice} twice; drop one update"
            )
        return Update(
            arrays=merged(self.arrays, self.weight, other.arrays, other.weight),
            weight=self.weight + other.weight,
            base_version=self.base_version,
            positions={**self.positions, **other.positions},
            spans={**self.spans, **other.spans},
            sums=added(self.sums, other.sums),
            rows=added(self.rows, other.rows),
        )


def added(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Sum of two maps of numbers, key by key; a missing key counts as zero."""
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


def check_arrays(arrays: Arrays, reference: Arrays, *, dtypes: bool = False) -> None:
    """Demand the names and shapes of `reference`, and its `dtypes` where that is asked for.

    Raises:
        ShapeError: a name is missing or unknown, or a shape or dtype differs; broadcasting is never allowed.
    """
    missing, unknown = sorted(reference.keys() - arrays.keys()), sorted(arrays.keys() - reference.keys())
    if missing or unknown:
        raise ShapeError(
            f"arrays must carry the model's names, missing {missing[:3]}, unknown {unknown[:3]}; "
            "client and server must run the same task"
        )
    for name, array in arrays.items():
        if array.shape != reference[name].shape:
            raise ShapeError(
                f"array {name!r} must have shape {reference[name].shape}, got {array.shape}; "
                "client and server must run the same task"
            )
        if dtypes and array.dtype != reference[name].dtype:
            raise ShapeError(
                f"array {name!r} must have dtype {reference[name].dtype}, got {array.dtype}; "
                "client and server must run the same task"
            )


def merged(left: Arrays, left_weight: float, right: Arrays, right_weight: float) -> dict[str, NDArray[Any]]:
    """Weighted mean of two models; integers and booleans come whole from the heavier side, never averaged.

    An averaged batch counter is 6.999… and loads as 6; a counter is a fact of one client, so one client's is kept.

    Raises:
        ShapeError: names or shapes differ.
    """
    check_arrays(right, left)
    total = left_weight + right_weight
    result = {}
    for name, array in left.items():
        other = right[name]
        if total == 0 or not is_real(array.dtype):
            result[name] = array if left_weight >= right_weight else other
        else:
            weighted_sum = np.zeros(array.shape)
            add_weighted(weighted_sum, widened(array), left_weight)
            add_weighted(weighted_sum, widened(other), right_weight)
            mean = weighted_sum / total
            result[name] = rounded(mean) if array.dtype == BFLOAT16 else mean.astype(array.dtype)
    return result


def add_weighted(
    total: NDArray[np.float64], values: NDArray[Any], weight: float, scratch: NDArray[np.float64] | None = None
) -> None:
    """Add `weight * values` to `total`, element by element in float64; every mean of models is made of this.

    Args:
        total: what is added to, in place.
        values: of any floating dtype and of the shape of `total`.
        weight: what they count.
        scratch: room for one product, of the shape of `total`; made anew when left out. May be `values` itself.
    """
    product = np.empty_like(total) if scratch is None else scratch
    if product is not values:
        np.copyto(product, values)  # converting and multiplying in two steps is faster than numpy's buffered one
    product *= weight
    total += product
