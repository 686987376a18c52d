"""LARS and LAMB, which torch lacks.

Both multiply a layer's step by a *trust ratio*, so that |step| / |weights| is what the learning rate says, whatever the
scale of the loss. It makes no sense for biases and norm layers, whose size says nothing: `parameter_groups` leaves them
out of it, and out of weight decay.
"""

# ruff: noqa: SLF001  # torch._foreach_* has no public name; torch.optim itself is built on it
from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from fedmb.errors import SettingsError
from fedmb.training.norm import NORMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Group: TypeAlias = dict[str, Any]  # torch's own form: "params", and settings of any kind beside them
_MATRIX = 2  # axes; anything with fewer is a bias or a scale


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[Group]:
    """The trainable parameters of `model` in two groups: weights, and biases with everything in norm layers.

    The second has `weight_decay` 0 and `adapt` False. Told apart by the type of the layer and the number of axes, not
    by name. Groups without a parameter are left out; a shared parameter is in one group, once.
    """
    bare = {
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, NORMS) or parameter.ndim < _MATRIX
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if id(parameter) not in bare]
    others = [parameter for parameter in trained if id(parameter) in bare]
    groups: list[Group] = [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


class Lars(Optimizer):
    """Momentum SGD whose step for each layer is proportional to the layer's weights.

        trust = eta * |w| / (|g| + weight_decay * |w|)
        u     = momentum * u + trust * (g + weight_decay * w)
        w     = w - lr * u

    So without weight decay |dw| / |w| = lr * eta in the first step, whatever the loss is multiplied by. A layer whose
    weights or gradient are all zero, and groups with `adapt` False, take trust 1.

    Args:
        params: parameters or groups; see `parameter_groups`.
        lr: learning rate, gamma in the paper.
        momentum: share of the last step that is kept.
        weight_decay: beta in the paper.
        eta: trust coefficient.

    Source: You et al. 2017, arXiv:1708.03888, section 5, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        _check_not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        super().__init__(cast("Any", params), defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, after evaluating `closure` where there is one."""
        loss = _evaluated(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, [_dense(weight) for weight in weights], group)
        return loss

    def _step(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        decay = group["weight_decay"]
        steps = torch._foreach_add(gradients, weights, alpha=decay) if decay else torch._foreach_mul(gradients, 1.0)
        if group["adapt"]:
            sizes = torch.stack(torch._foreach_norm(weights))
            slopes = torch.stack(torch._foreach_norm(gradients))
            trust = group["eta"] * sizes / (slopes + decay * sizes)
            trust = torch.where((sizes > 0) & (slopes > 0), trust, torch.ones_like(trust))
            torch._foreach_mul_(steps, list(trust.unbind()))
        if group["momentum"]:
            for weight in weights:
                if "velocity" not in self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["velocity"] for weight in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, steps)
            steps = tuple(velocities)
        torch._foreach_add_(weights, steps, alpha=-group["lr"])


class Lamb(Optimizer):
    """Adam whose step for each layer is proportional to the layer's weights.

        m, v  = exponential means of g and g * g, both corrected for their start at zero
        r     = m / (sqrt(v) + eps) + weight_decay * w
        w     = w - lr * (|w| / |r|) * r

    So |dw| / |w| = lr from the first step on: the correction is inside the ratio. A layer whose weights or step are all
    zero, and groups with `adapt` False, take the ratio 1.

    Args:
        params: parameters or groups; see `parameter_groups`.
        lr: learning rate.
        betas: decay of the two means.
        eps: added to the root.
        weight_decay: lambda in the paper, inside the ratio.

    Source: You et al. 2019, arXiv:1904.00962, section 3, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        _check_not_negative(lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay)
        if max(betas) >= 1:
            raise SettingsError(f"betas must lie below 1, got {betas}; 0.9 and 0.999 are usual")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True}
        super().__init__(cast("Any", params), defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, after evaluating `closure` where there is one."""
        loss = _evaluated(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, [_dense(weight) for weight in weights], group)
        return loss

    def _step(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        states = [self.state[weight] for weight in weights]
        for weight, state in zip(weights, states, strict=True):
            if not state:
                state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
            state["step"] += 1
        beta1, beta2 = group["betas"]
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        roots = torch._foreach_div(squares, [1 - beta2 ** state["step"] for state in states])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        steps = torch._foreach_div(means, [1 - beta1 ** state["step"] for state in states])
        torch._foreach_div_(steps, roots)
        if group["weight_decay"]:
            torch._foreach_add_(steps, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            sizes = torch.stack(torch._foreach_norm(weights))
            lengths = torch.stack(torch._foreach_norm(steps))
            ratio = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, torch.ones_like(sizes))
            torch._foreach_mul_(steps, list(ratio.unbind()))
        torch._foreach_add_(weights, steps, alpha=-group["lr"])


def _dense(weight: Tensor) -> Tensor:
    """The gradient of `weight`.

    Raises:
        SettingsError: it is sparse, and a trust ratio needs the norm of the whole layer.
    """
    gradient = weight.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise SettingsError("lars and lamb need dense gradients, got a sparse one; use nn.Embedding(sparse=False)")
    return gradient


def _evaluated(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise SettingsError(f"{name} must not be negative, got {value}; see the class for what it does")
