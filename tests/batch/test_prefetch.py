"""Prefetching changes when batches are made, never which."""

from __future__ import annotations

import threading
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.prefetch import Prefetch
from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData, SettingsError


def table():
    return TableSource({"y": np.arange(37)}, seed=2, client="a")


class Watched:
    """A table that counts its takes, breaks or is silent when told, and is let through a gate."""

    def __init__(self):
        self.table = table()
        self.schema, self.examples_per_epoch = self.table.schema, self.table.examples_per_epoch
        self.takes = self.seeks = self.closes = 0
        self.breaks_at: set[int] = set()
        self.error: BaseException = OSError("disk on fire")
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.takers: set[str] = set()

    def take(self, size):
        self.takes += 1
        self.takers.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(30)
        if self.takes in self.breaks_at:
            self.table.take(1)  # a broken source may stand anywhere
            raise self.error
        return self.table.take(size)

    def position(self):
        return self.table.position()

    def seek(self, position):
        self.seeks += 1
        self.table.seek(position)

    def close(self):
        self.closes += 1


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture
def opened():
    """Makes prefetching sources and closes them; no thread may be left."""
    sources = []

    def make(source, depth=2):
        sources.append(Prefetch(source, depth))
        return sources[-1]

    yield make
    for source in sources:
        source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "fedmb-prefetch"]


def until(condition):
    """Wait for what another thread is about to do."""
    event = threading.Event()
    for _ in range(3000):
        if condition():
            return
        event.wait(0.01)
    pytest.fail("the condition never came true")


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(st.integers(1, 12), st.just("seek"), st.just("mark")), max_size=30),
    st.integers(1, 5),
)
def test_any_sizes_and_seeks_give_the_rows_of_the_bare_source(steps, depth):
    bare, ahead = table(), Prefetch(table(), depth)
    mark = bare.position()
    for step in steps:
        if step == "mark":
            mark = bare.position()
        elif step == "seek":
            bare.seek(mark)
            ahead.seek(mark)
        else:
            assert ahead.take(step).columns["y"].tolist() == bare.take(step).columns["y"].tolist()
        assert ahead.position() == bare.position()
    ahead.close()


def test_the_position_is_that_of_taken_batches_while_others_lie_ready(opened, watched):
    source = opened(watched, depth=3)
    source.take(5)
    until(lambda: source.statistics().ready == 3)

    assert source.position() == {"epoch": 0, "cursor": 5}
    assert watched.position()["cursor"] > 15


def test_no_more_than_depth_batches_are_made_ahead(opened, watched):
    source = opened(watched, depth=3)
    source.take(5)
    until(lambda: source.statistics().ready == 3)
    before = watched.takes
    threading.Event().wait(0.05)  # time in which a thread without a bound would run on

    assert before == watched.takes == 4


def test_batches_are_made_by_one_other_thread_and_a_steady_size_never_rewinds(opened, watched):
    source = opened(watched)
    for _ in range(20):
        source.take(4)

    assert watched.takers == {"fedmb-prefetch"}
    assert (watched.seeks, source.statistics().dropped, source.statistics().taken) == (0, 0, 20)


def test_another_size_drops_what_was_made_for_the_old_one(opened, watched):
    source = opened(watched, depth=2)
    source.take(5)
    until(lambda: source.statistics().ready == 2)

    source.take(6)

    assert source.position()["cursor"] == 5 + 6  # not 5 + 5 + 5 + 6
    assert source.statistics().dropped == 2
    assert watched.seeks == 1


def test_an_error_comes_in_its_turn_with_the_traceback_of_the_source(opened, watched):
    watched.breaks_at = {3}
    source, bare = opened(watched, depth=4), table()
    rows = [source.take(4).columns["y"].tolist() for _ in range(2)]

    with pytest.raises(OSError, match="disk on fire") as caught:
        source.take(4)
    assert rows == [bare.take(4).columns["y"].tolist() for _ in range(2)]
    assert "raise self.error" in "".join(traceback.format_exception(caught.value))
    assert source.position() == bare.position()


def test_after_an_error_rows_go_on_behind_the_last_batch_taken(opened, watched):
    watched.breaks_at = {2, 4}
    source, bare = opened(watched, depth=4), table()
    rows = []
    while len(rows) < 6:
        try:
            rows.append(source.take(4).columns["y"].tolist())
        except OSError:
            continue

    assert rows == [bare.take(4).columns["y"].tolist() for _ in range(6)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), StopIteration()])
def test_errors_that_end_programs_reach_the_taker_too(opened, watched, error):
    watched.breaks_at, watched.error = {1}, error
    source = opened(watched)

    with pytest.raises(type(error)):
        source.take(4)


def test_closing_early_joins_the_thread_and_closes_the_source(watched):
    source = Prefetch(watched, 2)
    source.take(4)
    (thread,) = [one for one in threading.enumerate() if one.name == "fedmb-prefetch"]
    watched.entered.clear()
    watched.gate.clear()
    source.take(4)
    assert watched.entered.wait(30)  # the thread is inside the source
    threading.Timer(0.05, watched.gate.set).start()

    source.close()

    assert not thread.is_alive()
    assert watched.closes == 1
    with pytest.raises(RuntimeError, match="make a new one"):
        source.take(4)


def test_a_source_that_was_never_used_starts_no_thread(watched):
    before = threading.active_count()
    source = Prefetch(watched)
    position = source.position()

    assert threading.active_count() == before
    assert (watched.takes, position) == (0, {"epoch": 0, "cursor": 0})
    source.close()


def test_a_seek_waits_for_the_batch_being_made_and_drops_it(opened, watched):
    source = opened(watched)
    source.take(4)
    until(lambda: source.statistics().ready == 2)
    watched.entered.clear()
    watched.gate.clear()
    source.take(4)
    assert watched.entered.wait(30)
    threading.Timer(0.05, watched.gate.set).start()

    source.seek({})

    assert source.position() == {"epoch": 0, "cursor": 0}
    assert source.take(4).columns["y"].tolist() == table().take(4).columns["y"].tolist()


def test_a_refused_seek_leaves_rows_where_they_were(opened, watched):
    source, bare = opened(watched), table()
    source.take(4)
    bare.take(4)

    with pytest.raises(ValueError, match="position"):
        source.seek({"offset": 3})
    assert source.take(4).columns["y"].tolist() == bare.take(4).columns["y"].tolist()


def test_silence_while_nobody_waits_is_not_reported(opened, watched):
    watched.breaks_at, watched.error = {2}, NotEnoughData("silent")
    source = opened(watched)
    source.take(4)
    until(lambda: watched.takes == 2 and not source._is_making)

    assert len(source.take(4)) == 4


def test_silence_while_somebody_waits_is_reported(opened, watched):
    watched.breaks_at, watched.error = {1, 2}, NotEnoughData("silent")
    source = opened(watched)

    with pytest.raises(NotEnoughData):
        source.take(4)


def test_an_impossible_depth_or_size_is_refused(opened):
    with pytest.raises(SettingsError, match="1 or more, got 0"):
        Prefetch(table(), 0)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        opened(table()).take(0)
