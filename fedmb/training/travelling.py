"""Which parts of a model travel in a federation: chosen by the type of the layer, never by its name.

FedBN's reference code selects by `'bn' not in key`, which finds nothing in an `nn.Sequential`, whose layers are
called "1" and "4".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from torch import Tensor, nn

from fedmb.errors import SettingsError
from fedmb.training.choices import Travels
from fedmb.training.norm import BATCH_NORMS

if TYPE_CHECKING:
    from collections.abc import Iterator


def travelling(model: nn.Module, which: Travels = "all") -> set[str]:
    """`state_dict` names that are averaged; the others stay where they are.

    Integers, such as `num_batches_tracked`, never travel: a mean of counters counts nothing.

    Raises:
        SettingsError: `which` is unknown.

    Source: FedBN: Li et al. 2021, arXiv:2102.07623, section 3, algorithm 1. SiloBN: Andreux et al. 2020,
        arXiv:2008.07424, section 3.
    """
    if which not in get_args(Travels):
        raise SettingsError(f"what travels must be one of {', '.join(get_args(Travels))}, got {which!r}; choose one")
    stays = set() if which == "all" else set(_of_batch_norms(model, parameters=which == "fedbn"))
    return {
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in stays
    }


def _of_batch_norms(model: nn.Module, *, parameters: bool) -> Iterator[str]:
    """Names of the batch norms' buffers and, if asked, `parameters`; a layer used twice has all its names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BATCH_NORMS):
            dot = f"{prefix}." if prefix else ""
            for name, _ in module.named_buffers(recurse=False):
                yield dot + name
            if parameters:
                for name, _ in module.named_parameters(recurse=False):
                    yield dot + name
