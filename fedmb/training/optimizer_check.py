"""What is asked of an optimiser when settings are read: without torch, as far as tables know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from fedmb.training.choices import BETAS, WITH_MOMENTUM, OptimizerName, check_momentum, torch_is_here

if TYPE_CHECKING:
    from fedmb.training.optimizer_choice import Options


def check_optimizer(name: str, *, momentum: float, weight_decay: float, options: Options) -> None:
    """Refuse what an optimiser does not take; torch is asked only about its options and other people's classes.

    Raises:
        SettingsError: it is no optimiser, or does not take what it is given.
    """
    if name in get_args(OptimizerName) and not options:
        check_momentum(name, momentum, has_momentum=name in WITH_MOMENTUM)
    elif torch_is_here():
        from fedmb.training.optimizer_choice import check_values, checked_class

        checked_class(name, momentum=momentum, weight_decay=weight_decay, options=options)
        check_values(name, momentum=momentum, options=options)


def betas_of(name: str, options: Options) -> tuple[float, float] | None:
    """The two betas of Adam and its kin; None for an optimiser that has none."""
    betas: object = options.get("betas", BETAS.get(name))
    if betas is None and name not in get_args(OptimizerName) and torch_is_here():
        from fedmb.training.optimizer_choice import default_of

        betas = default_of(name, "betas")
    return (betas[0], betas[1]) if isinstance(betas, tuple) and len(betas) == 2 else None  # noqa: PLR2004  # a pair
