"""How a client's change of the model travels: as it is, or compressed.

change = trained - received            on the client, in float32
parts, memory = encode(change, memory) what travels, and what is left for the next round
change = decode(parts)                 on the server, before the update is judged

A scheme is a function of its inputs, so a round that is trained again from the same memory sends the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from fedmb.aggregation.compress_bfloat16 import BFloat16Change
from fedmb.aggregation.compress_int8 import Int8Change
from fedmb.aggregation.compress_top import TopChange
from fedmb.section import Section

if TYPE_CHECKING:
    import numpy as np

    from fedmb.aggregation.compress_parts import Encoded, Parts, Vector

MAX_BLOCK = 1 << 16  # numbers


class Wire(Section):
    """How models travel from clients to the server."""

    compression: Literal["none", "bf16", "int8", "top"] = "none"
    """none: the model as it is; bf16, int8: its change in two bytes or one a number; top: the largest numbers of it."""
    top_share: float = Field(default=0.05, gt=0, le=1)
    """top: part of the numbers that travels, eight bytes each; the others are added to the next round's."""
    block: int = Field(default=256, ge=1, le=MAX_BLOCK)
    """int8: numbers that share a scale of four bytes."""


class Compression(Protocol):
    """A change of a model, as fewer bytes and back."""

    @property
    def has_memory(self) -> bool:
        """Whether what a round does not send is sent later."""
        ...

    def encode(self, change: Vector, memory: Vector | None, random: np.random.Generator) -> Encoded:
        """What travels of `change` and `memory`, and what is left.

        Args:
            change: float32 of one dimension; it is not changed.
            memory: what the last round left, of the same length; None for nothing.
            random: draws for schemes that round by chance.
        """
        ...

    def decode(self, parts: Parts, size: int) -> Vector:
        """The change of `size` numbers that travelled as `parts`.

        Raises:
            ShapeError: the parts are none that `encode` makes for so many numbers.
        """
        ...


def compression_of(wire: Wire) -> Compression | None:
    """The scheme that the settings name; None where models travel as they are."""
    if wire.compression == "bf16":
        return BFloat16Change()
    if wire.compression == "int8":
        return Int8Change(wire.block)
    if wire.compression == "top":
        return TopChange(wire.top_share)
    return None
