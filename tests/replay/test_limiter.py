import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmb.errors import RateLimited, SettingsError
from fedmb.replay.limiter import RateLimiter

LIMITERS = st.builds(
    lambda ratio, min_size, wider: RateLimiter(ratio, min_size, (max(1.0, ratio) + wider)),
    st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0, 32.0]),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.5, 3.0, 50.0, math.inf]),
)


class Reverb:
    """`rate_limiter.cc`, line by line."""

    def __init__(self, limiter):
        self.of = limiter
        self.inserts = self.samples = self.deletes = 0

    def can_sample(self, num_samples):
        if self.inserts - self.deletes < self.of.min_size:
            return False
        return self.inserts * self.of.samples_per_insert - self.samples - num_samples >= self.of.min_difference

    def can_insert(self, num_inserts):
        if self.inserts + num_inserts - self.deletes <= self.of.min_size:
            return True
        difference = (num_inserts + self.inserts) * self.of.samples_per_insert - self.samples
        return difference <= self.of.max_difference


def eventually(condition):
    """Wait for what another thread is about to do."""
    tick = threading.Event()
    for _ in range(20_000):
        if condition():
            return
        tick.wait(0.001)
    pytest.fail("it did not happen")


@given(LIMITERS, st.lists(st.sampled_from(["insert", "sample", "delete"]), max_size=60))
def test_of_single_rows_it_lets_pass_what_reverb_does(limiter, calls):
    reverb = Reverb(limiter)

    for call in calls:
        assert (limiter.can_insert(), limiter.can_sample()) == (reverb.can_insert(1), reverb.can_sample(1))
        if call == "insert" and limiter.can_insert():
            limiter.inserted(1)
            reverb.inserts += 1
        elif call == "sample" and limiter.can_sample():
            limiter.sampled(1)
            reverb.samples += 1
        elif call == "delete" and reverb.inserts > reverb.deletes:
            limiter.sampled(0, 1)
            reverb.deletes += 1


@given(LIMITERS, st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_the_difference_stays_in_its_window_once_the_table_is_filled(limiter, calls):
    for inserts, count in calls:
        was_filled = limiter.inserts >= limiter.min_size
        before = limiter.difference
        if inserts and limiter.can_insert(count):
            limiter.inserted(count)
            assert not was_filled or limiter.difference <= limiter.max_difference
        elif not inserts and limiter.can_sample(count):
            limiter.sampled(count)
            assert was_filled
            assert limiter.difference >= limiter.min_difference
        else:
            assert limiter.difference == before


@given(LIMITERS, st.lists(st.booleans(), max_size=60))
def test_one_of_both_sides_can_always_go_on(limiter, calls):
    for inserts in calls:
        assert limiter.can_insert() or limiter.can_sample()
        if inserts and limiter.can_insert():
            limiter.inserted(1)
        elif limiter.can_sample():
            limiter.sampled(1)


def test_a_batch_that_fills_the_table_beyond_the_window_is_let_in_as_nobody_could_make_room():
    limiter = RateLimiter(4.0, min_size=3, error_buffer=8.0)

    assert limiter.can_insert(100)
    limiter.inserted(100)
    assert not limiter.can_insert(1)
    assert limiter.can_sample(300)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((0.0,), "samples_per_insert must be above 0 and finite, got 0"),
        ((math.inf,), "samples_per_insert must be above 0 and finite"),
        ((1.0, 0), "min_size must be 1 row or more, got 0"),
        ((4.0, 1, 2.0), "window must be samples_per_insert .* got 2.0 to 6.0: both sides would wait for ever"),
        ((1.0, 2, (3.0, 9.0)), "must begin at or below min_size .* = 2.0, got 3.0"),
        ((1.0, 2, math.nan), "both sides would wait for ever"),
    ],
)
def test_settings_that_would_block_for_ever_are_refused(arguments, rule):
    with pytest.raises(SettingsError, match=rule):
        RateLimiter(*arguments)


def test_more_rows_than_the_window_holds_are_refused_at_once():
    limiter = RateLimiter(2.0, min_size=1, error_buffer=10.0)
    limiter.inserted(1)

    with limiter.serve():
        with pytest.raises(SettingsError, match="an insert of 11 rows must fit into the limiter's window of 20"):
            limiter.wait("insert", 11, None)
        with pytest.raises(SettingsError, match=r"a sample of 21 rows must fit .* raise error_buffer to 11.5 or more"):
            limiter.wait("sample", 21, None)


def test_a_deadline_ends_the_wait_and_says_what_was_missing():
    limiter = RateLimiter.min_rows(5)
    limiter.inserted(2)

    with limiter.serve():
        with pytest.raises(RateLimited, match="must hold min_size = 5 rows to be drawn from, it holds 2") as refused:
            limiter.wait("sample", 1, 0.001)
        found = limiter.statistics()

    assert refused.value.side == "sample"
    assert (found.sample.blocked, found.sample.missed, found.sample.passed, found.sample.waiting) == (1, 1, 0, 0)


def test_a_timeout_of_zero_does_not_wait_at_all():
    limiter = RateLimiter(1.0, 1, 2.0)
    limiter.inserted(3)

    with limiter.serve(), pytest.raises(RateLimited, match=r"let 1 rows in before .* the difference is 3 of -1 to 3"):
        limiter.wait("insert", 1, 0)


def test_whoever_waits_goes_on_when_the_other_side_has_moved():
    limiter, order = RateLimiter(1.0, 1, 2.0), []
    lock = limiter.serve()
    with lock:
        limiter.inserted(3)

    def insert():
        with lock:
            limiter.wait("insert", 2, None)
            order.append("insert")
            limiter.inserted(2)

    thread = threading.Thread(target=insert)
    thread.start()
    eventually(lambda: limiter.statistics().insert.waiting == 1)
    with lock:
        limiter.sampled(1)
        order.append("one")
    with lock:
        limiter.sampled(1)
        order.append("two")
    thread.join()

    assert order == ["one", "two", "insert"]
    assert limiter.statistics().insert.seconds > 0


def test_closing_wakes_everybody_who_waits():
    limiter, refused = RateLimiter.min_rows(5), []
    lock = limiter.serve()

    def sample():
        with lock:
            try:
                limiter.wait("sample", 1, None)
            except RateLimited as error:
                refused.append(str(error))

    threads = [threading.Thread(target=sample) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: limiter.statistics().sample.waiting == 3)
    limiter.close()
    for thread in threads:
        thread.join()

    assert refused == ["a table must stay open while a sample waits, it was closed"] * 3
    with lock, pytest.raises(RateLimited, match="its limiter was closed"):
        limiter.wait("insert", 1, None)


def test_two_that_wait_for_each_other_are_warned_of(caplog):
    limiter = RateLimiter(1.0, 1, 4.0)
    lock = limiter.serve()
    with lock:
        limiter.inserted(3)

    def sample():
        with lock, pytest.raises(RateLimited):
            limiter.wait("sample", 7, None)

    thread = threading.Thread(target=sample)
    thread.start()
    eventually(lambda: limiter.statistics().sample.waiting == 1)
    with lock, pytest.raises(RateLimited):
        limiter.wait("insert", 5, 0)
    limiter.close()
    thread.join()

    assert "inserts and samples wait for each other side=insert rows=5" in caplog.text


def test_a_queue_gives_as_many_rows_as_it_was_given():
    limiter = RateLimiter.queue(2)

    assert limiter.can_insert(1)
    limiter.inserted(2)
    assert not limiter.can_insert(1)
    assert limiter.can_sample(2)
    limiter.sampled(2, 2)
    assert not limiter.can_sample(1)
    assert limiter.can_insert(2)


def test_a_limiter_serves_one_table():
    limiter = RateLimiter.min_rows(1)
    limiter.serve()

    with pytest.raises(SettingsError, match="a limiter serves one table"):
        limiter.serve()
