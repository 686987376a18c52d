"""Ids and priorities on their way to a device, from wherever a caller has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch

from fedmb.errors import ShapeError
from fedmb.replay.given_rows import checked_priorities

if TYPE_CHECKING:
    from numpy.typing import NDArray

Values: TypeAlias = Union["NDArray[Any]", torch.Tensor]


def on_device(device: torch.device, values: Values, dtype: torch.dtype) -> torch.Tensor:
    """The values as a tensor there; the host does not wait for the copy, and may change what it gave."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # a copy, which torch keeps until it is over there
    return tensor.to(device, non_blocking=True)


def priorities_on(device: torch.device, priorities: Values, count: int) -> torch.Tensor:
    """Priorities as float64 `(count,)` there; those of the host are looked at, those in a tensor are not.

    Raises:
        ShapeError: there are not so many.
        ValueError: one of the host is negative, not finite or beyond any use.
    """
    if isinstance(priorities, torch.Tensor):
        if priorities.shape != (count,):
            raise ShapeError(f"there must be a priority for each of {count} rows, got {tuple(priorities.shape)}")
        return on_device(device, priorities.detach(), torch.float64)
    return on_device(device, checked_priorities(priorities, count), torch.float64)
