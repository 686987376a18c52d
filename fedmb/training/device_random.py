"""Random numbers that are made on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Generator: TypeAlias = torch.Generator | np.random.Generator


class DeviceRandom:
    """A generator of torch's on a device, beside those that a caller brings.

    Args:
        device: where numbers are made.
        seed: of the generator.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._own = torch.Generator(device)
        self._own.manual_seed(seed)
        self._lent = torch.Generator(device)

    def lent(self, given: Generator | None) -> torch.Generator:
        """The generator to draw with: `given` where it is torch's, one seeded by it where it is NumPy's."""
        if isinstance(given, np.random.Generator):
            self._lent.manual_seed(int(given.integers(1 << 63)))
            return self._lent
        return self._own if given is None else given

    def state(self) -> NDArray[np.uint8]:
        """Of the own generator, as bytes."""
        state: NDArray[Any] = self._own.get_state().numpy()
        return state.copy()

    def load(self, state: NDArray[np.uint8]) -> None:
        """Go on where `state` stood, on a device of the same kind."""
        self._own.set_state(torch.from_numpy(state.copy()))
