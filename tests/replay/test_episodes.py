"""The notes of an index agree with a walk along the rows, whenever and in whichever pieces it looks."""

from __future__ import annotations

import numpy as np
from fifo_rows import FifoRows, histories
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay import episodes
from fedmb.replay.episodes import EpisodeIndex

ENDS = ("terminated", "truncated")


def followed(history):
    view, ends, looks = history
    index = EpisodeIndex(ENDS, view.num_streams, view.capacity)
    for count, end in enumerate(ends, 1):
        view.append([end])
        if count in looks:
            index.follow(view)
    index.follow(view)
    return view, index


def distances(view, index):
    numbers = view.numbers
    return [
        method.tolist()
        for method in (index.before(view, numbers), index.after(view, numbers), index.is_finished(numbers))
    ] + [index.step(view, numbers).tolist()]


@settings(deadline=None)
@given(histories())
def test_distances_are_those_of_a_walk(history):
    view, index = followed(history)

    before, after, finished, _ = distances(view, index)

    assert before == [len(view.walk(number, 10**6, -1)) - 1 for number in view.numbers]
    assert after == [len(view.walk(number, 10**6)) - 1 for number in view.numbers]
    assert finished == [bool(view.ends[view.episode(number)[-1]]) for number in view.numbers]


@settings(deadline=None)
@given(histories())
def test_a_step_is_known_where_the_end_before_the_episode_is_stored(history):
    view, index = followed(history)

    for number, step in zip(view.numbers, index.step(view, view.numbers), strict=True):
        first = view.episode(number)[0]
        is_sure = view.oldest <= first < view.num_streams or view.oldest <= first - view.num_streams
        assert step == ((number - first) // view.num_streams if is_sure else -1)


@settings(deadline=None)
@given(histories())
def test_an_index_made_anew_says_the_same(history):
    view, index = followed(history)
    expected = distances(view, index)

    index.reset()
    index.follow(view)

    assert distances(view, index) == expected


@settings(deadline=None)
@given(histories(), st.integers(1, 7))
def test_looking_in_chunks_changes_nothing(history, chunk):
    view, index = followed(history)
    expected = distances(view, index)
    whole, episodes.CHUNK = episodes.CHUNK, chunk
    try:
        index.reset()
        index.follow(view)
    finally:
        episodes.CHUNK = whole

    assert distances(view, index) == expected


def test_a_table_that_was_rewound_is_looked_at_again():
    view, index = FifoRows(8), EpisodeIndex(ENDS, 1, 8)
    view.append([0, 0, 1, 0, 0, 0])
    index.follow(view)

    view.appended = 2
    view.ends = view.ends[:2]
    index.follow(view)

    assert index.after(view, view.numbers).tolist() == [1, 0]
    assert not index.is_finished(view.numbers).any()


def test_a_row_is_looked_at_twice_at_most():
    class Counting(FifoRows):
        looked = 0

        def column(self, name):
            counting = self

            class Counted:
                def __getitem__(self, slots):
                    counting.looked += len(slots)
                    return counting.columns[name][slots]

            return Counted()

    view, index = Counting(1000), EpisodeIndex(("terminated",), 1, 1000)
    for _ in range(100):
        view.append([0] * 30)
        for _ in range(5):
            index.follow(view)

    assert view.looked == 3000
    assert np.array_equal(index.after(view, view.numbers), np.arange(999, -1, -1))
