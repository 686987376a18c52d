"""Sums over a round's examples, read from the device a few times a round and not once a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

_PENDING = 64  # parts kept before they are summed: one concatenation instead of 64 additions and conversions


class Seen(NamedTuple):
    """Figures of the examples of one micro-batch, on the device."""

    values: Mapping[str, Tensor]
    """Loss and metrics, each of shape (examples,)."""
    units: Tensor | None
    """Weight of each example, shape (examples,); None is one each."""


class Tally:
    """Running sums over units of losses and metrics, in float64.

    Args:
        total: adds sums up over the devices of the client, such as `Ranks.total`; every device calls `sums` alike.
    """

    def __init__(self, total: Callable[[dict[str, float]], dict[str, float]] | None = None) -> None:
        self._total = total
        self._pending: list[Seen] = []
        self._sums: dict[str, Tensor] = {}

    def add(self, parts: Iterable[Seen]) -> None:
        """Take the figures of one step; tensors are kept until they are summed."""
        self._pending.extend(parts)
        if len(self._pending) >= _PENDING:
            self._fold()

    def sums(self) -> dict[str, float]:
        """Sums so far; this waits for the device."""
        self._fold()
        sums = {name: float(value) for name, value in self._sums.items()}
        return self._total(sums) if self._total else sums

    def _fold(self) -> None:
        if not self._pending:
            return
        with torch.no_grad():
            for name in self._pending[0].values:
                weighted = [weighed(seen.values[name], seen.units) for seen in self._pending]
                total = torch.cat(weighted).double().sum()
                self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._pending.clear()


def weighed(values: Tensor, units: Tensor | None) -> Tensor:
    """`values` times `units`, `(examples,)`."""
    return values if units is None else values * units


def check_per_example(values: Tensor, examples: int) -> None:
    """Demand one value an example.

    Raises:
        ShapeError: `values` has another shape, such as () after a mean.
    """
    if values.shape != (examples,):
        raise ShapeError(
            f"a task's losses and metrics must have shape ({examples},), one value an example, got "
            f"{tuple(values.shape)}; use reduction='none'"
        )
