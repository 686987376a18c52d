"""Joined parts are what `b"".join` answers, however much they are."""

import mmap

import numpy as np
import pytest

from fedmb.arrays import joined as module
from fedmb.arrays.joined import LARGE, joined


@pytest.mark.parametrize("size", [0, 1, LARGE - 5, LARGE - 4, LARGE, 3 * LARGE + 1])
def test_parts_follow_each_other_to_the_last_byte(size):
    values = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    parts = [b"head", values.data, b"", values[: size // 3].data]

    assert joined(parts) == b"".join(parts)


def test_views_of_wider_numbers_count_their_bytes():
    values = np.arange(LARGE // 4, dtype=np.float32)

    assert joined([b"x", values.data, values.reshape(2, -1).data]) == b"x" + 2 * values.tobytes()


def test_it_answers_bytes_like_any_others():
    values = np.zeros(LARGE, np.uint8)
    first, second = joined([values.data]), joined([values.data])

    assert type(first) is bytes
    assert hash(first) == hash(bytes(LARGE))
    assert first == second
    assert {first: 1}[second] == 1


@pytest.mark.skipif(module._made is None, reason="large pages are asked for on Linux with CPython only")
def test_large_pages_are_asked_for_inside_the_bytes_and_on_pages(monkeypatch):
    asked, values = [], np.ones(LARGE, np.uint8)
    monkeypatch.setattr(module, "_advise", lambda *call: asked.append(call))
    whole = joined([values.data, b"x"])
    ((start, length, advice),) = asked
    first = id(whole) + bytes.__basicsize__ - 1

    assert advice == mmap.MADV_HUGEPAGE
    assert start % mmap.PAGESIZE == length % mmap.PAGESIZE == 0
    assert first <= start < first + mmap.PAGESIZE
    assert first + len(whole) - mmap.PAGESIZE < start + length <= first + len(whole)


def test_elsewhere_parts_are_joined_as_ever(monkeypatch):
    monkeypatch.setattr(module, "_made", None)
    values = np.ones(2 * LARGE, np.uint8)

    assert joined([values.data, b"x"]) == values.tobytes() + b"x"
