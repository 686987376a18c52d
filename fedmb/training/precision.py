"""Number formats of the forward pass: fp32, bf16, fp16.

    with precision.forward():                     # autocast; nothing under fp32
        outputs = task.forward(model, rows)       # each micro-batch
        losses = task.loss(outputs, rows)
    precision.scaled(loss).backward()             # once a micro-batch
    precision.unscale(optimizer)                  # once a batch, before norms are measured or clipped
    precision.step(optimizer)                     # or precision.skip(); once a batch

Parameters and their gradients stay fp32 in every mode; what is sent to the server is fp32. Only fp16 needs a scale: its
smallest number is 6e-8, and gradients below it would vanish.

Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, get_args

import torch

from fedmb.errors import Diverged, SettingsError
from fedmb.training.choices import Format

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 2.0**-24  # fp16's own smallest number; a loss that overflows even so is not finite at any scale


class Precision:
    """Autocast and, for fp16, a loss scale that halves on overflow and grows after a run of good steps.

    Args:
        name: format of the forward pass.
        device: where the model lives.
        initial_scale: what an fp16 loss is multiplied by at first.
        growth_interval: good steps in a row before the scale doubles.
    """

    def __init__(
        self,
        name: Format = "fp32",
        *,
        device: torch.device | None = None,
        initial_scale: float = 65536.0,
        growth_interval: int = 2000,
    ) -> None:
        if name not in get_args(Format):
            raise SettingsError(f"precision must be one of {', '.join(get_args(Format))}, got {name!r}; choose one")
        self.name = name
        self.device = device or torch.device("cpu")
        self._dtype = _DTYPES.get(name)
        self._scaler: torch.amp.GradScaler | None = None
        if name == "fp16":
            self._scaler = torch.amp.GradScaler(
                self.device.type, init_scale=initial_scale, growth_interval=growth_interval
            )

    @property
    def scale(self) -> float:
        """What losses are multiplied by; 1 without a scaler. Reading it waits for the device."""
        return 1.0 if self._scaler is None else self._scaler.get_scale()

    def forward(self) -> AbstractContextManager[Any]:
        """Where outputs and losses are computed; sum and weigh the losses outside of it, in fp32."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def scaled(self, losses: Tensor) -> Tensor:
        """`losses`, or the weights that their backward is started with, times the scale."""
        if self._scaler is None:
            return losses
        product: Tensor = self._scaler.scale(losses)
        return product

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the gradients their true size, once a batch; nothing without a scaler.

        Raises:
            RuntimeError: it was done already since the last `step` or `skip`.
        """
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take the optimiser's step; False if an fp16 overflow made it skip, and then the batch was not learnt.

        Raises:
            Diverged: steps are skipped even at the smallest scale.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        return self._updated() >= before

    def skip(self) -> None:
        """Close a batch whose gradients are thrown away; the scale still learns from an overflow.

        Call it after `unscale`, in the place of `step`.
        """
        if self._scaler is not None:
            self._updated()

    def state_dict(self) -> dict[str, Any]:
        """The scale and its clock; empty without a scaler."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            SettingsError: the state belongs to another format.
        """
        if bool(state) != (self._scaler is not None):
            raise SettingsError(
                f"a {self.name} state was expected, got keys {sorted(state)}; resume with the same format"
            )
        if self._scaler is not None:
            self._scaler.load_state_dict(dict(state))

    def _updated(self) -> float:
        assert self._scaler is not None
        self._scaler.update()
        scale = self._scaler.get_scale()
        if scale < SMALLEST_SCALE:
            raise Diverged(
                f"an fp16 loss must be finite at some scale of at least {SMALLEST_SCALE:.0e}, got none; use bf16, "
                "lower the learning rate or look for bad rows"
            )
        return scale
