import json

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, VersionMismatch
from fedmb.replay.wire_format import (
    HEADER,
    UNCHECKED,
    Hello,
    Kind,
    batch_head,
    frame,
    frames,
    json_frame,
    json_of,
    padded,
    request,
    schema_in,
    schema_json,
)

SCHEMA = {"x": Column("float32", (4, 2)), "done": Column("bool"), "a": Column("complex128", ())}
PAYLOADS = ([], [b"abc"], [np.arange(6.0), b"", np.zeros((2, 3), np.int32)])


@pytest.mark.parametrize("parts", PAYLOADS)
def test_a_frame_comes_back_as_it_was_made(parts):
    message = frame(Kind.INSERT, *parts, rows=3, sequence=2**60, extra=-5, flags=4)

    found = request(message)

    assert found[:5] == (Kind.INSERT, 4, 3, 2**60, -5)
    assert bytes(found.payload) == b"".join(bytes(memoryview(part).cast("B")) for part in parts)


def test_several_frames_lie_behind_one_another():
    one, other = frame(Kind.DONE, b"12345"), frame(Kind.DONE, extra=7)

    found = list(frames(one.ljust(padded(len(one)), b"\0") + other))

    assert [bytes(each.payload) for each in found] == [b"12345", b""]
    assert found[1].extra == 7


def test_every_changed_bit_of_a_request_is_seen():
    message = frame(Kind.REPRIORITIZE, np.arange(4), np.ones(4), rows=4)

    for bit in range(8 * len(message)):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            request(changed)


def test_a_message_that_is_cut_off_or_too_long_is_no_request():
    message = frame(Kind.INSERT, b"rows", rows=1)

    for stop in range(len(message)):
        with pytest.raises(DecodeError):
            request(message[:stop])
    with pytest.raises(DecodeError, match="behind a request"):
        request(message + bytes(16))


def test_only_batches_come_without_a_checksum():
    assert next(frames(batch_head(2, 0, 0, 10))).rows == 2
    with pytest.raises(DecodeError, match="without a checksum"):
        request(batch_head(2, 0, 0, 10))
    with pytest.raises(DecodeError, match="without a checksum"):
        list(frames(HEADER.pack(Kind.INSERT, UNCHECKED, 0, 1, 1, 0, 0, 0)))


def test_a_length_beyond_the_message_is_refused_before_it_is_believed():
    head = HEADER.pack(Kind.BATCH, UNCHECKED, 0, 1, 0, 0, 2**32 - 1, 0)

    with pytest.raises(DecodeError, match="4294967295 bytes in a message"):
        list(frames(head))


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 9999])
def test_json_that_is_no_object_is_refused(content):
    with pytest.raises(DecodeError, match="no JSON object"):
        json_of(content)


def test_json_beyond_its_limit_is_refused_unread():
    with pytest.raises(DecodeError, match="JSON of"):
        json_of(b" " * (1 << 21))


def test_json_may_say_that_there_is_no_limit():
    found = json_of(next(frames(json_frame(Kind.FIGURES, {"most": float("inf")}))).payload)

    assert found == {"most": float("inf")}


def test_a_schema_keeps_its_order():
    found = schema_in(json.loads(json.dumps(schema_json(SCHEMA))))

    assert list(found.items()) == list(SCHEMA.items())


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        "x",
        [["x"]],
        [["x", "float32", 3]],
        [["x", "float32", [-1]]],
        [["x", "float32", [True]]],
        [["x", "float32", [1.5]]],
        [["x", "float32", [2] * 40]],
        [["x", "float32", [1 << 27, 1 << 27]]],
        [["x", "object", []]],
        [["x", "str", []]],
        [["x", "datetime64", []]],
        [["x", "V8", []]],
        [["x", "f4", []]],
        [["x", "float32,int8", []]],
        [["x", "__import__('os')", []]],
        [["x", 4, []]],
        [[1, "float32", []]],
        [["x", "float32", []], ["x", "int8", []]],
        [[str(n), "int8", []] for n in range(5000)],
    ],
)
def test_what_is_no_schema_is_refused(content):
    with pytest.raises(DecodeError):
        schema_in(content)


def test_a_hello_comes_back():
    for hello in (Hello("t", "w"), Hello("t", "w", SCHEMA, "ticket")):
        assert Hello.decoded(hello.encoded()) == hello


def test_a_hello_of_another_version_says_so():
    content = json.loads(Hello("t", "w").encoded())

    for version in (0, 2, "1", None):
        with pytest.raises(VersionMismatch, match="must speak version 1"):
            Hello.decoded(json.dumps(content | {"version": version}).encode())


def test_a_hello_from_a_machine_of_another_kind_says_so():
    content = json.loads(Hello("t", "w").encoded())

    with pytest.raises(VersionMismatch, match="order of bytes"):
        Hello.decoded(json.dumps(content | {"byteorder": "middle"}).encode())


@pytest.mark.parametrize("change", [{"table": 3}, {"writer": "w" * 300}, {"ticket": None}, {"columns": 5}])
def test_a_hello_that_is_none_is_refused(change):
    content = json.loads(Hello("t", "w").encoded())

    with pytest.raises(DecodeError):
        Hello.decoded(json.dumps(content | change).encode())
