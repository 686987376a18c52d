import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError
from fedmb.ingest.codec import CODEC_HEADER, Codec, check_finite, codec_headers, decoder_for
from fedmb.ingest.json_codec import JsonCodec
from fedmb.ingest.packed_codec import PackedCodec

SCHEMA = {"x": Column("float32", (2,)), "y": Column("uint8")}
PACKED, JSON = PackedCodec(SCHEMA), JsonCodec(SCHEMA)
CODECS = {codec.name: codec for codec in (PACKED, JSON)}


def test_the_header_chooses_the_codec():
    for codec in (PACKED, JSON):
        assert isinstance(codec, Codec)
        assert decoder_for(codec_headers(codec), CODECS, PACKED) is codec


def test_a_record_without_the_header_has_the_default():
    assert decoder_for({"other": b"json"}, CODECS, JSON) is JSON


@pytest.mark.parametrize(("name", "hint"), [(b"jsom", "'json'"), (b"\xff\xfe", "give the source"), (b"", "give")])
def test_an_unknown_codec_is_no_guess(name, hint):
    with pytest.raises(DecodeError, match=hint):
        decoder_for({CODEC_HEADER: name}, CODECS, PACKED)


@pytest.mark.parametrize("codec", [PackedCodec, JsonCodec])
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
