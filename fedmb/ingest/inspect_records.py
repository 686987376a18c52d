"""What lies in a stream, made fit to be shown: records are hostile, and a terminal believes what it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from fedmb.batch.minibatch import Schema, schema_of
from fedmb.errors import CorruptLog, DecodeError, RecordsGone
from fedmb.ingest.codec import CODEC_HEADER, SCHEMA_HEADER, Codec
from fedmb.ingest.codecs import Codecs
from fedmb.ingest.packed_codec import MAGIC, PREFIX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmb.batch.minibatch import Columns
    from fedmb.ingest.log import LogReader, Record
    from fedmb.ledger import StreamPartition

FIRST_VALUES = 4  # numbers of each column that are shown
LONGEST_TEXT = 200  # characters of a header or of an unreadable value that are shown
POLL_SECONDS = 5.0  # a broker that holds a record gives it well within


@dataclass(frozen=True, slots=True)
class InspectedRecord:
    """One record as a person may look at it; every text is printable, whatever its producer wrote."""

    partition: str
    offset: int
    time: str
    """When it was appended, UTC."""
    num_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    codec: str = ""
    """The codec that read it, or that its header names; empty where none is known."""
    schema: str = ""
    """Name of its columns' schema by its header; empty where it has none."""
    rows: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    """dtype and shape of each column."""
    values: Mapping[str, list[Any]] = field(default_factory=dict)
    """First numbers of each column."""
    reason: str = ""
    """Why it could not be decoded; empty where it was."""


def inspected(
    reader: LogReader, codecs: Sequence[Codec], *, offset: int | None = None, limit: int = 10
) -> Iterator[InspectedRecord]:
    """Records of each partition of a reader, one partition after another.

    Damage ends its partition and is shown as one record with the reason.

    Args:
        reader: of the partitions; sought and polled.
        codecs: the first reads records whose headers name none; without any, records that describe themselves are
            shown and nothing is checked.
        offset: the first one shown; negative counts from the end, None is the oldest.
        limit: records shown of each partition.

    Raises:
        Unreachable: the log does not answer.
    """
    begins, ends = reader.begin_offsets(), reader.end_offsets()
    for partition in reader.partitions:
        begin, end = begins.get(partition, 0), ends.get(partition, 0)
        first = begin if offset is None else offset if offset >= 0 else max(begin, end + offset)
        # A reader polls all its partitions; those that are not wanted now stand at their end.
        for other in reader.partitions:
            reader.seek(other, first if other == partition else ends.get(other, 0))
        yield from _of_one(reader, partition, codecs, first, end, limit)


def _of_one(
    reader: LogReader, partition: StreamPartition, codecs: Sequence[Codec], at: int, end: int, limit: int
) -> Iterator[InspectedRecord]:
    shown = 0
    while shown < limit and at < end:
        try:
            records = reader.poll(POLL_SECONDS, max(1, limit - shown) * len(reader.partitions))
        except (CorruptLog, RecordsGone) as error:
            yield InspectedRecord(str(partition), error.offset, "", 0, reason=printable(str(error), LONGEST_TEXT * 2))
            return
        mine = [record for record in records if record.partition == partition]
        if not mine:
            return
        for record in mine[: limit - shown]:
            yield inspect_record(record, codecs)
            shown, at = shown + 1, record.offset + 1


def inspect_record(record: Record, codecs: Sequence[Codec]) -> InspectedRecord:
    """One record, decoded where that is possible."""
    headers = record.headers
    codec = headers.get(CODEC_HEADER, b"").decode(errors="replace")
    columns: Columns = {}
    reason = ""
    try:
        if codecs:
            reading = Codecs(codecs).decoder(headers)
            codec, columns = reading.name, reading.decode(record.value)
        else:
            codec, columns = _self_described(record.value, codec)
    except DecodeError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  # this is where one looks when a codec has a fault
        reason = f"{type(error).__name__}: {error}"
    schema: Schema = schema_of(columns) if columns else {}
    return InspectedRecord(
        str(record.partition),
        record.offset,
        _time(record.timestamp_us),
        len(record.value),
        {printable(key): printable(value.decode(errors="replace")) for key, value in headers.items()},
        printable(codec),
        printable(headers.get(SCHEMA_HEADER, b"").decode(errors="replace")),
        len(next(iter(columns.values()))) if columns else 0,
        {printable(name): f"{one.dtype}{list(one.shape)}" for name, one in schema.items()},
        {printable(name): _first(array) for name, array in columns.items()}
        or {"(bytes)": [printable(bytes(record.value[:LONGEST_TEXT]).decode("latin-1"))]},
        printable(reason, LONGEST_TEXT * 2),
    )


def printable(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""`text` with everything escaped that is not visible: control characters, ESC, line ends, writing directions."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:longest])
    return shown + ("..." if len(text) > longest else "")


def _first(array: np.ndarray[Any, Any]) -> list[Any]:
    values: list[Any] = array.reshape(-1)[:FIRST_VALUES].tolist()
    return [value if not isinstance(value, float) or np.isfinite(value) else str(value) for value in values]


def _self_described(value: bytes | memoryview, named: str) -> tuple[str, Columns]:
    """Name of the codec and columns of a record that says itself what it holds.

    Raises:
        DecodeError: it does not.
    """
    content = bytes(value)
    if content.startswith(MAGIC):
        try:
            return "packed", load(content[PREFIX_BYTES:])
        except (SafetensorError, ValueError, KeyError) as error:
            raise DecodeError(f"a packed record must hold safetensors, got: {error}") from error
    try:
        row = json.loads(content)
        if isinstance(row, dict):
            columns = {str(key): np.array([cell]) for key, cell in row.items()}
            if all(array.dtype.kind in "biuf" for array in columns.values()):
                return "json", columns
    except (ValueError, RecursionError, OverflowError):
        pass
    raise DecodeError(f"a record that does not describe itself needs a schema, got codec {named!r}; pass --schema")


def _time(timestamp_us: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a producer may claim any time
        return str(timestamp_us)
