"""The weighted mean of many models in the memory of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmb.arrays.bfloat16 import BFLOAT16, is_real, rounded, widened
from fedmb.errors import NotEnoughData
from fedmb.update import Arrays, check_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1 << 15  # elements: scratch stays at 256 KiB however large a tensor is, at the speed of whole tensors


class RunningAverage:
    """Weighted mean of models that arrive one after the other.

    Holds one float64 accumulator of the model's size however many models are added. Floating arrays are averaged and
    answered in their own dtype; integer and boolean arrays (batch counters, masks) come whole from the heaviest model
    added so far, the first one on a tie. Adding in a fixed order gives the same bits on every machine.

    Source: FedAvg, McMahan et al. 2017, arXiv:1602.05629, algorithm 1; the running form follows fedjax `fed_avg.py`.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.count = 0
        self._heaviest = -1.0
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._last: dict[str, NDArray[np.generic]] = {}
        self._scratch = np.empty(_BLOCK, np.float64)

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one model; `arrays` is read and not kept, except for its integer arrays when it is the heaviest.

        Raises:
            ValueError: the weight is negative or not finite.
            ShapeError: names or shapes differ from the first model's.
        """
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"a model's weight must be finite and not negative, got {weight}; reject its update")
        if self.count == 0:
            self._last = {name: np.asarray(array) for name, array in arrays.items()}
            self._sums = {name: np.zeros(a.shape) for name, a in arrays.items() if is_real(a.dtype)}
        else:
            check_arrays(arrays, self._last)
        if weight > self._heaviest:
            self._heaviest = weight
            self._last = {name: np.asarray(array) for name, array in arrays.items()}
        for name, total in self._sums.items():
            self._accumulate(total.reshape(-1), np.ascontiguousarray(widened(arrays[name])).reshape(-1), weight)
        self.weight += weight
        self.count += 1

    def _accumulate(self, total: NDArray[np.float64], values: NDArray[np.generic], weight: float) -> None:
        for start in range(0, total.size, _BLOCK):
            block = total[start : start + _BLOCK]
            scratch = self._scratch[: block.size]
            np.multiply(values[start : start + _BLOCK], weight, out=scratch, dtype=np.float64)
            block += scratch

    def result(self) -> dict[str, NDArray[np.generic]]:
        """The mean of everything added, in the dtypes that came in.

        Raises:
            NotEnoughData: nothing with a positive weight was added.
        """
        if self.weight == 0:
            raise NotEnoughData(
                f"a mean needs a positive total weight, got {self.count} models of total weight 0; "
                "keep the previous model for this round"
            )
        mean = dict(self._last)
        for name, total in self._sums.items():
            dtype = self._last[name].dtype
            mean[name] = rounded(total / self.weight) if dtype == BFLOAT16 else (total / self.weight).astype(dtype)
        return mean
