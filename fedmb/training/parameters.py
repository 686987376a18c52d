"""A model's parameters and buffers as NumPy arrays, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedmb.errors import Diverged
from fedmb.seeding import torch_seed
from fedmb.update import Arrays, check_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.training.task import BuildModel, Task


def arrays_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Copies of every parameter and buffer, by `state_dict` name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Write `arrays` into `model`; dtypes are converted, and floats are rounded where the model keeps integers.

    Raises:
        ShapeError: names or shapes differ from the model's.
    """
    state = model.state_dict()
    check_arrays(arrays, {name: np.empty(tuple(tensor.shape), np.bool_) for name, tensor in state.items()})
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if not tensor.is_floating_point() and np.issubdtype(array.dtype, np.floating):
                array = np.rint(array)
            tensor.copy_(torch.from_numpy(np.array(array)))


def initial_arrays(task: Task, seed: int, *, build: BuildModel | None = None) -> dict[str, NDArray[Any]]:
    """The model that round 1 starts from; the same for one task and seed on every machine.

    Args:
        task: what is learnt.
        seed: seed of the run.
        build: makes the model, such as `Training.build_model`; the task itself when left out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "initial model"))
        return arrays_of(build(task) if build else task.build_model())


def check_finite(arrays: Arrays, *, client: str) -> None:
    """Refuse to let a broken model leave its client.

    Raises:
        Diverged: an array holds a value that is not finite.
    """
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise Diverged(
                f"every parameter must stay finite, {name!r} of client {client!r} did not; lower "
                "training.learning_rate or look for bad rows"
            )
