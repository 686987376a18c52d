"""A model's parameters and buffers as NumPy arrays, and back; bfloat16 as `fedmb.arrays.bfloat16` keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fedmb.arrays.bfloat16 import BFLOAT16, is_finite, is_real, widened
from fedmb.errors import Diverged
from fedmb.seeding import torch_seed
from fedmb.update import Arrays, check_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.training.task import BuildModel, Task


def arrays_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Copies of every parameter and buffer, by `state_dict` name."""
    return {name: array.copy() for name, array in shared_arrays(model).items()}


def shared_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Every parameter and buffer by `state_dict` name; on a CPU the model's own memory, which its next step changes."""
    return {name: _shared(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}


def _shared(tensor: torch.Tensor) -> NDArray[Any]:
    """A CPU tensor's own memory as an array."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(BFLOAT16)
    array: NDArray[Any] = tensor.numpy()
    return array


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Write `arrays` into `model`; dtypes are converted, and floats are rounded where the model keeps integers.

    Raises:
        ShapeError: names or shapes differ from the model's.
    """
    state = model.state_dict()
    check_arrays(arrays, {name: np.empty(tuple(tensor.shape), np.bool_) for name, tensor in state.items()})
    with torch.no_grad():
        for name, tensor in state.items():
            _write(tensor, arrays[name])


def _write(tensor: torch.Tensor, array: NDArray[Any]) -> None:
    is_whole = not tensor.is_floating_point() and not tensor.is_complex()
    if is_whole and is_real(array.dtype):
        array = np.rint(widened(array))
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype != torch.bfloat16:
        np.copyto(tensor.numpy(), widened(array), casting="unsafe")  # one copy, from memory that may be read-only
    elif array.dtype == BFLOAT16:
        tensor.copy_(torch.from_numpy(np.array(array["bfloat16"])).view(torch.bfloat16))
    else:
        tensor.copy_(torch.from_numpy(np.array(array)))


def initial_arrays(task: Task, seed: int, *, build: BuildModel | None = None) -> dict[str, NDArray[Any]]:
    """The model that round 1 starts from; the same for one task and seed on every machine.

    Args:
        task: what is learnt.
        seed: seed of the run.
        build: makes the model, such as `Training.build_model`; the task itself when left out.
    """
    return first_model(task, seed, build=build)[0]


def first_model(
    task: Task, seed: int, *, build: BuildModel | None = None
) -> tuple[dict[str, NDArray[Any]], frozenset[str]]:
    """The arrays that round 1 starts from, as `initial_arrays`, and the names of those that are trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "initial model"))
        model = build(task) if build else task.build_model()
        return arrays_of(model), trained_in(model)


def parameter_names(task: Task, *, build: BuildModel | None = None) -> frozenset[str]:
    """`state_dict` names of what is trained; buffers, such as running statistics, are not among them."""
    with torch.random.fork_rng(devices=[]):
        return trained_in(build(task) if build else task.build_model())


def trained_in(model: nn.Module) -> frozenset[str]:
    """The same of a model that is built."""
    return frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))


def statistics_names(task: Task, *, build: BuildModel | None = None) -> frozenset[str]:
    """`state_dict` names of floating buffers, such as running statistics."""
    with torch.random.fork_rng(devices=[]):
        model = build(task) if build else task.build_model()
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return frozenset(
        name for name, value in model.state_dict().items() if value.is_floating_point() and name not in trained
    )


def check_finite(arrays: Arrays, *, client: str) -> None:
    """Refuse to let a broken model leave its client.

    Raises:
        Diverged: an array holds a value that is not finite.
    """
    for name, array in arrays.items():
        if not is_finite(array):
            raise Diverged(
                f"every parameter must stay finite, {name!r} of client {client!r} did not; lower "
                "training.learning_rate or look for bad rows"
            )
