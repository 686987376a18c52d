"""What a compressed change of a model travels as: a few vectors by name, checked before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fedmb.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

Vector: TypeAlias = "NDArray[np.float32]"
Parts: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Vectors of plain numbers by name."""


class Encoded(NamedTuple):
    """A change as it travels, and what it leaves to be sent later."""

    parts: Parts
    memory: Vector | None
    """What was not sent: the next change starts from it; None where the scheme has no memory."""


def check_parts(scheme: str, parts: Parts, wanted: Mapping[str, tuple[str, int]]) -> None:
    """Demand vectors of just these dtypes and lengths.

    Raises:
        ShapeError: a part is missing, unknown, or of another dtype or length.
    """
    found = {name[:80]: (part.dtype.name, part.shape) for name, part in list(parts.items())[: len(wanted) + 1]}
    if found != {name: (dtype, (length,)) for name, (dtype, length) in wanted.items()}:
        raise ShapeError(f"a change compressed by {scheme} must have the parts {dict(wanted)}, got {found}; reject it")
