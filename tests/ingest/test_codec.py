import hashlib

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import (
    CODEC_HEADER,
    SCHEMA_HEADER,
    Codec,
    RowCodec,
    check_decoded,
    check_finite,
    check_schema,
    codec_headers,
    decoder_for,
    schema_id,
)
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.record_limits import RecordLimits
from fedmb.ingest.sample_codec import SampleCodec

SCHEMA = {"x": Column("float32", (2,)), "y": Column("uint8")}
PACKED, JSON, SAMPLE = PackedCodec(SCHEMA), JsonCodec(SCHEMA), SampleCodec(SCHEMA)
CODECS = {codec.name: codec for codec in (PACKED, JSON, SAMPLE)}


def test_the_header_chooses_the_codec():
    for codec in (PACKED, JSON, SAMPLE):
        assert isinstance(codec, Codec)
        assert decoder_for(codec_headers(codec), CODECS, PACKED) is codec


def test_only_codecs_with_one_row_in_a_record_decode_many():
    assert [isinstance(codec, RowCodec) for codec in (PACKED, JSON, SAMPLE)] == [False, True, True]


def test_a_record_without_the_header_has_the_default():
    assert decoder_for({"other": b"json"}, CODECS, JSON) is JSON


@pytest.mark.parametrize(("name", "hint"), [(b"jsom", "'json'"), (b"\xff\xfe", "give the source"), (b"", "give")])
def test_an_unknown_codec_is_no_guess(name, hint):
    with pytest.raises(DecodeError, match=hint):
        decoder_for({CODEC_HEADER: name}, CODECS, PACKED)


def test_a_schema_has_one_name_in_every_language():
    schema = {"y": Column("uint8"), "x": Column("float32", (32,)), "größe": Column("int64", (2, 3))}
    text = r'[["gr\u00f6\u00dfe","int64",[2,3]],["x","float32",[32]],["y","uint8",[]]]'

    assert schema_id(schema) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert schema_id(dict(reversed(schema.items()))) == schema_id(schema)


@pytest.mark.parametrize(
    "other",
    [
        {"x": Column("float32", (2,)), "y": Column("int8")},
        {"x": Column("float32", (3,)), "y": Column("uint8")},
        {"x": Column("float32", (2, 1)), "y": Column("uint8")},
        {"x": Column("float32", (2,)), "z": Column("uint8")},
        {"x": Column("float32", (2,))},
    ],
)
def test_a_record_of_another_schema_is_set_aside_and_both_are_named(other):
    headers = codec_headers(PackedCodec(other))

    with pytest.raises(DecodeError, match=f"{PACKED.schema_id}.*{schema_id(other)}"):
        decoder_for(headers, CODECS, PACKED)


@pytest.mark.parametrize("found", [b"", b"\xff" * 8, PACKED.schema_id.upper().encode(), bytes(range(8))])
def test_an_unknown_schema_is_no_guess(found):
    with pytest.raises(DecodeError, match=SCHEMA_HEADER):
        decoder_for({SCHEMA_HEADER: found}, CODECS, PACKED)


def test_a_record_that_names_its_codec_alone_is_read_as_ever():
    assert decoder_for({CODEC_HEADER: b"json"}, CODECS, PACKED) is JSON


def test_headers_beyond_the_limits_are_refused_unread():
    limits = RecordLimits(max_headers=3, max_header_bytes=100)
    good = codec_headers(PACKED)

    assert decoder_for({**good, "a": b""}, CODECS, PACKED, limits=limits) is PACKED
    with pytest.raises(DecodeError, match="max_headers"):
        decoder_for({**good, "a": b"", "b": b""}, CODECS, PACKED, limits=limits)
    with pytest.raises(DecodeError, match="max_header_bytes"):
        decoder_for({**good, "a": b"x" * 100}, CODECS, PACKED, limits=limits)


def test_more_columns_than_the_limit_are_refused():
    check_schema(SCHEMA, limits=RecordLimits(max_columns=2))
    with pytest.raises(SettingsError, match="raise max_columns"):
        check_schema(SCHEMA, limits=RecordLimits(max_columns=1))


@pytest.mark.parametrize("codec", [PackedCodec, JsonCodec, SampleCodec])
@pytest.mark.parametrize(
    "schema", [{}, {"x": Column("complex64")}, {"x": Column("bfloat16")}, {"x": Column("int8", (0,))}]
)
def test_a_schema_that_no_record_could_follow_is_refused(codec, schema):
    with pytest.raises(SettingsError, match="must"):
        codec(schema)


def test_only_floats_can_fail_to_be_finite():
    check_finite({"y": np.array([1, 2]), "x": np.array([1.0, 2.0])})
    with pytest.raises(ValueError, match="'x'"):
        check_finite({"x": np.array([1.0, np.inf])})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 10_000, 10_001])
def test_numbers_are_finite_even_where_their_squares_are_not(dtype, count):
    largest = np.finfo(dtype).max
    check_decoded({"x": np.full(count, largest, dtype)})
    for amiss in (np.nan, np.inf, -np.inf):
        column = np.full(count, -largest, dtype)
        column[-1] = amiss
        with pytest.raises(DecodeError, match="'x'"):
            check_decoded({"x": column})
