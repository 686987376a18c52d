"""An exponential moving average of a model's weights, for scoring and for what is sent at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class WeightAverage:
    """Keeps `decay` of itself and takes the rest from the model, once a step.

    Parameters are averaged; buffers (batch-norm statistics, counters) are the model's own. The decay may change from
    step to step, so that the memory spans the same number of samples whatever the batch size.

    Args:
        model: whose weights are averaged; the average starts as a copy.
        decay: what is kept in a step.

    Raises:
        SettingsError: the decay is not 0 to 1.

    Source: Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30;
    the rule for changed batch sizes is Busbridge et al. 2023, arXiv:2307.13813, definition 1.2.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay <= 1:
            raise SettingsError(f"an average keeps 0 to 1 of itself, got {decay}; 0.999 is usual")
        self.decay = decay
        self._model = model
        self._weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    def after_step(self, decay: float | None = None) -> None:
        """Take the model's weights in; `decay` stands for this step only."""
        kept = self.decay if decay is None else decay
        with torch.no_grad():
            torch._foreach_lerp_(  # torch's own way to one kernel for all tensors
                list(self._weights.values()), [value.detach() for value in self._model.parameters()], 1 - kept
            )

    def weights(self) -> dict[str, Tensor]:
        """The model's `state_dict` with averaged parameters; tensors are copies."""
        state = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        return state | {name: value.clone() for name, value in self._weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """The averaged parameters, as tensors."""
        return {name: value.clone() for name, value in self._weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in self._weights.items():
            value.copy_(state[name])
