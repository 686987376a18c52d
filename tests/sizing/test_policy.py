import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import SettingsError
from fedmb.sizing.adaptive import norm_test
from fedmb.sizing.planned import ada_batch, fixed, ramp
from fedmb.sizing.policy import BatchSize, Progress
from fedmb.sizing.stats import Stats


def answering(size):
    """A policy whose rule always wants `size`, bounded or not."""
    return BatchSize(lambda progress, stats: size)


def test_an_answer_is_whole_rows_and_at_least_one():
    assert answering(244.95)(Progress(), Stats()) == 245
    assert answering(0.0)(Progress(), Stats()) == 1


def test_an_endless_answer_meets_its_bound():
    assert answering(math.inf).clip(8, 100)(Progress(), Stats()) == 100


@pytest.mark.parametrize("size", [math.inf, math.nan])
def test_an_answer_without_bound_is_an_error_that_names_the_way_out(size):
    with pytest.raises(ValueError, match=r"must be finite.*\.clip"):
        answering(size)(Progress(), Stats())


@pytest.mark.parametrize(("wanted", "size"), [(1, 64), (63, 64), (64, 64), (127, 64), (128, 128), (639.9999999, 640)])
def test_multiples_are_rounded_down_but_hold_one_group(wanted, size):
    assert answering(wanted).multiple(64)(Progress(), Stats()) == size


@given(st.floats(0, 1e6), st.integers(1, 512), st.integers(0, 4096), st.integers(1, 64))
def test_clip_then_multiple_stays_within_the_bounds_rounded_to_groups(wanted, lo, width, group):
    size = answering(wanted).clip(lo, lo + width).multiple(group)(Progress(), Stats())

    assert size % group == 0
    assert max(group, lo - group) <= size <= max(group, lo + width)


@pytest.mark.parametrize(("wanted", "size"), [(1000, 64), (33, 32), (40, 40), (2, 16), (math.inf, 64)])
def test_damping_limits_the_change_and_ignores_small_gains(wanted, size):
    assert answering(wanted).damped()(Progress(size=32), Stats()) == size


def test_damping_lets_the_first_answer_pass():
    assert answering(1000).damped()(Progress(), Stats()) == 1000


def test_damping_holds_the_policys_own_gain_against_the_threshold():
    worthless = BatchSize(lambda progress, stats: 64, worth=lambda held, proposed, stats: 0.01)

    assert worthless.damped()(Progress(size=32), Stats()) == 32
    assert worthless.damped(threshold=0.001)(Progress(size=32), Stats()) == 64


def test_it_decides_at_boundaries_only():
    growing = ramp(10, 110, 1000).every(500)
    asked = [
        growing(Progress(samples=0), Stats()),
        growing(Progress(samples=499, size=10, asked_at=490), Stats()),
        growing(Progress(samples=505, size=10, asked_at=499), Stats()),
        growing(Progress(samples=999, size=60, asked_at=505), Stats()),
        growing(Progress(samples=1600, size=60, asked_at=999), Stats()),
    ]

    assert asked == [10, 10, 60, 60, 110]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_asking_rarely_misses_no_boundary(rows):
    policy = ada_batch(4, every_samples=256).clip(1, 10**6).every(256)
    size, asked_at, samples = None, None, 0
    for more in rows:
        size, asked_at = policy(Progress(samples=samples, size=size, asked_at=asked_at), Stats()), samples
        samples += more

    assert size == min(4 * 2 ** (asked_at // 256), 10**6)


def test_the_most_it_can_answer_is_known_beforehand():
    assert fixed(48).largest == 48
    assert ramp(128, 8, 100).largest == 128
    assert norm_test(1.0, 32).largest == math.inf
    assert norm_test(1.0, 32).clip(8, 512).multiple(8).damped().every(100).largest == 512
    assert fixed(48).clip(64, 512).largest == 64


def test_wrapping_changes_neither_the_policy_nor_what_it_reads():
    policy = norm_test(1.0, 32)
    wrapped = policy.clip(8, 16)

    assert policy(Progress(), Stats()) == 32
    assert wrapped(Progress(), Stats()) == 16
    assert wrapped.reads == policy.reads == {"noise"}


def test_a_policy_travels_to_a_worker_process():
    policy = norm_test(0.5, 32).damped().clip(8, 512).multiple(8).every(1000)
    stats = Stats()
    stats.observe_groups([8, 8], [3.0, 3.0], 2.5)

    copy = pickle.loads(pickle.dumps(policy))  # noqa: S301  # our own bytes, as a worker process gets them

    assert copy(Progress(size=64), stats) == policy(Progress(size=64), stats)


@pytest.mark.parametrize(
    ("wrap", "rule"),
    [
        (lambda p: p.clip(8, 4), "1 <= lo <= hi"),
        (lambda p: p.clip(0, 4), "1 <= lo <= hi"),
        (lambda p: p.multiple(0), "at least 1 row"),
        (lambda p: p.damped(1.0), "a factor above 1"),
        (lambda p: p.damped(2.0, -0.1), "threshold of at least 0"),
        (lambda p: p.every(0), "at least 1 sample apart"),
    ],
)
def test_wrappers_that_cannot_work_are_refused(wrap, rule):
    with pytest.raises(SettingsError, match=rule):
        wrap(fixed(32))
