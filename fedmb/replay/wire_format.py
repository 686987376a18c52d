"""What a replay service and its clients say to each other: frames of numbers and raw rows, in any transport.

    0    kind, flags, 2 bytes of zeros, rows, sequence, extra, bytes that follow, CRC-32C of all but itself
    32   what follows: rows as one block of aligned structs, ids, priorities, or JSON; the kind says which

A request is one frame. An answer may be several, one behind the other, each padded to 16 bytes, so that rows can be
read where they lie. Requests and small answers carry their checksum, since what they bring is kept; a drawn batch does
not: beyond loopback TLS protects it. Nothing is unpickled, and every length is known before memory is taken for it.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeAlias, TypeVar

import numpy as np
from crc32c import crc32c

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, VersionMismatch
from fedmb.replay.ring_layout import STORED_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedmb.batch.minibatch import Schema

WIRE_VERSION = 1
HEADER = struct.Struct("<BBHIQqII")
CHECKED = 28  # bytes of a header that its checksum covers
PAD = 16  # bytes; what Python aligns the content of a bytearray to
MAX_JSON = 1 << 20  # bytes
MAX_NAME = 200  # characters
MAX_COLUMNS = 4096
MAX_DIMENSIONS = 32  # of a column; NumPy's own limit is not lower
MAX_ROW_BYTES = 1 << 28

WEIGHTED = 1  # flag of a batch: importance weights follow the ids
PROBABLE = 2  # flag of a batch: probabilities follow
PRIORITIZED = 4  # flag of an insert: priorities follow the rows
SHARED = 8  # flag of an insert: the rows lie in the slot of shared memory that the payload names
UNCHECKED = 128  # flag: no checksum


class Kind(IntEnum):
    """What a frame is."""

    INSERT = 1
    """Rows to keep, numbered by `sequence` for each writer."""
    REPRIORITIZE = 2
    """New priorities: ids, then priorities."""
    PULL = 3
    """Credit: send `extra` more batches of `rows` rows; beside shared memory, into the slots that follow, if any do."""
    STATISTICS = 4
    SNAPSHOT = 5
    SHARE = 6
    """May we share memory? JSON says how much."""

    WELCOME = 64
    """First answer: what the table is, as JSON."""
    INSERTED = 65
    """Rows of `sequence` are kept; their ids."""
    DONE = 66
    """Done; `extra` is how many it concerned."""
    FIGURES = 67
    """JSON; as a request, for all that is known of the table."""
    BATCH = 68
    """Drawn rows; `extra` is the table's length, `sequence` the slot where they lie in shared memory."""
    REFUSED = 69
    """The request was understood and cannot be met; JSON says why. `rows` and `sequence` are the request's."""


_KINDS = {int(kind): kind for kind in Kind}


K = TypeVar("K", bound=IntEnum)


class FrameOf(NamedTuple, Generic[K]):
    """One frame, its payload a view of the message."""

    kind: K
    flags: int
    rows: int
    sequence: int
    extra: int
    payload: memoryview


Frame: TypeAlias = FrameOf[Kind]
"""A frame of the replay protocol."""


def frame(
    kind: IntEnum, *parts: Any, rows: int = 0, sequence: int = 0, extra: int = 0, flags: int = 0
) -> bytes:  # parts: whatever has the buffer protocol
    """A frame as bytes; `parts` are copied once.

    Raises:
        struct.error: a number does not fit its field.
    """
    views = [memoryview(part).cast("B") if memoryview(part).nbytes else b"" for part in parts]
    head = HEADER.pack(kind, flags, 0, rows, sequence, extra, sum(map(len, views)), 0)[:CHECKED]
    checksum = 0
    if not flags & UNCHECKED:
        checksum = crc32c(head)
        for view in views:
            checksum = crc32c(view, checksum)
    return b"".join((head, checksum.to_bytes(4, "little"), *views))


def json_frame(kind: Kind, content: Mapping[str, Any], *, rows: int = 0, sequence: int = 0) -> bytes:
    """A frame of JSON."""
    return frame(kind, json.dumps(content, allow_nan=True).encode(), rows=rows, sequence=sequence)


def batch_head(rows: int, flags: int, length: int, table_rows: int, slot: int = 0) -> bytes:
    """The header of a batch, whose parts the caller puts behind it."""
    return HEADER.pack(Kind.BATCH, flags | UNCHECKED, 0, rows, slot, table_rows, length, 0)


def request(message: bytes | memoryview) -> Frame:
    """The one frame that `message` is, its checksum verified.

    Raises:
        DecodeError: it is none.
    """
    found = next(frames(message), None)
    if found is None:
        _refuse("no frame in an empty message")
    if HEADER.size + len(found.payload) != len(message):
        _refuse(f"{len(message) - HEADER.size - len(found.payload)} bytes behind a request")
    if found.flags & UNCHECKED:
        _refuse("a request without a checksum")
    return found


def frames(message: bytes | bytearray | memoryview) -> Iterator[Frame]:
    """Every frame of a message of the replay protocol.

    Raises:
        DecodeError: the message is not made of frames.
    """
    return frames_of(message, _KINDS)


def frames_of(message: bytes | bytearray | memoryview, kinds: Mapping[int, K]) -> Iterator[FrameOf[K]]:
    """Every frame of a message whose frames are of these kinds.

    Raises:
        DecodeError: the message is not made of frames.
    """
    view, at = memoryview(message), 0
    while at < len(view):
        stop = at + HEADER.size
        if stop > len(view):
            _refuse(f"{len(view) - at} bytes where a header of {HEADER.size} was due")
        number, flags, zeros, rows, sequence, extra, length, checksum = HEADER.unpack_from(view, at)
        kind = kinds.get(number)
        if kind is None or zeros:
            _refuse(f"kind {number}")
        if stop + length > len(view):
            _refuse(f"{kind.name} of {length} bytes in a message with {len(view) - stop} left")
        payload = view[stop : stop + length]
        if not flags & UNCHECKED:
            if crc32c(payload, crc32c(view[at : at + CHECKED])) != checksum:
                _refuse(f"{kind.name} that fails its checksum")
        elif kind is not Kind.BATCH:
            _refuse(f"{kind.name} without a checksum")
        yield FrameOf(kind, flags, rows, sequence, extra, payload)
        at = stop + padded(length)


def padded(length: int) -> int:
    """`length`, raised to the boundary on which the next frame begins."""
    return -(-length // PAD) * PAD


def json_of(payload: memoryview | bytes) -> dict[str, Any]:
    """The JSON object in a payload.

    Raises:
        DecodeError: it is longer than allowed, no JSON, or no object.
    """
    if len(payload) > MAX_JSON:
        _refuse(f"JSON of {len(payload)} bytes")
    try:
        found = json.loads(bytes(payload))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        _refuse("no JSON object")
    return found


def schema_json(schema: Schema) -> list[list[object]]:
    """A schema as JSON values, in its own order."""
    return [[name, column.dtype, list(column.shape)] for name, column in schema.items()]


def schema_in(content: object) -> dict[str, Column]:
    """The schema that `schema_json` wrote.

    Raises:
        DecodeError: it is none.
    """
    if not isinstance(content, list) or not 1 <= len(content) <= MAX_COLUMNS:
        _refuse("no list of columns")
    schema = {}
    for entry in content:
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(one, str) for one in entry[:2]):  # noqa: PLR2004  # name, dtype, shape
            _refuse("a column that is not [name, dtype, shape]")
        schema[entry[0]] = _column(*entry)
    if len(schema) != len(content) or sum(map(_size, schema.values())) > MAX_ROW_BYTES:
        _refuse(f"two columns of one name, or rows above {MAX_ROW_BYTES} bytes")
    return schema


class Hello(NamedTuple):
    """What a client says first; a transport carries it in front of its frames."""

    table: str
    writer: str
    """Whose inserts are numbered; unique for each client."""
    schema: Schema | None = None
    """Columns that the client means; None takes the table's."""
    ticket: str = ""
    """Proof, for a socket without a token, that this client was let in elsewhere."""

    def encoded(self) -> bytes:
        """As JSON."""
        columns = None if self.schema is None else schema_json(self.schema)
        content = {"version": WIRE_VERSION, "byteorder": sys.byteorder, "table": self.table, "writer": self.writer}
        return json.dumps(content | {"columns": columns, "ticket": self.ticket}).encode()

    @classmethod
    def decoded(cls, content: bytes | memoryview) -> Hello:
        """What `encoded` wrote.

        Raises:
            DecodeError: it is no hello.
            VersionMismatch: the client speaks another version.
        """
        found = json_of(content)
        version = found.get("version")
        if version != WIRE_VERSION:
            raise VersionMismatch(
                f"a client must speak version {WIRE_VERSION} of the replay protocol, got {str(version)[:20]}; install "
                "the same fedmb on both sides"
            )
        if found.get("byteorder") != sys.byteorder:
            raise VersionMismatch(
                f"a client must have the service's order of bytes, {sys.byteorder}, got "
                f"{str(found.get('byteorder'))[:20]}; run both on machines of one kind"
            )
        columns = found.get("columns")
        schema = None if columns is None else schema_in(columns)
        return cls(_word(found, "table"), _word(found, "writer"), schema, _word(found, "ticket"))


def _word(found: Mapping[str, Any], key: str) -> str:
    word = found.get(key)
    if not isinstance(word, str) or len(word) > MAX_NAME:
        _refuse(f"a hello whose {key} is no short text")
    return word


def _column(name: str, dtype: str, shape: object) -> Column:
    is_shape = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    if not is_shape or not all(type(one) is int and 0 <= one <= MAX_ROW_BYTES for one in shape):  # type: ignore[attr-defined]  # a list, as `is_shape` says
        _refuse(f"column {name[:MAX_NAME]!r} without a shape")
    try:
        # A dtype's name, and nothing of the small language that NumPy reads beside it.
        found = np.dtype(dtype) if re.fullmatch(r"[a-z]+[0-9]*", dtype) else None
    except (TypeError, ValueError):
        found = None
    if found is None or found.kind not in STORED_KINDS or found.name != dtype:
        _refuse(f"column {name[:MAX_NAME]!r} of {dtype[:MAX_NAME]!r}")
    return Column(dtype, tuple(shape))  # type: ignore[arg-type]  # as above


def _size(column: Column) -> int:
    size = np.dtype(column.dtype).itemsize
    for one in column.shape:
        size *= one
    return size


def _refuse(found: str) -> NoReturn:
    raise DecodeError(f"a message must be made of frames of the replay protocol, got {found}; speak its version")
