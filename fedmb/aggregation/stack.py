"""The updates of one round, kept until it closes and then combined block by block.

    stack = Stack()
    stack.put(client, arrays, weight)            # as replies arrive, in any order
    model = rule.combine(stack, before)          # any rule; clients count in the order of their names

Memory is what `memory_bytes` says and a few blocks, however many updates there are; the rest lies in a file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.layout import Layout
from fedmb.aggregation.spool import Held, Spool, gather
from fedmb.errors import StaleUpdate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.aggregation.layout import Block
    from fedmb.aggregation.spool import Kept
    from fedmb.update import Arrays

MEMORY_BYTES = 1 << 29  # 512 MiB of updates: some five of 25 M parameters, a hundred of 1 M


class Stack:
    """Models by client, each with its weight.

    Args:
        memory_bytes: updates beyond it go to a file.
        directory: where that file lies; the system's place for temporary files when left out.
    """

    def __init__(self, *, memory_bytes: float = MEMORY_BYTES, directory: Path | None = None) -> None:
        self._memory_bytes = memory_bytes
        self._directory = directory
        self._layout: Layout | None = None
        self._spool: Spool | None = None
        self._kept: dict[str, Kept] = {}
        self._weights: dict[str, float] = {}
        self._reaches: dict[str, float] = {}

    def put(
        self, client: str, arrays: Arrays, weight: float, *, reach: float = math.nan, is_held: bool = False
    ) -> None:
        """Keep a client's model, by reference where there is room: it must not be changed from here on.

        The first one decides names, shapes and dtypes. One that somebody else holds in memory for as long
        (`is_held`) needs no room of ours. Its `reach` is for rules that read one (`fedmb.training.reach`).

        Raises:
            ValueError: the weight is negative or not finite.
            ShapeError: names, shapes or dtypes differ from the first model's.
            StaleUpdate: the client is in already.
            OSError: the disk is full or fails.
        """
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"a model's weight must be finite and not negative, got {weight}; reject its update")
        if client in self._kept:
            raise StaleUpdate(f"a client counts once in a round, got {client!r} twice; drop one update")
        if self._layout is None or self._spool is None:
            self._layout = Layout(arrays)
            self._spool = Spool(self._layout, memory_bytes=self._memory_bytes, directory=self._directory)
        self._layout.check(arrays)
        self._kept[client] = self._spool.keep(arrays, is_held=is_held)
        self._weights[client] = float(weight)
        self._reaches[client] = float(reach)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, client: object) -> bool:
        return client in self._kept

    @property
    def layout(self) -> Layout:
        """Of every model here; the stack must hold one."""
        assert self._layout is not None
        return self._layout

    @property
    def clients(self) -> tuple[str, ...]:
        """Who is in, in the order in which they count."""
        return tuple(sorted(self._kept))

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights, `(clients,)`, in that order."""
        return np.array([self._weights[client] for client in self.clients])

    @property
    def reaches(self) -> NDArray[np.float64]:
        """How far the clients' steps went, `(clients,)`, in that order; not a number where one said nothing of it."""
        return np.array([self._reaches[client] for client in self.clients])

    @property
    def filed_bytes(self) -> int:
        """Bytes of models that lie in the file."""
        return self._spool.filed_bytes if self._spool else 0

    def rows(self) -> list[Kept]:
        """The models, in that order."""
        return [self._kept[client] for client in self.clients]

    def beside(self, arrays: Arrays) -> Kept:
        """A model that is none of the updates, such as the one they started from, to be combined with them.

        Raises:
            ShapeError: it does not fit them.
        """
        self.layout.check(arrays)
        return Held(self.layout.flat(arrays))

    def close(self) -> None:
        """Forget every model."""
        if self._spool is not None:
            self._spool.close()
        self._layout, self._spool = None, None
        self._kept, self._weights, self._reaches = {}, {}, {}


def matrix_of(rows: Sequence[Kept], block: Block, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The block of each model as a row, `(models, elements)`, in a dtype that holds its values."""
    matrix = np.empty((len(rows), block.size), dtype)
    for row, kept in zip(matrix, rows, strict=True):
        gather(kept, block, row)
    return matrix
