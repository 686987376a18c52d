"""Each class knows its slots, through joins, moves and removals."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.replay.class_members import ClassMembers, ranks_within


@given(st.lists(st.integers(0, 4), max_size=30))
def test_ranks_count_the_earlier_entries_of_a_class(classes):
    expected = [classes[:place].count(class_) for place, class_ in enumerate(classes)]

    assert ranks_within(np.array(classes, np.int64)).tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_members_are_those_of_a_list_for_each_class(capacity, num_classes, data):
    members, lists = ClassMembers(capacity), [[] for _ in range(num_classes)]  # the slow reference
    members.reserve(num_classes)
    class_of = st.integers(0, num_classes - 1)
    for _ in range(10):
        held = [slot for each in lists for slot in each]
        others = sorted(set(range(capacity)) - set(held))
        operation = data.draw(st.sampled_from(["add", "move", "remove"]))
        if operation == "add" and others:
            slots = data.draw(st.lists(st.sampled_from(others), unique=True))
            classes = [data.draw(class_of) for _ in slots]
            members.add(np.array(classes, np.int64), np.array(slots, np.int64))
            for class_, slot in zip(classes, slots, strict=True):
                lists[class_].append(slot)
        elif operation == "move" and held:
            slot, class_ = data.draw(st.sampled_from(held)), data.draw(class_of)
            members.move(slot, class_)
            (old,) = (each for each in lists if slot in each)
            old[old.index(slot)] = old[-1]
            old.pop()
            lists[class_].append(slot)
        elif operation == "remove" and held:
            slots = data.draw(st.lists(st.sampled_from(held), unique=True))
            members.remove(np.array(slots, np.int64))
            lists = [[slot for slot in each if slot not in slots] for each in lists]
            found = [members.of(class_).tolist() for class_ in range(num_classes)]
            assert list(map(sorted, found)) == list(map(sorted, lists))
            lists = found  # their order is ours to choose
        assert [members.of(class_).tolist() for class_ in range(num_classes)] == lists
        assert members.counts.tolist() == [len(each) for each in lists]
        for class_, each in enumerate(lists):
            assert all(members.classes[slot] == class_ for slot in each)
    assert len(members._members) <= 16 * (capacity + 8 * num_classes)


def test_a_class_is_picked_from_by_chance():
    members = ClassMembers(9)
    members.reserve(3)
    members.add(np.array([0, 2, 2, 2]), np.array([8, 3, 1, 5]))

    assert members.pick(np.array([2, 2, 2, 0]), np.array([0.0, 0.5, 0.99, 0.7])).tolist() == [3, 1, 5, 8]
