"""What a replay table gives: rows, the ids that name them for ever, and what each weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmb.batch.minibatch import MiniBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """Drawn rows in fresh arrays; `column[i]`, `ids[i]` and `weights[i]` belong to the same row."""

    columns: dict[str, NDArray[Any]]
    """By name, `(rows, ...)` each; nothing else holds them."""
    ids: NDArray[np.int64]
    """Names of the rows, for `reprioritize`; a row drawn twice has its id here twice."""
    weights: NDArray[np.float32] | None = None
    """Importance weights that undo the sampler's preference; None where every row weighs the same."""
    probabilities: NDArray[np.float64] | None = None
    """Of each row in one draw; None where all rows were equally likely."""

    def __len__(self) -> int:
        return len(self.ids)

    def minibatch(self) -> MiniBatch:
        """The same arrays as a mini-batch: units are the importance weights, and the rows are replayed ones."""
        return MiniBatch(self.columns, units=self.weights, origins={"replay": len(self.ids)})


@dataclass(frozen=True, slots=True)
class MixedSample:
    """Drawn rows of several tables in fresh arrays; those of one table stand together."""

    columns: dict[str, NDArray[Any]]
    """By name, `(rows, ...)` each."""
    ids: NDArray[np.int64]
    """Names of the rows in the buffer, for `reprioritize`."""
    weights: NDArray[np.float32] | None
    """Importance weights, 1 for rows of tables that have none; None where no table has any."""
    tables: dict[str, slice]
    """Which rows came from which table."""

    def __len__(self) -> int:
        return len(self.ids)

    def minibatch(self) -> MiniBatch:
        """The same arrays as a mini-batch: units are the importance weights, and the rows are replayed ones."""
        return MiniBatch(self.columns, units=self.weights, origins={"replay": len(self.ids)})
