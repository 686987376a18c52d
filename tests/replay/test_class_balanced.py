"""Rare classes are kept whole, frequent ones are cut to one size, and of each a uniform sample stays."""

import numpy as np
import pytest
from frequencies import bound, expect_frequencies
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.errors import ShapeError
from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.row_chances import RowChances


def placed(remover, labels, sizes, random):
    labels = np.asarray(labels)
    ends = np.cumsum(sizes)
    parts = [
        remover.place(size, {"y": labels[end - size : end]}, random) for size, end in zip(sizes, ends, strict=True)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def kept(slots, capacity):
    """Number of the row in each slot."""
    rows = np.full(capacity, -1)
    for number, slot in enumerate(slots.tolist()):
        if slot >= 0:
            rows[slot] = number
    return rows


def algorithm_1(labels, capacity, chances):
    """The slow reference: the paper's algorithm 1, one row after the other."""
    members, seen, full, slots = {}, {}, set(), []  # a class's slots, in the order of its first row
    for number, label in enumerate(labels):
        keep, which = chances[:, number]
        own = members.setdefault(label, [])
        seen[label] = seen.get(label, 0) + 1
        largest = [each for each in members.values() if len(each) == max(map(len, members.values()))]
        if number < capacity:
            slot = number
            own.append(slot)
        elif label not in full:
            choice = int(which * len(largest[0]) * len(largest))
            victims = largest[choice // len(largest[0])]
            place = choice % len(largest[0])
            slot = victims[place]
            victims[place] = victims[-1]
            victims.pop()
            own.append(slot)
        else:
            slot = own[int(which * len(own))] if keep * seen[label] < len(own) else -1
        if number >= capacity - 1:
            full |= {each for each, its in members.items() if len(its) == max(map(len, members.values()))}
        slots.append(slot)
    return slots


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 25), max_size=8),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_a_row_goes_where_algorithm_1_sends_it_however_the_stream_is_cut(capacity, sizes, num_classes, seed, seeded):
    stream, random = sum(sizes), np.random.default_rng(seed)
    labels = (num_classes * random.random(stream) ** 3).astype(int) * 7 - 3  # skewed, and not numbered from 0
    chances = RowChances(5, "a", "class-balanced", num_lanes=2).at(0, stream)
    if not seeded:
        chances = np.random.default_rng(9).random((stream, 2)).T
    remover = bound(ClassBalanced("y", seed=5 if seeded else None, client="a"), capacity)

    slots = placed(remover, labels, sizes, np.random.default_rng(9))

    assert slots.tolist() == algorithm_1(labels.tolist(), capacity, chances)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_skew_of_two_hundred_to_one_is_levelled(seed):
    random = np.random.default_rng(0)
    skew = np.array([200] * 8 + [1] * 2)
    labels = random.choice(10, 60_000, p=skew / skew.sum())

    slots = placed(bound(ClassBalanced("y", seed=seed), 10_000), labels, [40] * 1500, random)

    sizes = np.bincount(labels[kept(slots, 10_000)], minlength=10)
    assert sizes[8:].tolist() == np.bincount(labels)[8:].tolist()  # all of them
    assert np.ptp(sizes[:8]) <= 2
    assert sizes.sum() == 10_000


def test_a_class_that_comes_late_gets_its_share_and_all_at_once():
    labels = np.repeat(["a", "b", "c", "d"], 1000)

    slots = placed(bound(ClassBalanced("y", seed=1), 400), labels, [50] * 80, None)

    assert np.unique(labels[kept(slots, 400)], return_counts=True)[1].tolist() == [100] * 4


def test_rows_of_a_frequent_class_are_kept_with_one_chance_whatever_their_age():
    labels = np.arange(4000) % 2
    ages = []
    for seed in range(60):
        rows = kept(placed(bound(ClassBalanced("y", seed=seed), 200), labels, [100] * 40, None), 200)
        assert np.bincount(labels[rows]).tolist() == [100, 100]
        ages += (rows // 400).tolist()

    expect_frequencies(ages, np.ones(10))


def test_slots_of_dropped_rows_are_filled_by_the_next_rows_and_an_emptied_class_can_return():
    remover, random = bound(ClassBalanced("y", seed=0), 6), np.random.default_rng(0)
    remover.place(6, {"y": np.array([0, 0, 0, 1, 1, 1])}, random)

    remover.drop(np.array([0, 1, 2]))
    assert remover.place(3, {"y": np.array([2, 2, 2])}, random).tolist() == [2, 1, 0]
    again = remover.place(2, {"y": np.array([0, 0])}, random)

    assert (again >= 0).all()
    assert np.bincount(remover._members.classes).tolist() == [2, 2, 2]


def test_labels_of_any_sortable_kind_are_classes():
    remover = bound(ClassBalanced("y"), 10)

    remover.place(3, {"y": np.array([2.5, -1.0, 2.5], np.float32)}, np.random.default_rng(0))
    remover.place(2, {"y": np.array([7.0, -1.0], np.float32)}, np.random.default_rng(0))

    assert remover._labels.tolist() == [2.5, -1.0, 7.0]
    assert remover._members.counts.tolist() == [2, 2, 1]


def test_rows_without_a_scalar_label_are_refused():
    remover, random = bound(ClassBalanced("y"), 4), np.random.default_rng(0)

    with pytest.raises(ShapeError, match="column 'y' of 2 rows, got no such column"):
        remover.place(2, {"x": np.zeros(2)}, random)
    with pytest.raises(ShapeError, match=r"got shape \(2, 1\)"):
        remover.place(2, {"y": np.zeros((2, 1))}, random)
