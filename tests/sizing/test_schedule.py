import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.planned import milestones
from fedmb.sizing.policy import Progress
from fedmb.sizing.schedule import constant, cosine, steps, warmup
from fedmb.sizing.stats import Stats

schedules = st.sampled_from(
    [
        constant(0.3),
        warmup(500, start=1 / 8),
        cosine(2000, floor=0.1),
        steps({300: 0.5, 1200: 0.1}),
        warmup(400, start=0.0) * cosine(1500) * steps({1000: 0.5}),
    ]
)


def factors_along(schedule, sizes):
    """{rows learnt before a step: its factor} over a run that takes these sizes."""
    found, samples = {}, 0
    for size in sizes:
        found[samples] = schedule(samples)
        samples += size
    return found


@given(schedules, st.lists(st.integers(1, 300), min_size=2, max_size=30), st.lists(st.integers(1, 300), max_size=30))
def test_changing_the_size_leaves_every_factor_at_its_sample(schedule, sizes, others):
    # I3: two runs of other sizes meet at some samples (at 0, and wherever the second is cut to meet the first).
    meeting = sum(sizes[: len(sizes) // 2])
    cut, samples = [], 0
    for size in others:
        cut.append(min(size, meeting - samples))
        samples += cut[-1]
        if samples == meeting:
            break
    rest = [meeting - samples] if samples < meeting else []
    one = factors_along(schedule, sizes)
    other = factors_along(schedule, [*cut, *rest, 7])

    common = one.keys() & other.keys()
    assert {0, meeting} <= common
    assert all(one[samples] == other[samples] for samples in common)


def test_a_batch_that_grows_in_the_middle_ends_warmup_and_decay_at_the_same_sample():
    schedule = warmup(640, start=0.1) * steps({1280: 0.1})

    def last_of_each_height(policy):
        samples, seen = 0, {}
        while samples < 2560:
            seen[round(schedule(samples), 12) if samples >= 640 else "rising"] = samples
            samples += policy(Progress(samples=samples), Stats())
        return seen

    small = last_of_each_height(milestones({0: 32}))
    grown = last_of_each_height(milestones({0: 32, 320: 64, 1280: 256}))

    assert small == {"rising": 608, 1.0: 1248, 0.1: 2528}
    assert grown == {"rising": 576, 1.0: 1216, 0.1: 2304}


def test_warmup_is_goyals_line():
    # k = 8 over 5 epochs: 1, 2.4, 3.8, 5.2, 6.6, 8 times the base rate.
    rise = warmup(5, start=1 / 8)

    assert [8 * rise(epoch) for epoch in (0, 1, 2, 3, 4, 5, 6)] == pytest.approx([1, 2.4, 3.8, 5.2, 6.6, 8, 8])


def test_no_warmup_is_no_factor():
    assert warmup(0, start=0.0)(0) == 1


def test_cosine_goes_from_one_to_its_floor_and_stays():
    fall = cosine(100, floor=0.2)

    assert [fall(samples) for samples in (0, 50, 100, 1000)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert cosine(100)(25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_steps_replace_each_other():
    fall = steps({60: 0.01, 30: 0.1})

    assert [fall(samples) for samples in (0, 29, 30, 59, 60, 999)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@given(schedules, schedules, st.floats(0, 5000))
def test_a_product_is_the_product(one, other, samples):
    assert (one * other)(samples) == one(samples) * other(samples)


def test_a_schedule_travels_to_a_worker_process():
    schedule = warmup(500, start=0.1) * cosine(2000)

    copy = pickle.loads(pickle.dumps(schedule))  # noqa: S301  # our own bytes, as a worker process gets them

    assert copy(700) == schedule(700)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: warmup(-1, start=0.1), "samples of at least 0"),
        (lambda: warmup(10, start=1.5), "a start of 0 to 1"),
        (lambda: cosine(0), "samples above 0"),
        (lambda: cosine(10, floor=-1), "a floor of 0 to 1"),
        (lambda: steps({}), "steps need numbers"),
        (lambda: steps({-5: 0.1}), "at least 0"),
        (lambda: steps({5: -0.1}), "factor must be at least 0"),
        (lambda: constant(math.inf), "factor must be at least 0 and finite"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make, rule):
    with pytest.raises(SettingsError, match=rule):
        make()
