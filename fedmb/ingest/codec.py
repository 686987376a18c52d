"""What the bytes of a record mean: columns in, bytes out, and back.

A record's header `fmb-codec` names its codec, so one topic may hold records of several producers, and `fmb-schema`
holds `schema_id` of the columns they had in mind. Records are hostile until decoded: `decode` raises `DecodeError` on
any bytes that no encoder of the codec could have written, and nothing else for what is the record's fault.
"""

from __future__ import annotations

import hashlib
import json
import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.record_limits import RecordLimits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Columns, Schema

CODEC_HEADER = "fmb-codec"
"""Header of a record that holds its codec's name."""
SCHEMA_HEADER = "fmb-schema"
"""Header of a record that holds `schema_id` of its columns, as 16 hexadecimal digits."""
DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "float16",
    "uint32",
    "int32",
    "float32",
    "uint64",
    "int64",
    "float64",
)
"""Dtypes that every codec has. NumPy has no bfloat16 of its own: send float32, and let the trainer round."""

_DEFAULT_LIMITS = RecordLimits()
_DOTTED = (np.dtype("<f4"), np.dtype("<f8"))  # what BLAS multiplies
_DOT_ITEMS = 10_000  # beyond so many OpenBLAS takes threads, which a reader must not take from training


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

    @property
    def schema_id(self) -> str:
        """`schema_id(schema)`, for the `fmb-schema` header; kept because every record is compared with it."""
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
    """A codec with exactly one row in each record, which can therefore be decoded many at a time."""

    def decode_many(self, values: Sequence[bytes | memoryview]) -> Columns:
        """The columns of one or more records, a row for each, in their order; nothing in it is a view of `values`.

        Raises:
            DecodeError: one of them is not what this codec writes; `decode` one by one tells which.
        """
        ...

    def encode_rows(self, columns: Columns) -> list[bytes]:
        """The value of a record for each row.

        Raises:
            ShapeError: the columns do not follow the schema.
            ValueError: a number is not finite.
        """
        ...


def schema_id(schema: Schema) -> str:
    """Name of a schema: 8 bytes of SHA-256, in hexadecimal, of its columns' names, dtypes and shapes.

    The text that is hashed is `[["x","float32",[32]],["y","uint8",[]]]`: JSON without spaces, columns in the order of
    their names' code points, everything beyond ASCII escaped. Any language can make it.
    """
    columns = [[name, column.dtype, list(column.shape)] for name, column in sorted(schema.items())]
    return hashlib.sha256(json.dumps(columns, separators=(",", ":")).encode()).hexdigest()[:16]


def codec_headers(codec: Codec) -> dict[str, bytes]:
    """Headers for a record that `codec` encoded."""
    return {CODEC_HEADER: codec.name.encode(), SCHEMA_HEADER: codec.schema_id.encode()}


def decoder_for(
    headers: Mapping[str, bytes],
    codecs: Mapping[str, Codec],
    default: Codec,
    *,
    limits: RecordLimits = _DEFAULT_LIMITS,
) -> Codec:
    """The codec that a record's headers name, `default` when they name none.

    Args:
        headers: of the record.
        codecs: by name.
        default: for records that name none.
        limits: how many headers a record may have, and of how many bytes.

    Raises:
        DecodeError: they name a codec that is not among `codecs`, or another schema than its, or are too many.
    """
    if headers:
        size = sum(map(len, headers)) + sum(map(len, headers.values()))
        if len(headers) > limits.max_headers or size > limits.max_header_bytes:
            raise DecodeError(
                f"a record must have at most {limits.max_headers} headers of {limits.max_header_bytes} bytes, got "
                f"{len(headers)} of {size}; mend its producer, or raise max_headers and max_header_bytes"
            )
    named = headers.get(CODEC_HEADER)
    codec = default if named is None else codecs.get(named.decode(errors="replace"))
    if codec is None:
        _refuse_codec(named, codecs)
    found = headers.get(SCHEMA_HEADER)
    if found is not None and found != codec.schema_id.encode():
        raise DecodeError(
            f"the header {SCHEMA_HEADER} must be {codec.schema_id}, the task's columns, got "
            f"{found[:80].decode(errors='replace')!r}; its producer has another schema: mend it, or give its records "
            "a topic of their own"
        )
    return codec


def _refuse_codec(named: bytes | None, codecs: Iterable[str]) -> NoReturn:
    name = (named or b"").decode(errors="replace")
    near = get_close_matches(name, codecs, n=1)
    raise DecodeError(
        f"the header {CODEC_HEADER} must name one of {', '.join(sorted(codecs))}, got {name[:80]!r}; "
        + (f"did its producer mean {near[0]!r}?" if near else "give the source that codec")
    )


def check_schema(schema: Schema, kinds: Collection[str] = DTYPES, *, limits: RecordLimits | None = None) -> None:
    """Accept a schema whose every dtype is in `kinds` and whose axes are positive, of as many columns as `limits` say.

    Raises:
        SettingsError: it has no column or too many, a dtype that the codec lacks, or an empty axis.
    """
    if not schema:
        raise SettingsError("a codec's schema must have 1 column or more, got none; name one", key="schema")
    if limits is not None and len(schema) > limits.max_columns:
        raise SettingsError(
            f"a codec's schema must have at most {limits.max_columns} columns, got {len(schema)}; raise max_columns",
            key="schema",
        )
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
        if array.dtype.kind == "f" and not _is_finite(array):
            raise ValueError(f"numbers must be finite, got NaN or infinity in column {name!r}; drop or mend its rows")


def check_bounds(**bounds: int) -> None:
    """Accept bounds that are all positive.

    Raises:
        SettingsError: one is not.
    """
    for key, bound in bounds.items():
        if bound < 1:
            raise SettingsError(f"{key} must be 1 or more, got {bound}; leave it at its default", key=key)


def check_decoded(columns: Columns) -> None:
    """Accept decoded columns whose floats are all finite and whose bools are bytes 0 and 1.

    Raises:
        DecodeError: one is not.
    """
    for name, array in columns.items():
        kind = array.dtype.kind
        if kind == "f":
            if not _is_finite(array):
                raise DecodeError(f"numbers must be finite, got NaN or infinity in column {name!r}; mend the producer")
        elif kind == "b" and array.view(np.uint8).max() > 1:
            raise DecodeError(f"a bool must be byte 0 or 1, got another one in column {name!r}; mend the producer")


def squares_tell(dtype: np.dtype[Any], num_items: int) -> bool:
    """Whether a finite `np.vdot(array, array)` tells fastest that an array of such numbers is finite."""
    return dtype in _DOTTED and num_items <= _DOT_ITEMS


def _is_finite(array: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite.

    A finite sum of squares has only finite terms, and takes two thirds of the time of looking at each number; one that
    is not may have overflowed, and then each is looked at.
    """
    if squares_tell(array.dtype, array.size) and math.isfinite(np.vdot(array, array)):
        return True
    return b"\0" not in np.isfinite(array).tobytes()  # two thirds of what `all` takes
