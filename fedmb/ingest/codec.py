"""What the bytes of a record mean: columns in, bytes out, and back.

A record's header `fmb-codec` names its codec, so one topic may hold records of several producers. Records are hostile
until decoded: `decode` raises `DecodeError` on any bytes that `encode` could not have written, and nothing else.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from fedmb.errors import DecodeError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmb.batch.minibatch import Columns, Schema

CODEC_HEADER = "fmb-codec"
"""Header of a record that holds its codec's name."""


@runtime_checkable
class Codec(Protocol):
    """Columns of equal length to the value of one record, and back."""

    @property
    def name(self) -> str:
        """Word for the `fmb-codec` header."""
        ...

    @property
    def schema(self) -> Schema:
        """Columns that it encodes and decodes."""
        ...

    def encode(self, columns: Columns) -> bytes:
        """The value of one record; the same columns give the same bytes.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: the rows are too many, none, or hold a number that is not finite.
        """
        ...

    def decode(self, value: bytes | memoryview) -> Columns:
        """The columns of a record, one row or more; they may be read-only views of `value`.

        Raises:
            DecodeError: the bytes are not what this codec writes.
        """
        ...


@runtime_checkable
class RowCodec(Codec, Protocol):
    """A codec whose records hold exactly one row each, so that many are decoded in one go."""

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of the records, row by row, each `(len(values), ...)`.

        Raises:
            DecodeError: one of them or more is not what this codec writes; `decode` tells which.
        """
        ...


def codec_headers(codec: Codec) -> dict[str, bytes]:
    """Headers for a record that `codec` encoded."""
    return {CODEC_HEADER: codec.name.encode()}


def decoder_for(headers: Mapping[str, bytes], codecs: Mapping[str, Codec], default: Codec) -> Codec:
    """The codec that a record's headers name, `default` when they name none.

    Raises:
        DecodeError: they name a codec that is not among `codecs`.
    """
    named = headers.get(CODEC_HEADER)
    if named is None:
        return default
    name = named.decode(errors="replace")
    codec = codecs.get(name)
    if codec is None:
        near = get_close_matches(name, codecs, n=1)
        raise DecodeError(
            f"the header {CODEC_HEADER} must name one of {', '.join(sorted(codecs))}, got {name[:80]!r}; "
            + (f"did its producer mean {near[0]!r}?" if near else "give the source that codec")
        )
    return codec


def check_schema(schema: Schema, kinds: Mapping[str, str]) -> None:
    """Accept a schema whose every dtype is in `kinds` and whose axes are positive.

    Raises:
        SettingsError: it has no column, a dtype that the codec lacks, or an empty axis.
    """
    if not schema:
        raise SettingsError("a codec's schema must have 1 column or more, got none; name one", key="schema")
    for name, column in schema.items():
        if column.dtype not in kinds:
            raise SettingsError(
                f"a codec's columns must be of {', '.join(kinds)}, got {column.dtype!r} for {name!r}; choose one",
                key="schema",
            )
        if any(type(size) is not int or size < 1 for size in column.shape):
            raise SettingsError(
                f"axes of a column must be 1 or more, got {column.shape} for {name!r}; drop the column", key="schema"
            )


def check_finite(columns: Columns) -> None:
    """Accept columns whose floats are all finite.

    Raises:
        ValueError: one is not.
    """
    for name, array in columns.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"numbers must be finite, got NaN or infinity in column {name!r}; drop or mend its rows")
