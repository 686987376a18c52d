"""Flower's records as flat bytes: 4 bytes of length, a JSON head that describes every record, and their raw bytes.

Arrays are handed on as they lie in the record, whatever their form is; nothing is unpickled, and nothing is converted.
"""

from __future__ import annotations

import json
import struct
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmb.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("<I")
_RECORDS = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}


def to_bytes(content: RecordDict) -> list[bytes]:
    """Parts that follow each other; large arrays are not copied."""
    head: list[list[Any]] = []
    parts: list[bytes] = []
    for name, record in content.items():
        kind = next(kind for kind, form in _RECORDS.items() if isinstance(record, form))
        entries: list[list[Any]] = []
        for key, value in record.items():
            if isinstance(value, Array):
                parts.append(value.data)
                entries.append([key, {"bytes": len(value.data), "like": [value.dtype, list(value.shape), value.stype]}])
            elif isinstance(value, bytes):
                parts.append(value)
                entries.append([key, {"bytes": len(value)}])
            elif isinstance(value, list) and (several := [one for one in value if isinstance(one, bytes)]):
                parts += several
                entries.append([key, {"several": list(map(len, several))}])
            else:
                entries.append([key, value])
        head.append([name, kind, entries])
    text = json.dumps(head).encode()
    return [_LENGTH.pack(len(text)), text, *parts]


def from_bytes(data: memoryview | bytes) -> RecordDict:
    """The records that `to_bytes` wrote; raw bytes are copied once.

    Raises:
        DecodeError: the bytes are something else.
    """
    view = memoryview(data)
    try:
        (length,) = _LENGTH.unpack_from(view)
        head = json.loads(bytes(view[_LENGTH.size : _LENGTH.size + length]))
        raw = _raw(view, _LENGTH.size + length, [value for _, _, entries in head for _, value in entries])
        content = RecordDict()
        for name, kind, entries in head:
            content[name] = _RECORDS[kind]({key: _value(value, raw) for key, value in entries})
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, struct.error, RecursionError) as error:
        raise DecodeError(
            f"records must be written by fedmb's own record_bytes, got: {error!r}; run one fedmb on both ends"
        ) from error
    return content


def _raw(view: memoryview, start: int, values: list[Any]) -> Iterator[bytes]:
    """The raw bytes behind the head, in their order."""
    lengths: list[int] = []
    for value in values:
        if isinstance(value, dict):
            lengths += value["several"] if "several" in value else [value["bytes"]]
    if any(type(one) is not int or one < 0 for one in lengths) or start + sum(lengths) != len(view):
        raise ValueError(f"{len(view) - start} raw bytes where the head says {lengths}")
    stops = list(accumulate(lengths, initial=start))
    return (bytes(view[at:stop]) for at, stop in pairwise(stops))


def _value(value: Any, raw: Iterator[bytes]) -> Any:
    if not isinstance(value, dict):
        return value
    if "several" in value:
        return [next(raw) for _ in value["several"]]
    if "like" not in value:
        return next(raw)
    dtype, shape, stype = value["like"]
    return Array(dtype=dtype, shape=tuple(shape), stype=stype, data=next(raw))
