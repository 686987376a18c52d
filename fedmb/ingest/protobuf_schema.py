"""Protobuf messages for columns, and columns out of other people's .proto files.

A field is a column by its name. Its type may be

- bool, any of the integers, float or double for a column of single numbers: whole numbers are accepted where floats
  are wanted, never the other way round;
- `repeated` of these for a column with axes, its numbers in C order;
- bytes for a column with axes: its numbers one after another, little-endian, in C order.

Files are compiled by protoc itself (of grpcio-tools), in a process of its own.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.batch.minibatch import Column, Schema
    from fedmb.ingest.writer_schema import WriterSchema

COMPILE_SECONDS = 60.0  # protoc takes 0.1; a machine that swaps is slower

_FILE = "fedmb_writer.proto"
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")


class ProtobufPlan(NamedTuple):
    """How to read one message type of a writer's schema."""

    message: Any
    """Its class."""
    raw: frozenset[str]
    """Columns that are bytes."""
    optional: tuple[str, ...]
    """Columns that a message may lack, and that it then must not be read without."""


def _refuse(rule: str, found: object) -> NoReturn:
    raise DecodeError(f"{rule}, got {str(found)[:300]}; mend its producer, or the task's columns")


def protobuf_text(schema: Schema) -> str:
    """The file by which we write: one message, a field for each column in the order of their names."""
    lines = ['syntax = "proto3";', "package fedmb;", "message Row {"]
    for number, (name, column) in enumerate(sorted(schema.items()), start=1):
        dtype = np.dtype(column.dtype)
        bits = 64 if dtype.itemsize > 4 else 32  # noqa: PLR2004  # bytes of 32 bits
        kinds = {"b": "bool", "u": f"uint{bits}", "i": f"sint{bits}", "f": "double" if bits > 32 else "float"}  # noqa: PLR2004
        comment = f"  // {list(column.shape)} in C order" if column.shape else ""
        lines.append(f"  {'repeated ' if column.shape else ''}{kinds[dtype.kind]} {name} = {number};{comment}")
    return "\n".join([*lines, "}", ""])


class ProtobufFile:
    """A compiled schema with the classes of its messages.

    Raises:
        DecodeError: it is no Protobuf schema, or does not compile.
    """

    def __init__(self, writer: WriterSchema) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        if writer.kind != "PROTOBUF":
            _refuse(f"schema {writer.id} of a Protobuf record must be of type PROTOBUF", writer.kind)
        files = descriptor_pb2.FileDescriptorSet.FromString(_compiled(writer))
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.Add(file)
        self._file = files.file[-1]
        self._number = writer.id
        self._class_of = message_factory.GetMessageClass

    def plan(self, path: Sequence[int], schema: Schema, max_fields: int) -> ProtobufPlan:
        """How messages become columns.

        Args:
            path: index of the message in the file, then of one inside it, and so on.
            schema: the columns.
            max_fields: most fields of the message.

        Raises:
            DecodeError: there is no such message, it lacks a column, or has another type for it.
        """
        found, names = None, [self._file.package] if self._file.package else []
        for index in path:
            inside = self._file.message_type if found is None else found.nested_type
            if not 0 <= index < len(inside):
                _refuse(f"schema {self._number} must have the message that the record names", list(path))
            found = inside[index]
            names.append(found.name)
        if found is None or len(found.field) > max_fields:
            _refuse(f"schema {self._number} must have a message of at most {max_fields} fields", list(path))
        fields = {field.name: field for field in found.field}
        raw = set()
        for name, column in schema.items():
            if name not in fields:
                _refuse(f"message {found.name} of schema {self._number} must have a field {name!r}", sorted(fields))
            if _fits(fields[name], column):
                raw.add(name)
        descriptor = self._pool.FindMessageTypeByName(".".join(names))
        optional = tuple(name for name in schema if descriptor.fields_by_name[name].has_presence)
        return ProtobufPlan(self._class_of(descriptor), frozenset(raw), optional)


def _fits(field: Any, column: Column) -> bool:  # a FieldDescriptorProto
    """Whether a field is raw bytes for a column; False means numbers.

    Raises:
        DecodeError: it is neither.
    """
    whole = {
        getattr(field, f"TYPE_{kind}")
        for kind in (
            *("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64"),
            *("FIXED32", "FIXED64", "SFIXED32", "SFIXED64"),
        )
    }
    kinds = {field.TYPE_BOOL: "b", field.TYPE_FLOAT: "f", field.TYPE_DOUBLE: "f"} | dict.fromkeys(whole, "iuf")
    is_repeated = field.label == field.LABEL_REPEATED
    if field.type == field.TYPE_BYTES and column.shape and not is_repeated:
        return True
    if is_repeated != bool(column.shape) or np.dtype(column.dtype).kind not in kinds.get(field.type, ""):
        rule = f"a column of {column.dtype} and shape {list(column.shape)} must be of a Protobuf type that fits it"
        _refuse(rule, " ".join(str(field).split()))
    return False


def size_of(column: Column) -> int:
    """Numbers of one row."""
    return math.prod(column.shape)


def _compiled(writer: WriterSchema) -> bytes:
    """A FileDescriptorSet of the schema and what it refers to, itself last."""
    with TemporaryDirectory(prefix="fedmb-proto-") as name:
        folder = Path(name)
        for path, text in (*writer.references, (_FILE, writer.text)):
            if not _PATH.fullmatch(path) or ".." in PurePosixPath(path).parts:
                _refuse(f"schema {writer.id} must import files by plain names", ascii(path))
            try:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(text.encode(errors="replace"))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                _refuse(f"schema {writer.id} must import files, none of them a folder of others", path)
        target = folder / "descriptors"
        options = ["--include_imports", f"--descriptor_set_out={target}", f"--proto_path={folder}"]
        command = [sys.executable, "-I", "-m", "grpc_tools.protoc", *options, _FILE]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=COMPILE_SECONDS)  # noqa: S603  # ours
        except subprocess.TimeoutExpired:
            _refuse(f"schema {writer.id} must compile within {COMPILE_SECONDS:g} s", "a .proto file that does not")
        if done.returncode or not target.exists():
            _refuse(f"schema {writer.id} must be a .proto file", done.stderr.decode(errors="replace").strip())
        return target.read_bytes()
