"""Writes the hyper-parameters of a step into the optimiser and the model: schedule by samples, clocks by rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedmb.sizing.clocks import Follow
    from fedmb.sizing.schedule import Schedule
    from fedmb.sizing.stats import Stats


class Hyperparameters:
    """Sets learning rate, momentum, betas, weight decay, batch-norm momentum and dropout before each step.

    The learning rate of every parameter group is its rate at construction times schedule times follow. Groups whose
    weight decay is 0, such as biases, keep it.

    Args:
        model: its batch-norm and dropout layers are found by type.
        optimizer: its parameter groups are written.
        schedule: factor on the learning rate, by samples.
        follow: values that follow the rows of each step.

    Raises:
        SettingsError: `follow` sets a value that the optimiser or the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule | None = None,
        follow: Follow | None = None,
    ) -> None:
        self._optimizer = optimizer
        self.ema_decay: float | None = None
        """What an average of weights keeps in the coming step; None where nothing follows it."""
        self._schedule = schedule
        self._follow = follow
        self._rates = [float(group["lr"]) for group in self.groups]
        self._norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self._dropouts = [module for module in model.modules() if isinstance(module, _DropoutNd)]
        if follow is not None:
            self._check(follow)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups; a restored optimiser has new ones."""
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        return groups

    @property
    def changes(self) -> bool:
        """Whether anything changes from step to step; where not, `apply` need not be called."""
        return self._schedule is not None or self._follow is not None

    @property
    def learning_rate(self) -> float:
        """Rate of the first parameter group in force."""
        return float(self.groups[0]["lr"])

    @property
    def momentum(self) -> float:
        """Momentum of the first parameter group in force; 0 where it has none."""
        return float(self.groups[0].get("momentum", 0.0))

    def apply(self, samples: int, rows: int, stats: Stats) -> None:
        """Write the values for a step of `rows` after `samples` rows."""
        values = self._follow.values(rows, stats) if self._follow is not None else {}
        factor = values.pop("learning_rate_factor", 1.0)
        if self._schedule is not None:
            factor *= self._schedule(samples)
        for group, rate in zip(self.groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for name, value in values.items():
            self._write(name, value)

    def _write(self, name: str, value: float) -> None:
        if name == "ema_decay":
            self.ema_decay = value
        elif name == "norm_momentum":
            for norm in self._norms:
                norm.momentum = value
        elif name == "dropout":
            for dropout in self._dropouts:
                dropout.p = value
        elif name in {"beta1", "beta2"}:
            for group in self.groups:
                first, second = group["betas"]
                group["betas"] = (value, second) if name == "beta1" else (first, value)
        else:
            for group in self.groups:
                if name != "weight_decay" or group["weight_decay"]:
                    group[name] = value

    def _check(self, follow: Follow) -> None:
        group = self.groups[0]
        missing = {
            "momentum": follow.momentum is not None and "momentum" not in group,
            "betas": follow.betas is not None and "betas" not in group,
            "weight_decay": follow.weight_decay is not None and not any(one.get("weight_decay") for one in self.groups),
            "norm_momentum": follow.norm_momentum is not None and not self._norms,
            "dropout": follow.dropout is not None and not self._dropouts,
        }
        for name, is_missing in missing.items():
            if is_missing:
                raise SettingsError(
                    f"follow.{name} must have something to set, the optimiser and the model have no {name}; "
                    "leave it out, or choose an optimiser and layers that have it"
                )
