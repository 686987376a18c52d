"""Which codecs the records of a source may have, chosen by settings or in its URL.

    file:///var/log/fedmb?topic=rows&codecs=sample,packed&checksum=false
    kafka://broker:9092/rows?codecs=avro&registry=https://registry:8081&registry_user=fedmb&registry_password_file=/run/pw
    kafka://broker:9092/rows?codecs=protobuf&schema_file=/etc/fedmb/row.proto

A record's `fmb-codec` header chooses among them; one without the header is of the first. Without a choice a source
reads whatever needs no schema of its producer's: packed, json, sample, and arrow where pyarrow is installed. The keys
are the fields of `CodecChoice` and of its limits, and those of its registry with `registry_` before them.
"""

from __future__ import annotations

import importlib.util
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from pydantic import Field, ValidationError

from fedmb.errors import SettingsError
from fedmb.ingest.arrow_codec import ArrowCodec
from fedmb.ingest.avro_codec import AvroCodec
from fedmb.ingest.codec import check_schema
from fedmb.ingest.codecs import Codecs
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.protobuf_codec import ProtobufCodec
from fedmb.ingest.record_limits import RecordLimits
from fedmb.ingest.registry_writers import RegistryWriters
from fedmb.ingest.sample_codec import SampleCodec
from fedmb.ingest.schema_registry import RegistryAccess, SchemaRegistry
from fedmb.ingest.writer_schema import FileWriters, WriterSchemas
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.batch.minibatch import Schema
    from fedmb.ingest.codec import Codec

CodecName = Literal["packed", "json", "sample", "arrow", "avro", "protobuf"]
CODEC_NAMES: tuple[CodecName, ...] = get_args(CodecName)

_BY_WRITER = {"avro": ".avsc", "protobuf": ".proto"}  # their records need the schema of whoever wrote them
_REGISTRY = "registry"  # alone the registry's URL, before a _ a field of its access
_KEYS = ("codecs", "checksum", "schema_file", "writer_id", "subject")
_LIMITS = tuple(RecordLimits.model_fields)


class CodecChoice(Section):
    """How the values of records are read and written."""

    codecs: tuple[CodecName, ...] = ()
    """Codecs that records may have; the first is for those whose headers name none. Empty is every one that is
    installed and needs no producer's schema, packed first."""
    checksum: bool = True
    """Whether records of the sample codec end with a checksum."""
    registry: RegistryAccess | None = None
    """The schema registry of avro and protobuf records."""
    schema_file: str = ""
    """In place of a registry, the one schema of all records: an .avsc or a .proto file."""
    writer_id: int | None = Field(default=None, ge=0, lt=1 << 32)
    """With a schema file, the registry's id that records begin with; absent where they have no such frame."""
    subject: str = ""
    """Under which the registry keeps the schema of what we write, by custom TOPIC-value; empty writes nothing."""
    limits: RecordLimits = RecordLimits()
    """What a record may have at most."""

    def for_schema(self, schema: Schema) -> Codecs:
        """The codecs for columns, in their order, with the limits; a heavy package waits for its first record.

        Raises:
            SettingsError: a package is missing (the message names the extra), a registry or file is, or the schema
                breaks a rule of a codec.
        """
        names = self.codecs or tuple(
            name
            for name in CODEC_NAMES
            if name not in _BY_WRITER and (name != "arrow" or importlib.util.find_spec("pyarrow"))
        )
        check_schema(schema, limits=self.limits)
        if len(set(names)) < len(names):
            raise SettingsError(f"each codec must be named once, got {', '.join(names)}; drop one", key="codecs")
        writers = self._writers([name for name in names if name in _BY_WRITER])
        return Codecs([self._codec(name, schema, writers) for name in names], self.limits)

    def _codec(self, name: CodecName, schema: Schema, writers: WriterSchemas | None) -> Codec:
        most, row, fields = self.limits.max_value_bytes, self.limits.max_row_bytes, self.limits.max_columns
        match name:
            case "packed":
                return PackedCodec(schema, max_bytes=most)
            case "json":
                return JsonCodec(schema, max_bytes=row)
            case "sample":
                return SampleCodec(schema, checksum=self.checksum, max_bytes=most)
            case "arrow":
                return ArrowCodec(schema, max_bytes=most)
        assert writers is not None, "made for avro and protobuf"
        kind = AvroCodec if name == "avro" else ProtobufCodec
        return kind(schema, writers, max_bytes=row, max_fields=fields)

    def _writers(self, names: Sequence[str]) -> WriterSchemas | None:
        if not names:
            return None
        if (self.registry is None) == (not self.schema_file):
            found = "neither" if self.registry is None else "both"
            raise SettingsError(
                f"the codec {names[0]} needs a registry or a schema file, got {found}; name one, like "
                "registry=https://registry:8081",
                key="registry",
            )
        if self.registry is not None:
            return RegistryWriters(SchemaRegistry(self.registry), subject=self.subject)
        path = Path(self.schema_file)
        for name in names:
            if path.suffix != _BY_WRITER[name]:
                raise SettingsError(
                    f"a schema file of {name} must end in {_BY_WRITER[name]}, got {path}; choose another codec",
                    key="schema_file",
                )
        return FileWriters(path, schema_id=self.writer_id)


def codecs_in(url: str) -> tuple[str, CodecChoice]:
    """The URL of a stream without what it says about codecs, and what it says.

    Raises:
        SettingsError: it says something about them that breaks a rule.
    """
    head, mark, query = url.partition("?")
    kept, said = [], {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _KEYS + _LIMITS and key.partition("_")[0] != _REGISTRY:
            kept.append((key, value))
        elif key in said:
            raise SettingsError(f"each part of a stream must be given once, got {key} twice; drop one", key=key)
        else:
            said[key] = value
    if not said:
        return url, CodecChoice()
    names = said["codecs"].split(",") if "codecs" in said else []
    for name in names:
        _check_name(name)
    fields: dict[str, object] = {key: said[key] for key in _KEYS if key in said} | {"codecs": names}
    fields["limits"] = {key: said[key] for key in _LIMITS if key in said}
    access = {key.removeprefix("registry_"): said[key] for key in said if key.partition("_")[0] == _REGISTRY}
    if access:
        fields[_REGISTRY] = {"url": access.pop(_REGISTRY, ""), **access}
    try:
        choice = CodecChoice.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = "_".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{key} must be as its description says, got {first['input']!r}: {first['msg']}; mend the URL", key=key
        ) from error
    return head + mark * bool(kept) + urlencode(kept, safe="/:,"), choice


def _check_name(name: str) -> None:
    if name not in CODEC_NAMES:
        near = get_close_matches(name, CODEC_NAMES, n=1)
        raise SettingsError(
            f"codecs must be of {', '.join(CODEC_NAMES)}, got {name!r}; "
            + (f"did you mean {near[0]}?" if near else "name one of them"),
            key="codecs",
        )
