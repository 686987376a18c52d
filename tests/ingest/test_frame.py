import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.ingest.frame import HEADER, MAX_BODY_BYTES, FrameError, pack_frame, pack_headers, unpack_frame

HEADERS = st.dictionaries(st.text(max_size=20), st.binary(max_size=40), max_size=4)


def framed(offset: int, value: bytes, headers: dict[str, bytes] | None = None) -> bytes:
    return b"".join(pack_frame(offset, 17, pack_headers(headers), value))


@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), HEADERS, st.binary(max_size=200))
def test_a_frame_comes_back_as_it_was(offset, timestamp_us, headers, value):
    data = b"before" + b"".join(pack_frame(offset, timestamp_us, pack_headers(headers), value)) + b"after"

    frame = unpack_frame(memoryview(data), 6)

    assert (frame.offset, frame.timestamp_us, frame.headers, bytes(frame.value)) == (
        offset,
        timestamp_us,
        headers,
        value,
    )
    assert frame.num_bytes == len(data) - len(b"beforeafter")


def test_every_flipped_bit_is_found():
    data = framed(5, b"value", {"codec": b"json"})

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            unpack_frame(memoryview(bytes(flipped)), 0)


def test_an_unfinished_frame_says_how_much_it_needs():
    data = framed(5, b"value")

    for length in range(len(data)):
        needed = unpack_frame(memoryview(data[:length]), 0)
        assert needed == (HEADER.size if length < HEADER.size else len(data))


def test_a_damaged_body_still_says_where_the_next_frame_starts():
    data = bytearray(framed(5, b"value"))
    data[-1] ^= 1

    with pytest.raises(FrameError) as caught:
        unpack_frame(memoryview(bytes(data)), 0)
    assert caught.value.num_bytes == len(data)


def test_a_record_beyond_the_bound_is_refused_before_it_is_summed():
    class Huge(bytes):
        __slots__ = ()

        def __len__(self) -> int:
            return MAX_BODY_BYTES + 1

    with pytest.raises(ValueError, match="pack fewer rows"):
        pack_frame(0, 0, b"", Huge())


def test_a_headers_name_beyond_the_bound_is_refused():
    with pytest.raises(ValueError, match="65535"):
        pack_headers({"x" * 65_536: b""})
