"""Every row of the window is equally likely, and nothing else decides a draw than its number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.replay.ring import Ring
from fedmb.replay.uniform import UniformReplay, capacity_for

SCHEMA = {"row": Column("int64")}


def replay(window: int, appended: int, *, seed: int = 1, client: str | int = "site") -> UniformReplay:
    result = UniformReplay(Ring.in_memory(SCHEMA, capacity_for(window)), window, seed=seed, client=client)
    remember(result, appended)
    return result


def remember(memory: UniformReplay, count: int) -> None:
    memory.append({"row": np.arange(memory.appended, memory.appended + count)})


def test_every_row_of_the_window_is_equally_likely():
    memory, num_draws, size = replay(50, 120), 400, 64

    drawn = np.concatenate([memory.sample(size, draw).columns["row"] for draw in range(num_draws)])
    frequencies = np.bincount(drawn - 70, minlength=50)
    expected = num_draws * size / 50
    chi_square = ((frequencies - expected) ** 2 / expected).sum()

    assert (drawn.min(), drawn.max()) == (70, 119)
    assert len(frequencies) == 50
    assert 49 - 4 * np.sqrt(2 * 49) < chi_square < 49 + 4 * np.sqrt(2 * 49)  # mean and deviation at 49 degrees


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 70), st.data())
def test_draws_stay_inside_the_window_before_the_cursor(window, appended, data):
    memory = replay(window, appended)
    cursor = data.draw(st.integers(max(1, appended - window), appended))

    rows = memory.sample(64, 0, cursor=cursor).columns["row"]

    assert rows.min() >= max(0, cursor - window)
    assert rows.max() < cursor


def test_the_same_draw_gives_the_same_rows_and_another_number_seed_or_client_others():
    drawn = [
        tuple(replay(50, 80, seed=seed, client=client).sample(8, draw).columns["row"])
        for seed, client, draw in [(1, "a", 0), (1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]
    ]

    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4


def test_rows_appended_behind_the_cursor_do_not_change_a_draw():
    behind, ahead = replay(20, 100), replay(20, 120)

    at_cursor = ahead.sample(32, 5, cursor=100)
    ahead.rewind(100)

    expected = behind.sample(32, 5).columns["row"]
    assert np.array_equal(at_cursor.columns["row"], expected)
    assert np.array_equal(ahead.sample(32, 5).columns["row"], expected)


def test_a_rewind_counts_what_the_window_lost_and_no_more():
    assert replay(20, 120).rewind(100) == 0
    assert replay(20, 120).rewind(95) == 5
    assert replay(20, 120).rewind(60) == 20
    assert replay(20, 10).rewind(0) == 0


def test_length_counts_the_rows_that_can_be_drawn():
    memory = replay(20, 0)

    assert len(memory) == 0
    with pytest.raises(NotEnoughData, match="append some"):
        memory.sample(1, 0)
    remember(memory, 7)
    assert len(memory) == 7
    remember(memory, 100)
    assert len(memory) == 20


def test_a_draw_may_be_larger_than_the_window_and_has_no_span():
    batch = replay(3, 3).sample(10, 0)

    assert (len(batch), batch.origins, batch.span) == (10, {"replay": 10}, {})


def test_impossible_windows_and_draws_are_refused():
    ring = Ring.in_memory(SCHEMA, 10)

    for window in (0, 11):
        with pytest.raises(SettingsError, match="must be 1 to the ring's 10 rows"):
            UniformReplay(ring, window, seed=0, client=0)
    with pytest.raises(SettingsError, match="seed must be 0"):
        UniformReplay(ring, 5, seed=-1, client=0)
    with pytest.raises(ValueError, match="1 row or more"):
        replay(5, 5).sample(0, 0)
    with pytest.raises(NotEnoughData, match="lower the cursor"):
        replay(5, 5).sample(1, 0, cursor=6)
