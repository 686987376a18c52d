import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.training.released_stretches import added, from_json, most, to_json

STRETCHES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12)


@given(STRETCHES)
@settings(max_examples=200, deadline=None)
def test_pieces_count_as_a_row_by_row_count_does(stretches):
    counts, pieces = np.zeros(31, int), []
    for start, stop in stretches:
        counts[start:stop] += 1
        pieces = added(pieces, (start,), (stop,))

    told = np.zeros(31, int)
    for start, stop, times in pieces:
        assert not told[start[0] : stop[0]].any()
        told[start[0] : stop[0]] = times
    assert told.tolist() == counts.tolist()
    assert most(pieces) == counts.max()
    assert from_json(to_json(pieces)) == pieces


def test_a_stream_learnt_once_from_end_to_end_is_one_piece():
    pieces = []
    for offset in range(0, 900, 3):
        pieces = added(pieces, (offset, 1), (offset + 3, 1))

    assert pieces == [((0, 1), (900, 1), 1)]


def test_places_inside_a_packed_record_are_told_apart():
    pieces = added(added([], (5, 0), (5, 8)), (5, 8), (6, 0))

    assert pieces == [((5, 0), (6, 0), 1)]
    assert most(added(pieces, (5, 7), (5, 9))) == 2
