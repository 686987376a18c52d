from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedmb.ingest.rejected_offsets import RejectedOffsets
from fedmb.ledger import StreamPartition

PARTITION = StreamPartition("k", "t", 0)
OFFSETS = st.lists(st.integers(0, 60), max_size=80)


@given(OFFSETS, st.integers(1, 20), st.integers(-5, 70), st.integers(-5, 70))
def test_it_is_the_set_of_the_newest_offsets(offsets, keep, first, last):
    known, reference = RejectedOffsets(keep), set()
    for offset in offsets:
        known.add(PARTITION, offset)
        reference = set(sorted(reference | {offset})[-keep:])

    assert len(known) == len(reference)
    assert known.count(PARTITION, first, last) == sum(first <= offset <= last for offset in reference)
    assert [known.holds(PARTITION, offset) for offset in range(61)] == [offset in reference for offset in range(61)]


@given(OFFSETS)
def test_ranges_name_every_offset_once(offsets):
    known = RejectedOffsets()
    for offset in offsets:
        known.add(str(PARTITION), offset)
    ranges = known.ranges().get(str(PARTITION), [])

    assert [offset for first, last in ranges for offset in range(first, last + 1)] == sorted(set(offsets))
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(ranges))


def test_partitions_do_not_mix():
    known = RejectedOffsets()
    known.add(PARTITION, 5)

    assert known.holds(str(PARTITION), 5)
    assert not known.holds(PARTITION._replace(partition=1), 5)
