"""How one record lies in a segment file: a frame under two CRC-32C sums.

    4 bytes  magic
    u32      CRC-32C of the 28 bytes that follow it
    u32      CRC-32C of the body
    u32      bytes of headers
    u32      bytes of value
    u64      offset
    i64      timestamp, microseconds since the epoch
    body     headers, then value

All numbers are little-endian. The header has its own sum because the lengths in it say where the next frame starts:
a flipped bit in a length would otherwise look like a frame that is still being written, and the good records behind
it would be cut off as a torn tail. Since the body's sum lies in the header, the first sum vouches for it.

Headers are a sequence of `u16 name bytes, u32 value bytes, name in UTF-8, value`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"fmF1"
HEADER = struct.Struct("<4sIIIIQq")
MAX_BODY_BYTES = 1 << 30
"""Largest headers plus value of one record; a header that claims more is damaged, and must not size a read."""

_SUMMED = 8  # bytes of magic and header sum, which the header sum does not cover
_ENTRY = struct.Struct("<HI")
_NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


class FrameError(Exception):
    """Bytes at a place where a frame must start are none.

    Args:
        message: what is wrong.
        num_bytes: length of the frame when its header can be trusted, else None.
    """

    def __init__(self, message: str, *, num_bytes: int | None = None) -> None:
        super().__init__(message)
        self.num_bytes = num_bytes


class FrameHeader(NamedTuple):
    """The checked header of a frame."""

    offset: int
    timestamp_us: int
    headers_bytes: int
    num_bytes: int
    """Length of the whole frame."""
    body_crc: int


class Frame(NamedTuple):
    """A whole, checked frame; `value` is a view of the bytes that were read."""

    offset: int
    timestamp_us: int
    headers: Mapping[str, bytes]
    value: memoryview
    num_bytes: int
    """Length of the whole frame, so that the next one starts so many bytes further."""


def pack_headers(headers: Mapping[str, bytes] | None) -> bytes:
    """Headers as bytes; none are no bytes.

    Raises:
        ValueError: a name is longer than 65,535 bytes of UTF-8.
    """
    parts: list[bytes] = []
    for name, value in (headers or {}).items():
        encoded = name.encode()
        if len(encoded) > 0xFFFF:  # noqa: PLR2004  # what u16 holds
            raise ValueError(f"a header's name must be at most 65535 bytes, got {len(encoded)}; shorten {name[:40]!r}")
        parts += (_ENTRY.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


@lru_cache(maxsize=256)  # most records of a topic carry the same headers
def unpack_headers(packed: bytes) -> Mapping[str, bytes]:
    """Read `pack_headers` back.

    Raises:
        FrameError: the bytes are no headers.
    """
    headers: dict[str, bytes] = {}
    start = 0
    try:
        while start < len(packed):
            name_bytes, value_bytes = _ENTRY.unpack_from(packed, start)
            name_start = start + _ENTRY.size
            name_stop = name_start + name_bytes
            start = name_stop + value_bytes
            headers[packed[name_start:name_stop].decode()] = packed[name_stop:start]
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"headers cannot be read: {error}") from error
    if start != len(packed):
        raise FrameError("headers run past their own end")
    return MappingProxyType(headers)


def pack_frame(offset: int, timestamp_us: int, packed_headers: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    """The three stretches of one frame, in order: header, packed headers, value; the value is not copied.

    Raises:
        ValueError: headers and value are longer than `MAX_BODY_BYTES`.
    """
    body_bytes = len(packed_headers) + len(value)
    if body_bytes > MAX_BODY_BYTES:
        raise ValueError(
            f"a record must be at most {MAX_BODY_BYTES} bytes, got {body_bytes}; pack fewer rows into one record"
        )
    body_crc = crc32c(value, crc32c(packed_headers))
    header = HEADER.pack(MAGIC, 0, body_crc, len(packed_headers), len(value), offset, timestamp_us)
    header_crc = crc32c(header[_SUMMED:])
    return MAGIC + header_crc.to_bytes(4, "little") + header[_SUMMED:], packed_headers, value


def unpack_header(view: memoryview, start: int) -> FrameHeader:
    """The header at `start`; the view must hold all of it.

    Raises:
        FrameError: no frame starts here.
    """
    magic, header_crc, body_crc, headers_bytes, value_bytes, offset, timestamp_us = HEADER.unpack_from(view, start)
    if magic != MAGIC:
        raise FrameError(f"a frame must start with {MAGIC!r}, got {magic!r}")
    found = crc32c(view[start + _SUMMED : start + HEADER.size])
    if found != header_crc:
        raise FrameError(f"the header's CRC-32C must be {header_crc:#010x}, got {found:#010x}")
    if headers_bytes + value_bytes > MAX_BODY_BYTES:
        raise FrameError(f"a frame's body must be at most {MAX_BODY_BYTES} bytes, got {headers_bytes + value_bytes}")
    return FrameHeader(offset, timestamp_us, headers_bytes, HEADER.size + headers_bytes + value_bytes, body_crc)


def unpack_frame(view: memoryview, start: int) -> Frame | int:
    """The frame at `start`, or how many bytes from `start` on are needed to say more.

    Raises:
        FrameError: the bytes there are no frame, whatever follows them.
    """
    available = len(view) - start
    if available < HEADER.size:
        return HEADER.size
    header = unpack_header(view, start)
    if available < header.num_bytes:
        return header.num_bytes
    body = view[start + HEADER.size : start + header.num_bytes]
    found = crc32c(body)
    if found != header.body_crc:
        raise FrameError(
            f"the body's CRC-32C must be {header.body_crc:#010x}, got {found:#010x}", num_bytes=header.num_bytes
        )
    if not header.headers_bytes:
        return Frame(header.offset, header.timestamp_us, _NO_HEADERS, body, header.num_bytes)
    headers = unpack_headers(bytes(body[: header.headers_bytes]))
    return Frame(header.offset, header.timestamp_us, headers, body[header.headers_bytes :], header.num_bytes)
