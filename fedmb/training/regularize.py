"""Regularisers that act beside the loss: proximal term, weight decay on a clock of samples, dropout by a rule."""

# ruff: noqa: SLF001  # torch._foreach_* has no public name; torch.optim itself is built on it
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedmb.errors import SettingsError
from fedmb.training.optimizers import parameter_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DROPOUTS: tuple[type[nn.Module], ...] = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


class Proximal:
    """Pulls parameters towards where the round began: the gradient of `mu / 2 * |w - w_round|^2`.

    Args:
        mu: strength; 0 leaves gradients alone.
        parameters: trained parameters; their values at construction are where the round begins.

    Source: FedProx: Li et al. 2020, arXiv:1812.06127, section 3.2, equation 2.
    """

    def __init__(self, mu: float, parameters: Iterable[Tensor]) -> None:
        if not 0 <= mu < math.inf:
            raise SettingsError(f"mu must not be negative or infinite, got {mu}; 0.01 to 1 is usual")
        self.mu = mu
        self._parameters = list(parameters)
        self._anchor = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def begin_round(self) -> None:
        """Pull towards the parameters as they are now."""
        torch._foreach_copy_(self._anchor, self._parameters)

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add `mu * (w - w_round)` to the gradients: once a batch, after unscaling, before they are judged."""
        if self.mu == 0:
            return
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        moved = torch._foreach_sub(
            self._parameters, self._anchor
        )  # first, so that it is exactly 0 before the first step
        torch._foreach_add_(gradients, moved, alpha=self.mu)

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """`mu / 2 * |w - w_round|^2`, shape (), on the device; to be watched, not to be differentiated."""
        moved = torch._foreach_sub(self._parameters, self._anchor)
        return self.mu / 2 * torch.stack(torch._foreach_norm(moved)).square().sum()

    def state_dict(self) -> dict[str, Any]:
        """Where the round began, as tensors: a run that stops within a round goes on with the same pull."""
        return {"anchor": [anchor.clone() for anchor in self._anchor]}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for anchor, kept in zip(self._anchor, state["anchor"], strict=True):
            anchor.copy_(kept)


class TimescaleDecay:
    """Decoupled weight decay on a clock of samples: a parameter without gradient halves every `0.69 * samples` rows.

    AdamW forgets over `1 / (lr * weight_decay)` steps, so another batch size forgets over other rows. Here the factor
    for a batch is `exp(-rows / samples)`: batches of any sizes with the same rows shrink a weight alike. Set the
    optimiser's own weight decay to 0.

    Args:
        parameters: those to be decayed; see `parameter_groups` for telling weights from biases.
        samples: rows over which a weight is forgotten.

    Source: Wang and Aitchison 2024, arXiv:2405.13698, section 3.
    """

    def __init__(self, parameters: Iterable[Tensor], *, samples: float) -> None:
        if not samples > 0:
            raise SettingsError(f"samples must be above 0, got {samples}; some epochs of rows are usual")
        self._parameters = list(parameters)
        self._samples = samples

    @torch.no_grad()
    def apply(self, rows: float, *, factor: float = 1.0) -> None:
        """Decay by the rows of one batch, right after the optimiser's step.

        Args:
            rows: learnt in this step.
            factor: of the schedule, where decay is to follow the learning rate.
        """
        torch._foreach_mul_(self._parameters, math.exp(-factor * rows / self._samples))


class DropoutRule:
    """Sets the probability of every dropout layer from the rows in a batch, by a rule of yours.

    There is no default: no published rule that we know of has evidence behind it.

    Args:
        model: its dropout layers are found by type, and keep the probability they came with as `built`.
        rule: `(rows, built) -> probability`, where `built` is what the layer had before any rule.
        types: what counts as a dropout layer; each needs an attribute `p`.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Callable[[int, float], float],
        *,
        types: tuple[type[nn.Module], ...] = DROPOUTS,
    ) -> None:
        self._rule = rule
        layers: list[Any] = [each for each in model.modules() if isinstance(each, types)]
        for each in layers:  # kept on the layer: a second rule of the same model finds it as it was built
            each.p_as_built = getattr(each, "p_as_built", each.p)
        self._layers = [(each, each.p_as_built) for each in layers]
        if not self._layers:
            raise SettingsError("a dropout rule needs a dropout layer, got a model without; add one or drop the rule")

    def apply(self, rows: int) -> None:
        """Set the probabilities for a batch of `rows`, before it is learnt.

        Raises:
            SettingsError: the rule gave a probability outside [0, 1].
        """
        for layer, built in self._layers:
            probability = self._rule(rows, built)
            if not 0 <= probability <= 1:
                raise SettingsError(
                    f"a dropout probability must lie in [0, 1], got {probability} for {rows} rows; clip it in the rule"
                )
            layer.p = probability


def timescale_decay(model: nn.Module, *, samples: float | None) -> TimescaleDecay | None:
    """Decay of the model's weights, biases and norm layers left alone; None where `samples` is None."""
    if samples is None:
        return None
    weights = [one for one in parameter_groups(model, weight_decay=0.0) if one["adapt"]]
    return TimescaleDecay([each for one in weights for each in one["params"]], samples=samples)
