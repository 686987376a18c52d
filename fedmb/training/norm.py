"""Norm layers by surgery: ghost, group, layer and frozen norm in the place of batch norm.

Each function takes a model whose batch norm layers see `(examples, channels, ...)` and gives the same model with those
layers replaced; parameters keep their names, objects and values. Batch norm is the one layer through which the rows of
a micro-batch see each other, so it is the one layer that makes the split of a batch visible. Ghost norm hides it again
wherever a micro-batch holds whole groups; group and layer norm look at one example at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from fedmb.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH_NORMS: tuple[type[nn.Module], ...] = (_BatchNorm,)
"""Layers with running statistics over the batch: torch's own, synchronised ones, `GhostNorm` and `FrozenNorm`."""

NORMS: tuple[type[nn.Module], ...] = (
    _BatchNorm,
    nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001  # the only name torch has for "any instance norm"
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Every layer whose parameters scale and shift a normalised tensor."""


class GhostNorm(_BatchNorm):
    """Batch norm over groups of `group` consecutive rows, all groups in one fused call.

    The running statistics take one step a group, as if the groups had come one after the other. The last rows, fewer
    than `group`, are a smaller group of their own. A single value a channel has no variance: such a lone row is
    normalised by the running statistics, as in evaluation, and leaves them alone. In evaluation it is batch norm.

    Args:
        num_features: channels.
        group: rows that share their statistics.
        eps: added to the variance.
        momentum: of the running statistics for one group; None keeps a cumulative mean over groups.
        affine: whether there are a scale and a shift.
        track_running_stats: whether there are running statistics.

    Source: Hoffer et al. 2017, arXiv:1705.08741, section 4, algorithm 1.
    """

    def __init__(
        self,
        num_features: int,
        *,
        group: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        if group < 2:  # noqa: PLR2004  # a variance takes two rows
            raise SettingsError(f"a ghost group must have at least 2 rows, got {group}; use group_norm for single rows")
        super().__init__(
            num_features, eps=eps, momentum=momentum, affine=affine, track_running_stats=track_running_stats
        )
        self.group = group

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        """Normalise `input`, `(examples, channels, ...)`.

        Raises:
            ShapeError: a lone row has no running statistics to be normalised by.
        """
        if not self.training:
            return super().forward(input)
        whole = len(input) // self.group * self.group
        parts = []
        if whole:
            parts.append(self._normalised(input[:whole], self.group))
        if whole < len(input):
            rest = input[whole:]
            alone = rest.numel() == rest.shape[1]
            parts.append(self._alone(rest) if alone else self._normalised(rest, len(rest)))
        return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else input

    def extra_repr(self) -> str:
        """Batch norm's description and the group."""
        described: str = super().extra_repr()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return f"{described}, group={self.group}"

    def _normalised(self, rows: Tensor, group: int) -> Tensor:
        """Whole groups: `(k * group, C, ...)` is normalised as `(group, k * C, ...)`, a channel for each group."""
        count, channels, extent = len(rows) // group, rows.shape[1], rows.shape[2:]
        folded = rows.reshape(count, group, channels, *extent).transpose(0, 1).reshape(group, count * channels, *extent)
        # With momentum 1 torch writes the statistics of this call themselves: the mean and the unbiased variance.
        dtype = torch.promote_types(rows.dtype, torch.float32)
        mean, var = (torch.zeros(count * channels, device=rows.device, dtype=dtype) for _ in range(2))
        scale, shift = (None if each is None else each.repeat(count) for each in (self.weight, self.bias))
        folded = functional.batch_norm(folded, mean, var, scale, shift, training=True, momentum=1.0, eps=self.eps)
        if self.track_running_stats:
            self._remember(mean.view(count, channels), var.view(count, channels))
        unfolded = folded.reshape(group, count, channels, *extent).transpose(0, 1)
        return unfolded.reshape(count * group, channels, *extent)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        """One step of the running statistics for each row of `mean` and `var`, `(groups, channels)`."""
        groups = len(mean)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if self.momentum is None:
            seen = self.num_batches_tracked.to(mean.dtype)
            keep, weights = seen / (seen + groups), (1 / (seen + groups)).expand(groups)
        else:
            # (1-m) twice, then m * first + ...: k steps of an exponential mean, unrolled.
            decay = torch.tensor(1 - self.momentum, device=mean.device, dtype=mean.dtype)
            keep = decay**groups
            weights = self.momentum * decay ** torch.arange(groups - 1, -1, -1, device=mean.device)
        self.running_mean.mul_(keep).add_(weights @ mean)
        self.running_var.mul_(keep).add_(weights @ var)
        self.num_batches_tracked.add_(groups)

    def _alone(self, row: Tensor) -> Tensor:
        """A row that has no group, normalised by copies of the running statistics: they may change before backward."""
        if self.running_mean is None or self.running_var is None:
            raise ShapeError(
                "a group must have more than one value a channel, got 1 and no running statistics; choose another "
                "batch size or track_running_stats=True"
            )
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return functional.batch_norm(row, mean, var, self.weight, self.bias, training=False, eps=self.eps)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  # torch's own name
        if input.dim() < 2:  # noqa: PLR2004
            raise ShapeError(f"a norm layer takes (examples, channels, ...), got shape {tuple(input.shape)}")


class FrozenNorm(_BatchNorm):
    """Batch norm that never learns: running statistics, scale and shift stay as they came, in training mode too.

    For fine-tuning on batches too small for statistics of their own.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        """Scale and shift `input`, `(examples, channels, ...)`, by the frozen statistics."""
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def ghost_norm(model: nn.Module, group: int) -> nn.Module:
    """`model` with every batch norm layer over groups of `group` rows.

    The gradient is then the same for every split whose micro-batches are multiples of `group`.

    Raises:
        SettingsError: `group` is below 2, or a layer has not been initialised.

    Source: Hoffer et al. 2017, arXiv:1705.08741, section 4, algorithm 1.
    """

    def ghost(layer: _BatchNorm) -> nn.Module:
        built = GhostNorm(
            layer.num_features,
            group=group,
            eps=layer.eps,
            momentum=layer.momentum,
            affine=layer.affine,
            track_running_stats=layer.track_running_stats,
        )
        return _with_state_of(layer, built)

    return _replaced(model, ghost)


def frozen_norm(model: nn.Module) -> nn.Module:
    """`model` with every batch norm layer frozen: its statistics, scale and shift are constants from now on.

    Raises:
        SettingsError: a layer has no running statistics to freeze.
    """

    def frozen(layer: _BatchNorm) -> nn.Module:
        if layer.running_mean is None:
            raise SettingsError(f"a frozen layer needs running statistics, got {layer}; track them while pre-training")
        built = _with_state_of(layer, FrozenNorm(layer.num_features, eps=layer.eps, affine=layer.affine))
        return built.requires_grad_(requires_grad=False)

    return _replaced(model, frozen)


def group_norm(model: nn.Module, groups: int) -> nn.Module:
    """`model` with group norm in the place of batch norm: statistics over `groups` groups of channels of one example.

    Running statistics disappear from its `state_dict`.

    Raises:
        SettingsError: `groups` does not divide the channels of a layer.

    Source: Wu and He 2018, arXiv:1803.08494, section 3.
    """

    def grouped(layer: _BatchNorm) -> nn.Module:
        if groups < 1 or layer.num_features % groups:
            raise SettingsError(
                f"groups must divide the {layer.num_features} channels of {layer}, got {groups}; choose a divisor"
            )
        built = nn.GroupNorm(groups, layer.num_features, eps=layer.eps, affine=layer.affine)
        if layer.affine:
            built.weight, built.bias = layer.weight, layer.bias
        return built

    return _replaced(model, grouped)


def layer_norm(model: nn.Module) -> nn.Module:
    """`model` with layer norm in the place of batch norm: every example over all its channels and positions.

    It is a group norm of one group, so scale and shift stay one number a channel. On `(examples, channels)` it equals
    `nn.LayerNorm(channels)`.

    Source: Ba et al. 2016, arXiv:1607.06450, section 3.
    """
    return group_norm(model, 1)


def _with_state_of(layer: _BatchNorm, built: _BatchNorm) -> _BatchNorm:
    """`built` with the very parameters and buffers of `layer`."""
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(built, name, getattr(layer, name))
    return built.train(layer.training)


def _replaced(model: nn.Module, build: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    """`model` with each batch norm layer `x` as `build(x)`; a layer used twice stays one layer."""
    known: dict[nn.Module, nn.Module] = {}

    def visit(module: nn.Module) -> nn.Module:
        if module not in known:
            if isinstance(module, _LazyNormBase) and module.has_uninitialized_params():
                raise SettingsError(f"a norm layer must know its channels, got {module}; run the model once before")
            known[module] = build(module).train(module.training) if isinstance(module, _BatchNorm) else module
            for name, child in list(module._modules.items()):  # noqa: SLF001  # named_children hides a second name
                if child is not None:
                    setattr(module, name, visit(child))
        return known[module]

    return visit(model)
