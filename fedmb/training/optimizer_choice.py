"""Which optimiser a name stands for: one of ours, torch's by a word, or any class as `module:Class`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from fedmb.errors import SettingsError
from fedmb.training.choices import OptimizerName, check_momentum
from fedmb.training.named_object import named_object
from fedmb.training.optimizers import Lamb, Lars, parameter_groups
from fedmb.training.uncompiled import spare_compiler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from fedmb.training.optimizers import Group

Options: TypeAlias = Mapping[str, bool | int | float | str | tuple[float, ...] | None]
"""Further arguments of an optimiser's constructor."""

ADAPTED = {"lars", "lamb"}
"""Those that leave biases and norm layers alone."""
_WITH_FUSED_KERNEL = {"sgd", "adam", "adamw", "adagrad"}
_NAMED: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "lars": Lars,
    "lamb": Lamb,
}
_SETTINGS = {"lr": "learning_rate.rate", "momentum": "momentum", "weight_decay": "weight_decay"}


def optimizer_of(
    name: str,
    parameters: Iterable[Tensor] | Iterable[Group],
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    options: Options | None = None,
) -> Optimizer:
    """The optimiser called `name`, fused into one kernel where torch has one for the parameters' device.

    Args:
        name: a word of `OptimizerName`, or `module:Class`.
        parameters: or groups of them.
        learning_rate: of every group.
        momentum: for those that have it.
        weight_decay: of every group that does not bring its own.
        options: further arguments of the constructor, such as `betas`, or `eta` of `Lars`.

    Raises:
        SettingsError: the name is unknown, or the class does not take what it is given.
    """
    groups: Any = list(parameters)
    kind: Any = checked_class(name, momentum=momentum, weight_decay=weight_decay, options=options)
    settings: dict[str, Any] = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    settings = {key: value for key, value in settings.items() if key in _arguments(kind)} | dict(options or {})
    if name in _WITH_FUSED_KERNEL and not settings.get("foreach"):
        settings.setdefault("fused", _can_fuse(groups))
    spare_compiler()
    try:
        built: Optimizer = kind(groups, **settings)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name} must take its options, got {dict(options or {})}: {error}; see its documentation",
            key="training.optimizer_options",
        ) from error
    return built


def groups_for(name: str, model: nn.Module, *, weight_decay: float) -> Sequence[Tensor] | list[Group]:
    """What the optimiser called `name` is made over: one group, or weights apart from biases and norm layers."""
    if name in ADAPTED:
        return parameter_groups(model, weight_decay=weight_decay)
    return list(model.parameters())


def checked_class(
    name: str, *, momentum: float = 0.0, weight_decay: float = 0.0, options: Options | None = None
) -> type[Optimizer]:
    """The class called `name`, which takes what it is to be given.

    Raises:
        SettingsError: it is no optimiser, needs the loss again in its step, or lacks an argument.
    """
    kind = _class(name)
    known = _arguments(kind)
    check_momentum(name, momentum, has_momentum="momentum" in known)
    if weight_decay and "weight_decay" not in known:
        raise SettingsError(
            f"{name} has no weight decay, got {weight_decay}; set it to 0, or take weight_decay_samples",
            key="training.weight_decay",
        )
    for option in options or {}:
        if option in _SETTINGS:
            raise SettingsError(
                f"an optimiser's {option} is a setting of its own, got it among the options; set training."
                f"{_SETTINGS[option]}",
                key="training.optimizer_options",
            )
        if option not in known:
            free = sorted(set(known) - set(_SETTINGS))
            raise SettingsError(
                f"options of {name} must be some of {', '.join(free)}, got {option!r}; rename or remove it",
                key="training.optimizer_options",
            )
    return kind


def check_values(name: str, *, momentum: float, options: Options) -> None:
    """Make the optimiser once over a parameter of no use, so that a value it does not take is refused now.

    Raises:
        SettingsError: it does not take a value.
    """
    optimizer_of(name, [nn.Parameter(torch.zeros(2, 2))], learning_rate=0.1, momentum=momentum, options=options)


def default_of(name: str, argument: str) -> Any:
    """Default of an argument of an optimiser's constructor; None where it has no such argument."""
    return _arguments(_class(name)).get(argument)


def _class(name: str) -> type[Optimizer]:
    if name in _NAMED:
        return _NAMED[name]
    if ":" not in name:
        raise SettingsError(
            f"optimizer must be one of {', '.join(get_args(OptimizerName))} or module:Class, got {name!r}; for example "
            "torch.optim:NAdam",
            key="training.optimizer",
        )
    kind = named_object(name, key="training.optimizer", example="torch.optim:NAdam")
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)) or "lr" not in _arguments(kind):
        raise SettingsError(
            f"an optimiser must be a torch.optim.Optimizer with a learning rate lr, got {name}; name another class",
            key="training.optimizer",
        )
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingsError(
            f"an optimiser must step without asking for the loss again, got {name}; name a first-order one",
            key="training.optimizer",
        )
    return kind


def _arguments(kind: type[Optimizer]) -> dict[str, Any]:
    """Names and defaults of the constructor's arguments behind the parameters."""
    found = list(inspect.signature(kind).parameters.values())[1:]
    return {each.name: each.default for each in found if each.kind is not inspect.Parameter.VAR_KEYWORD}


def _can_fuse(groups: list[Any]) -> bool | None:
    """True where torch has fused kernels for all of `groups`; None leaves the choice to torch."""
    tensors = [each for group in groups for each in (group["params"] if isinstance(group, dict) else [group])]
    known = all(each.is_floating_point() and each.device.type in {"cpu", "cuda"} for each in tensors)
    return True if known else None
