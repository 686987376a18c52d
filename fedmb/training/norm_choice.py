"""What becomes of a model's batch norm by name, and what batch norm does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from fedmb.sizing.sizing_section import Sizing
    from fedmb.training.choices import NormName, Travels


def check_norm(
    norm: NormName, group: int | None, travels: Travels, *, sizing: Sizing, micro_size: int | str | None
) -> None:
    """Refuse settings of the norm layers that contradict each other, whatever the model.

    Raises:
        SettingsError: they do.
    """
    if (norm in {"ghost", "group"}) != (group is not None):
        raise SettingsError(
            f"norm_group goes with norm ghost or group, got norm {norm} and norm_group {group}; set both or neither"
        )
    if norm in {"group", "layer"} and travels != "all":
        raise SettingsError(
            f"norm_travels {travels} keeps batch norm at its site, got norm {norm}, which leaves none; set "
            "norm_travels to all, or another norm"
        )
    if norm != "ghost" or group is None:
        return
    # A full batch is what it is: its last, smaller group is a group of its own.
    if sizing.kind != "full" and sizing.multiple % group:
        raise SettingsError(
            f"batches must hold whole ghost groups of {group} rows, got sizing.multiple {sizing.multiple}; "
            f"set sizing.multiple to {group}"
        )
    if isinstance(micro_size, int) and micro_size % group:
        raise SettingsError(
            f"micro_size must hold whole ghost groups of {group} rows, got {micro_size}; choose a multiple"
        )


def with_norm(model: nn.Module, norm: NormName, group: int | None, travels: Travels) -> nn.Module:
    """`model` with its batch norm as `norm` says.

    Raises:
        SettingsError: it has no batch norm, which `norm` or `travels` is about, or a layer cannot be replaced.
    """
    if (norm, travels) == ("as_built", "all"):
        return model
    from fedmb.training.norm import BATCH_NORMS, frozen_norm, ghost_norm, group_norm, layer_norm

    if not any(isinstance(layer, BATCH_NORMS) for layer in model.modules()):
        what, value, rest = ("norm", norm, "as_built") if norm != "as_built" else ("norm_travels", travels, "all")
        raise SettingsError(
            f"{what} {value} is about batch norm, got a model without one; set {what} to {rest}, or add the layer",
            key=f"training.{what}",
        )
    if norm == "ghost" and group is not None:
        return ghost_norm(model, group)
    if norm == "group" and group is not None:
        return group_norm(model, group)
    if norm == "layer":
        return layer_norm(model)
    return frozen_norm(model) if norm == "frozen" else model


def check_cuts(model: nn.Module, *, multiple: int, cut_by: str | None) -> None:
    """Refuse a batch norm that would see parts of a batch: it would learn from other statistics, and nobody would know.

    Args:
        model: as it will be trained.
        multiple: rows that a part holds a whole number of.
        cut_by: what cuts a batch, with its value, for the error; None where nothing does.

    Raises:
        SettingsError: a layer's statistics depend on the cut.
    """
    if cut_by is None:
        return
    from fedmb.training.norm import BATCH_NORMS, FrozenNorm, GhostNorm

    for name, layer in model.named_modules():
        is_blind = isinstance(layer, FrozenNorm) or (isinstance(layer, GhostNorm) and multiple % layer.group == 0)
        if isinstance(layer, BATCH_NORMS) and not is_blind:
            raise SettingsError(
                f"the cut of a batch must not show, got batch norm {name!r}, which would see parts of it, and "
                f"{cut_by}; set training.norm to ghost, group, layer or frozen, or leave the cut out",
                key="training.norm",
            )


def norm_momentum(model: nn.Module) -> float | None:
    """Momentum of the model's batch norms; None where it has none that learns."""
    from fedmb.training.norm import FrozenNorm

    for layer in model.modules():
        momentum = getattr(layer, "momentum", None)
        if isinstance(momentum, float) and not isinstance(layer, FrozenNorm):
            return momentum
    return None
