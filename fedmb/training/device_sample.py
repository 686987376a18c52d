"""What a ring on a device gives: rows, the ids that name them for ever, and what each weighs, all of it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fedmb.batch.minibatch import MiniBatch

if TYPE_CHECKING:
    from torch import Tensor

    from fedmb.batch.minibatch import Columns


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """Drawn rows in fresh tensors; `column[i]`, `ids[i]` and `weights[i]` belong to the same row."""

    columns: dict[str, Tensor]
    """By name, `(rows, ...)` each; they may be views of one block, so not contiguous."""
    ids: Tensor
    """int64, names of the rows, for `reprioritize`; a row drawn twice has its id here twice."""
    weights: Tensor | None = None
    """float32 importance weights; None where every row weighs the same."""
    probabilities: Tensor | None = None
    """float64, of each row in one draw; None where all rows were equally likely."""

    def __len__(self) -> int:
        return len(self.ids)

    def minibatch(self) -> MiniBatch:
        """The same tensors as a mini-batch for a `TrainStep` on this device; `tensors` hands them on as they are.

        Units are the importance weights, which a step sums on the host: where there are any, this waits for the device.
        """
        units = None if self.weights is None else self.weights.cpu().numpy()
        return MiniBatch(cast("Columns", self.columns), units=units, origins={"replay": len(self)})
