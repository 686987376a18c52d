"""By which schema a record was written: told by its first bytes and a registry, or by a file for the whole topic.

    1 byte   0
    u32      id of the schema in the registry, big-endian
    ...      the record, in Avro's or Protobuf's own encoding

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop, "Wire format".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fedmb.errors import DecodeError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FRAME_BYTES = 5
MAX_SCHEMA_BYTES = 1 << 20

_MAGIC = 0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class WriterSchema(NamedTuple):
    """A schema by which records were written."""

    id: int
    """Its number in the registry; 0 where a file has none."""
    kind: str
    """AVRO or PROTOBUF, in the registry's words."""
    text: str
    references: tuple[tuple[str, str], ...] = ()
    """Name and text of each schema that it refers to, every one behind those that it refers to itself."""


class WriterSchemas(Protocol):
    """Where the schemas of a topic's records come from."""

    @property
    def framed(self) -> bool:
        """Whether records begin with the id of their schema."""
        ...

    def opened(self, value: bytes | memoryview) -> tuple[WriterSchema, memoryview]:
        """A record's schema, and what comes behind the frame.

        Raises:
            DecodeError: the frame is broken, or names a schema that is unknown.
            Unreachable: the schema could not be asked for; the record is not at fault, so try it again.
            AccessDenied: the registry refuses who we are.
        """
        ...

    def for_writing(self, kind: str, text: str) -> tuple[WriterSchema, bytes]:
        """The schema to write by, and the frame of its records.

        Args:
            kind: AVRO or PROTOBUF.
            text: what the codec would write by, if it may choose.

        Raises:
            SettingsError: nobody said under which subject to register it, or the registry refuses it.
            Unreachable: the registry does not answer.
            AccessDenied: the registry refuses who we are.
        """
        ...


class FileWriters:
    """One schema for all records, from a file.

    Args:
        path: an Avro schema (.avsc) or a Protobuf file (.proto).
        schema_id: records begin with this id; None where they have no frame at all.

    Raises:
        SettingsError: the file cannot be read, is of another kind or too large.
    """

    def __init__(self, path: Path, *, schema_id: int | None = None) -> None:
        kinds = {".avsc": "AVRO", ".proto": "PROTOBUF"}
        if path.suffix not in kinds:
            raise SettingsError(f"a schema file must end in .avsc or .proto, got {path}; rename it", key="schema_file")
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SCHEMA_BYTES + 1)
            text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"a schema file must be readable text, got {path}: {error}; mend its path", key="schema_file"
            ) from error
        if len(content) > MAX_SCHEMA_BYTES:
            raise SettingsError(
                f"a schema file must be at most {MAX_SCHEMA_BYTES} bytes, got more in {path}; remove its comments",
                key="schema_file",
            )
        self.framed = schema_id is not None
        self._schema = WriterSchema(schema_id or 0, kinds[path.suffix], text)

    def opened(self, value: bytes | memoryview) -> tuple[WriterSchema, memoryview]:
        """The file's schema, and the record behind its frame, if it has one.

        Raises:
            DecodeError: the frame is broken, or names another schema.
        """
        if not self.framed:
            return self._schema, memoryview(value)
        number, body = unframed(value)
        if number != self._schema.id:
            raise DecodeError(
                f"records must be of schema {self._schema.id}, got {number}; name the registry that knows both"
            )
        return self._schema, body

    def for_writing(self, kind: str, text: str) -> tuple[WriterSchema, bytes]:
        """The file's schema and its frame; `text` does not count."""
        return self._schema, frame(self._schema.id) if self.framed else b""


def check_names(names: Iterable[str]) -> None:
    """Accept column names that Avro and Protobuf can have.

    Raises:
        SettingsError: one has other characters than letters, digits and _, or begins with a digit.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"columns of avro and protobuf records must be named by letters, digits and _, got {name!r}; rename "
                "it, or choose another codec",
                key="schema",
            )


def frame(number: int) -> bytes:
    """What a record of the schema with this id begins with."""
    return bytes([_MAGIC]) + number.to_bytes(FRAME_BYTES - 1, "big")


def unframed(value: bytes | memoryview) -> tuple[int, memoryview]:
    """The id that a record begins with, and what comes behind it.

    Raises:
        DecodeError: it begins otherwise.
    """
    view = memoryview(value)
    if len(view) < FRAME_BYTES or view[0] != _MAGIC:
        raise DecodeError(
            f"a record must begin with 0 and the id of its schema, got {bytes(view[:FRAME_BYTES])!r}; was it written "
            "with a schema registry? if not, give the schema as a file"
        )
    return int.from_bytes(view[1:FRAME_BYTES], "big"), view[FRAME_BYTES:]
