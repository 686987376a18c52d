"""How large a record and its headers may be before it is set aside unread."""

from __future__ import annotations

from pydantic import Field

from fedmb.section import Section


class RecordLimits(Section):
    """What a record may have at most; one that has more is set aside before anything is allocated for it."""

    max_headers: int = Field(default=64, ge=2)
    """Headers of a record."""
    max_header_bytes: int = Field(default=16_384, ge=64)
    """Bytes of all its headers, names and values."""
    max_columns: int = Field(default=1024, ge=1)
    """Columns of a task, and fields of a schema that a producer wrote by."""
    max_value_bytes: int = Field(default=67_108_864, ge=64)
    """Bytes of a record that may hold many rows (packed, arrow), or one of a fixed size (sample)."""
    max_row_bytes: int = Field(default=1_048_576, ge=64)
    """Bytes of a record that holds one row (json, avro, protobuf)."""
