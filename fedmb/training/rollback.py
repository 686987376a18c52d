"""Copies to go back to: of the last good parameters, and of the buffers before a batch."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


class RollbackPoint:
    """Keeps parameters, buffers and optimiser state of every `every`-th good step, on the device.

    The random generators are not wound back: the same rows drawn again with the same noise would run away again.

    Args:
        model: whose parameters and buffers are kept; the first copy is taken at once.
        optimizer: over the model's parameters.
        every: good steps between two copies.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, every: int = 100) -> None:
        if every < 1:
            raise SettingsError(f"a rollback point must be kept every 1 or more steps, got {every}; 100 is the default")
        self._model = model
        self._optimizer = optimizer
        self._every = every
        self._steps = 0
        self._kept: dict[str, Any] = {}
        self.keep()

    def after_step(self) -> None:
        """Count a good step, and keep a copy if one is due."""
        self._steps += 1
        if self._steps >= self._every:
            self.keep()

    def keep(self) -> None:
        """Keep a copy of what is now."""
        self._steps = 0
        self._kept = {
            "model": _copied(self._model.state_dict()),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def restore(self) -> None:
        """Go back to the last copy, bit for bit; gradients are dropped."""
        self._steps = 0
        with torch.no_grad():
            for name, value in self._model.state_dict().items():
                if isinstance(value, torch.Tensor):
                    value.copy_(self._kept["model"][name])
        # The optimiser keeps the very tensors it is given, and would write into the copy.
        self._optimizer.load_state_dict(copy.deepcopy(self._kept["optimizer"]))
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The copy, as tensors, and the good steps since it."""
        return {"steps": self._steps, **copy.deepcopy(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._steps = int(state["steps"])
        self._kept = copy.deepcopy({name: state[name] for name in ("model", "optimizer")})


class KeptBuffers:
    """A model's buffers before a batch, for when the batch is not learnt.

    The forward pass of a bad batch has already been averaged into running statistics when the guard sees its gradient;
    one value that is not finite would stay there for good. Free for a model without buffers.

    Args:
        model: whose buffers are kept, as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._kept = [buffer.detach().clone() for buffer in self._buffers]

    @torch.no_grad()
    def keep(self) -> None:
        """Keep the buffers as they are: before each batch."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the buffers back: after a batch that was skipped."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
