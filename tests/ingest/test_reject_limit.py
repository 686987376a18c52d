import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import DecodeError, TooManyRejected
from fedmb.ingest.log import Record
from fedmb.ingest.reject_limit import RejectLimit
from fedmb.ingest.rejected_offsets import RejectedOffsets
from fedmb.ledger import StreamPartition

PARTITION = StreamPartition("k", "digits", 3)
ERROR = DecodeError("columns must be x, got z")


def stops_at(limit: RejectLimit, offsets) -> int | None:
    """Offset of the first record that is one too many."""
    known = RejectedOffsets()
    for offset in offsets:
        try:
            limit.check(Record(PARTITION, offset, 0, b"", {}), ERROR, known)
        except TooManyRejected:
            return offset
        known.add(PARTITION, offset)
    return None


@given(st.sets(st.integers(0, 200)), st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.integers(1, 8))
def test_a_stream_stops_where_the_definition_says(offsets, window, share, least):
    limit = RejectLimit(reject_window=window, reject_share=share, reject_least=least)

    def too_many(last):
        count = sum(last - window < offset <= last for offset in offsets)
        return count >= least and count > share * window

    assert stops_at(limit, sorted(offsets)) == next(filter(too_many, sorted(offsets)), None)


def test_one_bad_record_among_ten_does_not_stop_a_stream():
    assert stops_at(RejectLimit(), range(0, 100, 10)) is None
    assert stops_at(RejectLimit(), range(0, 100_000, 100)) is None


def test_a_flood_stops_after_the_share_of_a_window():
    assert stops_at(RejectLimit(), range(5000, 6000)) == 5010
    assert stops_at(RejectLimit(reject_share=1.0), range(5000)) is None


def test_a_seek_back_does_not_count_a_record_twice():
    assert stops_at(RejectLimit(reject_window=100, reject_least=3), [1, 50, 1, 50, 1, 50]) is None


def test_the_error_tells_counts_place_cause_and_way_out():
    with pytest.raises(TooManyRejected) as caught:
        RejectLimit(reject_least=1, reject_share=0.0).check(Record(PARTITION, 8, 0, b"", {}), ERROR, RejectedOffsets())

    assert "got 1 of k/digits[3] up to offset 8" in str(caught.value)
    assert "DecodeError: columns must be x, got z" in str(caught.value)
    assert str(caught.value).endswith("or raise reject_share")
