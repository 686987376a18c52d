import threading

import numpy as np
import pytest
from frequencies import expect_frequencies
from modelled_table import SCHEMA, make, rows, same_rows, values

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, RateLimited, ShapeError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.trajectory import Windows


def table_of(capacity=10, **parts):
    return ReplayTable(SCHEMA, capacity, **parts)


def draws(table, count, size=50):
    return np.concatenate([table.sample(size).ids for _ in range(count // size)])


def test_what_is_appended_can_be_drawn():
    table = table_of()

    ids = table.append(rows(0, 7))
    sample = table.sample(50)

    assert ids.tolist() == list(range(7))
    assert same_rows(sample.columns)
    assert sample.columns["number"].tolist() == sample.ids.tolist()
    assert (len(sample), sample.weights, sample.probabilities) == (50, None, None)
    assert (len(table), table.capacity, table.schema, table.sample_schema) == (7, 10, SCHEMA, SCHEMA)


def test_uniform_draws_are_uniform_over_the_rows_that_are_kept():
    table = table_of()
    table.append(rows(0, 33))

    expect_frequencies(draws(table, 20_000) - 23, np.ones(10))


def test_prioritised_draws_follow_the_priorities_that_were_given_last():
    table = table_of(sampler=Prioritized(1.0, epsilon=0.0, stratified=False), remover=LowestPriority())
    ids = table.append(rows(0, 30), priorities=np.arange(30.0))
    kept = ids[ids >= 0]
    priorities = np.array([3.0, 0.0, 1.0, 8.0, 2.0, 2.0, 5.0, 1.0, 1.0, 4.0])
    table.reprioritize(kept, priorities)

    expect_frequencies(np.searchsorted(kept, draws(table, 20_000)), priorities)


def test_weights_undo_the_preference():
    table = table_of(sampler=Prioritized(1.0, beta=1.0, epsilon=0.0, stratified=False))
    table.append(rows(0, 10), priorities=np.arange(1.0, 11.0))

    batches = [table.sample(50) for _ in range(400)]

    numbers = np.concatenate([one.columns["number"] for one in batches])
    weights = np.concatenate([one.weights for one in batches])
    weighed = np.bincount(numbers, weights)
    assert np.allclose(weighed / weighed.sum(), 0.1, atol=0.02)
    assert np.allclose(weights, 5.5 / (numbers + 1))
    batch = batches[0].minibatch()
    assert batch.units is batches[0].weights
    assert batch.origins == {"replay": 50}


def test_seed_and_name_decide_what_is_drawn():
    def drawn(**names):
        table = table_of(**names)
        table.append(rows(0, 10))
        return table.sample(40).ids.tolist()

    assert drawn(seed=1) == drawn(seed=1)
    assert len({str(drawn(seed=1)), str(drawn(seed=2)), str(drawn(seed=1, name="other"))}) == 3


def test_a_generator_of_the_callers_leaves_the_tables_own_where_it_is():
    one, other = table_of(), table_of()
    for table in (one, other):
        table.append(rows(0, 10))

    first = [one.sample(9, generator=np.random.default_rng(4)).ids.tolist() for _ in range(2)]

    assert first[0] == first[1]
    assert one.sample(9).ids.tolist() == other.sample(9).ids.tolist()


def test_a_sample_is_a_copy():
    table = table_of()
    table.append(rows(0, 3))
    sample = table.sample(3)
    before = sample.columns["number"].copy()

    table.append(rows(3, 10))
    sample.columns["x"][:] = 77

    assert sample.columns["number"].tolist() == before.tolist()
    assert same_rows(table.sample(30).columns)


@pytest.mark.parametrize("parts", [{}, {"remover": Reservoir()}, {"limiter": RateLimiter.min_rows(1)}], ids=" ".join)
def test_a_row_alone_is_appended_whole_or_not_at_all(parts):
    table = table_of(**parts)
    table.append_row(values(4))

    for wrong in ([1, 2, 3], [*values(4)[:-1], "no"], [np.zeros(2, np.float32), *values(4)[1:]]):
        with pytest.raises(ShapeError):
            table.append_row(wrong)

    assert table.statistics().appended == 1
    assert same_rows(table.sample(5).columns)


def test_columns_of_another_schema_are_refused_and_nothing_is_appended():
    table = table_of()

    with pytest.raises(ShapeError, match="columns must be"):
        table.append({"x": rows(0, 2)["x"]})
    with pytest.raises(ShapeError, match="there must be a priority for each of 2 rows"):
        table.append(rows(0, 2), priorities=np.ones(3))
    with pytest.raises(ShapeError, match="there must be a priority for each of 2 rows"):
        table.reprioritize(np.arange(2), np.ones(3))

    assert table.append(rows(0, 0)).tolist() == []
    assert table.statistics().appended == 0


def test_nothing_can_be_drawn_of_nothing():
    table = table_of()

    with pytest.raises(NotEnoughData):
        table.sample(1)
    with pytest.raises(ValueError, match="a sample must have 1 row or more, got size=0"):
        table.sample(0)
    assert not table.can_sample()


def test_a_reader_says_what_a_sample_holds():
    schema = {"number": Column("int64"), "terminated": Column("bool"), "truncated": Column("bool")}
    table = ReplayTable(schema, 10, reader=Windows(3))
    ends = np.zeros(14, bool)

    table.append({"number": np.arange(14), "terminated": ends, "truncated": ends})
    sample = table.sample(60)

    assert {name: (one.dtype.name, one.shape[1:]) for name, one in sample.columns.items()} == {
        name: (column.dtype, column.shape) for name, column in table.sample_schema.items()
    }
    assert np.array_equal(sample.columns["number"] - sample.ids[:, None], np.tile(np.arange(3), (60, 1)))
    assert set(sample.ids.tolist()) == set(range(4, 12))


def test_a_limiter_lets_samples_wait_for_inserts_and_inserts_for_samples():
    table = table_of(limiter=RateLimiter(2.0, min_size=3, error_buffer=4.0))
    with pytest.raises(RateLimited, match="must hold min_size = 3 rows"):
        table.sample(1, timeout=0)
    assert not table.can_sample()

    table.append(rows(0, 3))
    table.append(rows(3, 2), timeout=0)
    with pytest.raises(RateLimited, match="let learners sample more"):
        table.append(rows(5, 1), timeout=0)
    assert not table.can_append()
    table.sample(8, timeout=0)
    with pytest.raises(RateLimited, match="let actors insert more"):
        table.sample(1, timeout=0)
    table.append(rows(5, 1), timeout=0)

    found = table.statistics()
    assert (found.appended, found.sampled) == (6, 8)
    assert found.limiter.difference == 4.0


def test_four_threads_on_one_table_keep_every_row_whole_and_every_count_right():
    sampler = Prioritized()
    table = ReplayTable(SCHEMA, 300, sampler=sampler, limiter=RateLimiter(4.0, min_size=100, error_buffer=2000.0))
    turns, failures, lock, drawn = 60, [], threading.Lock(), [0]
    numbers = iter(range(0, 10**9, 25))

    def act():
        for _ in range(turns):
            with lock:
                start = next(numbers)
            ids = table.append(rows(start, 25))
            assert np.array_equal(np.diff(ids), np.ones(24))
            table.append_row(values(start))

    def learn():
        for _ in range(turns):
            sample = table.sample(104)
            assert same_rows(sample.columns)
            with lock:
                drawn[0] += len(sample)
            assert 0 <= table.reprioritize(sample.ids, sample.columns["number"] % 7 + 0.5) <= 104

    def watched(work):
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told by the assertion below
            failures.append(error)
            table.close()

    threads = [threading.Thread(target=watched, args=(work,)) for work in (act, act, learn, learn)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    found = table.statistics()
    assert (found.appended, found.rows, found.sampled) == (2 * turns * 26, 300, 2 * turns * 104)
    assert found.sampled == drawn[0]
    assert (found.limiter.inserts, found.limiter.samples) == (found.appended, found.sampled)
    assert (found.limiter.insert.waiting, found.limiter.sample.waiting) == (0, 0)
    assert same_rows(table.sample(100).columns)


def test_a_closed_table_is_used_no_more(tmp_path):
    for table in (make("uniform", "fifo"), make("uniform", "fifo", folder=tmp_path)):
        table.append(rows(0, 3))
        table.close()
        table.close()

        for use in (lambda one: one.sample(1), lambda one: one.append(rows(0, 1)), lambda one: one.statistics(), len):
            with pytest.raises(ValueError, match="a table must be open to be used, this one was closed"):
                use(table)


def test_closing_wakes_who_waits_for_the_limiter():
    table, refused = table_of(limiter=RateLimiter.min_rows(5)), []

    def learn():
        try:
            table.sample(1)
        except RateLimited as error:
            refused.append(error.side)

    thread = threading.Thread(target=learn)
    thread.start()
    tick = threading.Event()
    while table.statistics().limiter.sample.waiting == 0:
        tick.wait(0.001)
    table.close()
    thread.join()

    assert refused == ["sample"]
