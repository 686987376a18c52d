"""Records of a stream, good ones and what can become of them, with a slow reader of their bytes to tell which is which.

A record here is its value and its headers. `mutated` gives none that the reference can read: flipped bits in a JSON
digit or in an Arrow buffer are other numbers, which nobody can know.
"""

import json
import struct
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from counting import SCHEMA
from crc32c import crc32c
from google.protobuf.message import DecodeError as BadMessage
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from schema_messages import ODD_AVRO, ODD_PROTOBUF, fits, read_avro, read_protobuf

from fedmb.ingest.arrow_codec import ArrowCodec
from fedmb.ingest.codec import CODEC_HEADER, SCHEMA_HEADER, codec_headers, schema_id
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.packed_codec import MAGIC, PackedCodec
from fedmb.ingest.sample_codec import SampleCodec

CODECS = {
    codec.name: codec for codec in (PackedCodec(SCHEMA), SampleCodec(SCHEMA), JsonCodec(SCHEMA), ArrowCodec(SCHEMA))
}
MANY = {"packed": 3, "arrow": 3}  # rows in a record; the other codecs have one
LIST = pa.list_(pa.field("item", pa.float32(), nullable=False), 4)


class Written(NamedTuple):
    value: bytes
    headers: dict[str, bytes]


def features(numbers):
    """What a row of this number holds beside it."""
    return np.sin(np.multiply.outer(numbers, [1.0, 2.0, 3.0, 4.0])).astype(np.float32)


def good(codec, first):
    """A record of a codec, whose rows are numbered from `first` on."""
    numbers = np.arange(first, first + MANY.get(codec.name, 1))
    return Written(codec.encode({"number": numbers, "x": features(numbers)}), dict(codec_headers(codec)))


def is_readable(record):
    """Whether a record holds rows of the schema, by libraries that are not ours."""
    headers, name = record.headers, record.headers.get(CODEC_HEADER, b"packed").decode(errors="replace")
    if len(headers) > 64 or sum(len(key) + len(value) for key, value in headers.items()) > 16_384:
        return False
    if name not in READERS or headers.get(SCHEMA_HEADER) not in {None, schema_id(SCHEMA).encode()}:
        return False
    try:
        return READERS[name](record.value)
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError, struct.error):
        return False
    except (SafetensorError, pa.ArrowException, BadMessage, OSError, EOFError):
        return False


def _packed(value):
    columns = load_safetensors(value[8:])
    return value[:8] == MAGIC + struct.pack("<I", crc32c(value[8:])) and fits(columns["number"], columns["x"])


def _sample(value):
    *row, checksum = struct.unpack("<q4fI", value)
    return checksum == crc32c(value[:-4]) and bool(np.isfinite(row).all())


def _json(value):
    def unrepeated(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    row = json.loads(value, object_pairs_hook=unrepeated)
    is_whole = type(row["number"]) is int and row.keys() == SCHEMA.keys()
    are_numbers = type(row["x"]) is list and {*map(type, row["x"])} <= {int, float}
    return is_whole and are_numbers and fits(np.array([row["number"]], np.int64), np.array([row["x"]], np.float32))


def _arrow(value):
    table = pa.ipc.open_stream(value).read_all()
    table.validate(full=True)
    is_plain = table["number"].type == pa.int64() and table["x"].type.value_type == pa.float32()
    numbers, x = table["number"].to_pylist(), table["x"].to_pylist()
    return is_plain and None not in numbers and fits(np.array(numbers), np.array(x, np.float32))


READERS = {
    "packed": _packed,
    "sample": _sample,
    "json": _json,
    "arrow": _arrow,
    "avro": read_avro,
    "protobuf": read_protobuf,
}


def mutated(record, chance):
    """The record after something happened to it that leaves no rows in it."""
    while True:
        found = chance.choice(MUTATIONS)(record, chance)
        if not is_readable(found):
            return found


def _flipped(record, chance):
    data = bytearray(record.value)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return record._replace(value=bytes(data))


def _cut(record, chance):
    start, stop = sorted(chance.sample(range(len(record.value) + 1), 2))
    return record._replace(value=chance.choice([record.value[:start], record.value[:start] + record.value[stop:]]))


def _extended(record, chance):
    at, extra = chance.randint(0, len(record.value)), chance.randbytes(chance.randint(1, 40))
    return record._replace(value=record.value[:at] + extra + record.value[at:])


def _random(record, chance):
    return record._replace(value=chance.randbytes(chance.choice([0, 1, 8, len(record.value), 5000])))


def _renamed(record, chance):
    others = [b"", b"pickle", b"packe", chance.randbytes(9), *(name.encode() for name in READERS)]
    return record._replace(headers=record.headers | {CODEC_HEADER: chance.choice(others)})


def _of_another_schema(record, chance):
    return record._replace(
        headers=record.headers | {SCHEMA_HEADER: chance.choice([b"", b"0" * 16, chance.randbytes(16)])}
    )


def _with_huge_headers(record, chance):
    many = {f"h{index}": b"x" for index in range(100)}
    return record._replace(headers=record.headers | chance.choice([many, {"long": bytes(20_000)}, {"n" * 17_000: b""}]))


DEEP, DIGITS = 20_000, "9" * 10_000
BOMBS = [
    *("[" * DEEP, '{"number":' * DEEP, f'{{"number":{DIGITS},"x":[1,2,3,4]}}', f'{{"number":1,"x":{"[" * DEEP}'),
    *('{"number":1,"x":[1e999,0,0,0]}', '{"number":1,"x":[NaN,0,0,0]}', '{"number":1,"number":2,"x":[1,2,3,4]}'),
    *('{"number":1.0,"x":[1,2,3,4]}', '{"number":true,"x":[1,2,3,4]}', '{"number":1,"x":[[1,2],[3,4]]}', "null"),
]


def _bomb(_record, chance):
    return Written(chance.choice(BOMBS).encode(), dict(codec_headers(CODECS["json"])))


def _lying(_record, chance):
    """A packed record whose checksum is right and whose header is not."""
    number = {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}
    x = {"dtype": "F32", "shape": [3, 4], "data_offsets": [24, 72]}
    huge = {"dtype": "I64", "shape": [1 << 60], "data_offsets": [0, 1 << 63]}
    headers = [
        {"number": number},
        {"number": huge, "x": x},
        {"number": number, "x": x | {"data_offsets": [0, 48]}},
        {"number": number, "x": x | {"shape": [4, 3]}},
        {"number": number | {"dtype": "U64"}, "x": x},
        {"number": number | {"shape": [-3]}, "x": x},
        {"number": number, "x": x, "z": x},
    ]
    texts = [json.dumps(chance.choice(headers)).encode(), b"[" * 16_000, b"{" * 20_000]
    text = chance.choice(texts)
    claimed = chance.choice([len(text), len(text), 1 << 62])
    value = claimed.to_bytes(8, "little") + text + bytes(72)
    return Written(MAGIC + struct.pack("<I", crc32c(value)) + value, dict(codec_headers(CODECS["packed"])))


def _odd_streams():
    """Valid Arrow streams that are not what the schema says, or take more to unpack than their bytes show."""
    numbers, x = pa.array([1, 2], pa.int64()), pa.array([[1.0] * 4] * 2, LIST)
    batches = [
        pa.record_batch({"number": numbers}),
        pa.record_batch({"number": numbers.dictionary_encode(), "x": x}),
        pa.record_batch({"number": pa.array([1, None], pa.int64()), "x": x}),
        pa.record_batch({"number": numbers, "x": pa.array([[1.0] * 4, None], LIST)}),
        pa.record_batch({"number": numbers, "x": pa.array([[1.0] * 5] * 2, pa.list_(pa.float32(), 5))}),
        pa.record_batch({"number": numbers, "x": pa.array([[float("inf")] * 4] * 2, LIST)}),
        pa.record_batch({"number": numbers[:0], "x": x[:0]}),
        pa.record_batch({"number": pa.array([1, 2], pa.int32()), "x": x}),
    ]
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        yield sink.getvalue().to_pybytes()


ODD_STREAMS = list(_odd_streams())


def _odd_arrow(_record, chance):
    return Written(chance.choice(ODD_STREAMS), dict(codec_headers(CODECS["arrow"])))


def _odd_message(_record, chance):
    """Lengths, numbers and frames of avro and protobuf that lie."""
    name, values = chance.choice([("avro", ODD_AVRO), ("protobuf", ODD_PROTOBUF)])
    headers = {CODEC_HEADER: name.encode(), SCHEMA_HEADER: schema_id(SCHEMA).encode()}
    return Written(chance.choice(values), headers)


MUTATIONS = (
    *(_flipped, _flipped, _cut, _cut, _extended, _random),
    *(_renamed, _of_another_schema, _with_huge_headers, _bomb, _lying, _odd_arrow, _odd_message),
)
