"""Avro and Protobuf records behind the id of their producer's schema: a writer, readers not ours, and odd ones."""

import io
import json
import struct

import fastavro
import numpy as np
from counting import SCHEMA
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet

from fedmb.ingest.avro_codec import AvroCodec
from fedmb.ingest.avro_schema import avro_text
from fedmb.ingest.protobuf_codec import ProtobufCodec
from fedmb.ingest.protobuf_schema import protobuf_text
from fedmb.ingest.writer_schema import FileWriters

WRITER = 7  # id of the schema in front of avro and protobuf records
FRAME = b"\0" + WRITER.to_bytes(4, "big")
AVRO = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "number", "type": "long"},
        {"name": "x", "type": {"type": "fixed", "name": "four", "size": 16}},
    ],
}


def codec_with_file(name, folder):
    """A codec of records that need their producer's schema, and the file where that stands."""
    kind, suffix, text = {"avro": (AvroCodec, "avsc", avro_text), "protobuf": (ProtobufCodec, "proto", protobuf_text)}[
        name
    ]
    path = folder / f"row.{suffix}"
    path.write_text(text(SCHEMA))
    return kind(SCHEMA, FileWriters(path, schema_id=WRITER)), path


def fits(numbers, x):
    """Whether these are rows of the schema."""
    is_shaped = numbers.dtype == np.int64 and x.dtype == np.float32 and x.shape == (len(numbers), 4)
    return len(numbers) > 0 and is_shaped and bool(np.isfinite(x).all())


def read_avro(value):
    """Whether these bytes are one row, by fastavro."""
    file = io.BytesIO(value.removeprefix(FRAME))
    row = fastavro.schemaless_reader(file, AVRO, None)
    is_all = value.startswith(FRAME) and not file.read()
    return is_all and fits(np.array([row["number"]], np.int64), np.frombuffer(row["x"], "<f4")[None].astype("f4"))


def _message_class():
    file = descriptor_pb2.FileDescriptorProto(name="row.proto", package="reference", syntax="proto3")
    field, row = descriptor_pb2.FieldDescriptorProto, file.message_type.add(name="Row")
    row.field.add(name="number", number=1, type=field.TYPE_SINT64, label=field.LABEL_OPTIONAL)
    row.field.add(name="x", number=2, type=field.TYPE_FLOAT, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("reference.Row"))


MESSAGE = _message_class()


def read_protobuf(value):
    """Whether these bytes are one row, by Google's protobuf."""
    file = io.BytesIO(value.removeprefix(FRAME))
    if (depth := _zigzag(file)) < 0:
        return False
    path = [_zigzag(file) for _ in range(depth)]
    message = MESSAGE.FromString(file.read())
    is_row = value.startswith(FRAME) and path in ([], [0]) and not len(UnknownFieldSet(message))
    return is_row and fits(np.array([message.number], np.int64), np.array([message.x], np.float32))


def _zigzag(file):
    """A number as protobuf writes it; how many messages deep, and which of each."""
    number = 0
    for at in range(10):
        (byte,) = file.read(1)
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
    raise ValueError("too long")


FOUR, NAN = struct.pack("<4f", 1, 2, 3, 4), struct.pack("<4f", 1, 2, 3, float("nan"))
LONG = b"\xff" * 9 + b"\x01"  # the largest number of ten bytes
ODD_AVRO = [
    *(b"", FRAME, FRAME + b"\x02", FRAME + b"\x02" + FOUR[:-1], FRAME + b"\x02" + FOUR + b"\0", FRAME + b"\x02" + NAN),
    *(
        FRAME + LONG + b"\x7f" + FOUR,
        FRAME + b"\x80" * 5000,
        FRAME + b"\xff" * 11 + FOUR,
        b"\x01" + FRAME[1:] + b"\x02" + FOUR,
    ),
    *(FRAME[:-1] + b"\x08\x02" + FOUR, b"\0\xff\xff\xff\xff\x02" + FOUR, json.dumps(AVRO).encode()),
]
ROW = b"\x08\x02\x12\x10" + FOUR
ODD_PROTOBUF = [
    *(FRAME, FRAME + b"\0", FRAME + b"\0\x08", FRAME + b"\0\x12\x10" + FOUR[:-1], FRAME + b"\0\x12\x10" + NAN),
    *(
        FRAME + b"\0\x12\x0c" + FOUR[:12],
        FRAME + b"\0" + ROW + b"\x12\x04" + FOUR[:4],
        FRAME + b"\0" + ROW + b"\x1a\x01z",
    ),
    *(
        FRAME + b"\0\x12" + LONG,
        FRAME + b"\0\x08" + b"\xff" * 11,
        FRAME + b"\0\x0a\x02ab" + ROW,
        FRAME + b"\0" + b"\x1b" * 20_000,
    ),
    *(
        FRAME + b"\x02\x02" + ROW,
        FRAME + b"\x01" + ROW,
        FRAME + LONG + ROW,
        FRAME + b"\xfe\x01" + b"\0" * 200,
        b"\x01" + FRAME[1:] + b"\0" + ROW,
    ),
    *(FRAME + b"\0\x1b" + ROW + b"\x1c", FRAME + b"\0\x00" + ROW, FRAME + b"\x80" * 5000),
]
