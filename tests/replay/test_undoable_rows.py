"""Killed at any line, a memory's file still holds the moment before, and goes on to the moment after."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, FedmbError, SettingsError
from fedmb.replay import level_sample, long_memory, undoable_rows
from fedmb.replay.long_memory import LongMemory
from fedmb.replay.undoable_rows import EMPTY, STAYS, UndoableRows

SCHEMA = {"row": Column("int64"), "label": Column("uint8")}
WINDOW = 10
FILES = {module.__file__ for module in (level_sample, long_memory, undoable_rows)}


def rows(first: int, stop: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, stop)
    return {"row": numbers, "label": (numbers * 7 % 5 % 4).astype(np.uint8)}


def opened(path, label) -> LongMemory:
    return LongMemory.mapped(path, SCHEMA, WINDOW, label=label, seed=3, client="a")


def places(memory: LongMemory) -> list[int]:
    """Number of the row in each place."""
    return memory._rows.gather(memory._sample.slots(np.arange(len(memory))))["row"].tolist()


def contents_line_by_line(path, action) -> list[bytes]:
    """What the file held at each line of the memory's code while `action` ran, each content once."""
    found = {path.read_bytes(): None}

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        found[path.read_bytes()] = None
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return list(found)


@pytest.mark.parametrize("label", [None, "label"])
def test_a_kill_at_any_line_of_an_append_leaves_the_moment_before(tmp_path, label):
    memory, contents = opened(tmp_path / "one", label), 0
    for first in range(0, 120, 6):
        before = places(memory)
        left = contents_line_by_line(tmp_path / "one", lambda first=first: memory.append(rows(first, first + 6)))
        after = places(memory)
        for content in left:
            (tmp_path / "copy").write_bytes(content)
            copy = opened(tmp_path / "copy", label)
            assert copy.appended in (first, first + 6)
            assert places(copy) == (before if copy.appended == first else after)
            copy.rewind(first)
            assert places(copy) == before
            copy.append(rows(first, first + 6))
            assert places(copy) == after
            copy.close()
        contents += len(left)
    assert memory.statistics().horizon > 0  # rows were given up, too
    memory.close()
    assert contents > 100


@pytest.mark.parametrize("label", [None, "label"])
def test_a_kill_at_any_line_of_a_rewind_leaves_one_of_the_two_moments(tmp_path, label):
    memory = opened(tmp_path / "one", label)
    for first in range(0, 90, 3):
        memory.append(rows(first, first + 3))
    late = places(memory)
    left = contents_line_by_line(tmp_path / "one", lambda: memory.rewind(82))
    early = places(memory)
    memory.close()

    assert len(left) > 2
    for content in left:
        (tmp_path / "copy").write_bytes(content)
        copy = opened(tmp_path / "copy", label)
        assert (copy.appended, places(copy)) in ((90, late), (82, early))
        copy.rewind(82)
        assert places(copy) == early
        copy.close()


def test_a_file_made_for_other_rows_or_cut_short_is_refused(tmp_path):
    UndoableRows.mapped(tmp_path / "m", SCHEMA, 8, about=", level by label").close()

    for schema, capacity, about in (
        (SCHEMA, 9, ", level by label"),
        (SCHEMA, 8, ""),
        ({"row": Column("int64")}, 8, ""),
    ):
        with pytest.raises(SettingsError, match="must fit its settings"):
            UndoableRows.mapped(tmp_path / "m", schema, capacity, about=about)
    content = (tmp_path / "m").read_bytes()
    opened_again = UndoableRows.mapped(tmp_path / "m", SCHEMA, 8, about=", level by label")
    opened_again.commit(5, 2)
    opened_again.close()
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[: len(content) // 2])
    with pytest.raises(CorruptRing):
        UndoableRows.mapped(tmp_path / "m", SCHEMA, 8, about=", level by label")


def test_a_damaged_memory_is_refused_by_name_or_goes_on(tmp_path):
    memory = opened(tmp_path / "one", "label")
    for first in range(0, 90, 3):
        memory.append(rows(first, first + 3))
    memory.close()
    whole, chance = (tmp_path / "one").read_bytes(), np.random.default_rng(0)
    refusals = []
    for _ in range(200):
        torn = bytearray(whole)
        for _ in range(chance.integers(1, 6)):
            at = int(chance.integers(0, len(torn)))
            torn[at : at + 64] = chance.bytes(min(64, len(torn) - at))
        (tmp_path / "torn").write_bytes(torn)
        try:
            copy = opened(tmp_path / "torn", "label")
        except FedmbError as error:
            refusals.append(error)
            continue
        for first in range(copy.appended, copy.appended + 100, 5):
            copy.append(rows(first, first + 5))
            assert len(copy.sample(5, first)) == 5
        copy.rewind(copy.appended - WINDOW)
        assert len(copy) <= WINDOW
        copy.close()

    assert 0 < len(refusals) < 200
    assert all(str(tmp_path / "torn") in str(error) for error in refusals)
    assert not any(isinstance(error, AlreadyOwned) for error in refusals)
    assert any("impossible marks" in str(error) for error in refusals)


def test_empty_slots_are_empty_in_memory_and_in_a_file(tmp_path):
    for one in (UndoableRows.in_memory(SCHEMA, 4), UndoableRows.mapped(tmp_path / "m", SCHEMA, 4)):
        assert one.number.tolist() == [EMPTY] * 4
        assert len(one.kept()) == len(one.departed()) == 0
        one.close()
        one.close()


def test_rows_are_kept_by_place_and_depart_in_their_order():
    one = UndoableRows.in_memory(SCHEMA, 6)
    one.number[:5], one.gone[:5], one.place[:5] = [4, 2, 0, 3, 1], [STAYS, 4, 3, STAYS, STAYS], [1, 1, 0, 0, 2]
    one.commit(5, 0)

    assert one.kept().tolist() == [3, 0, 4]
    assert one.departed().tolist() == [2, 1]
    one.commit(4, 0)
    one.drop_unfinished()
    assert one.kept().tolist() == [3, 1, 4]
    assert one.departed().tolist() == [2]
