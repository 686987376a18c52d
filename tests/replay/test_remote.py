import threading
import time

import numpy as np
import pytest
from replay_service import SCHEMA, TRANSPORTS, is_whole, numbered, serving

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, RateLimited, SettingsError, ShapeError, Unreachable
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.remote import RemoteTable
from fedmb.replay.replay_table import ReplayTable

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


def test_rows_come_back_as_they_were_sent(transport):
    with serving() as service, RemoteTable(service.address, transport=transport) as table:
        ids = table.append(numbered(0, 60))
        sample = table.sample(200)

    assert ids.tolist() == list(range(60))
    assert is_whole(sample.columns)
    assert (sample.ids == sample.columns["number"]).all()
    assert len(set(sample.ids.tolist())) > 40


def test_a_sample_is_drawn_like_that_of_a_table_in_this_process(transport):
    own, served = (ReplayTable(SCHEMA, 100, sampler=Prioritized(), seed=3, name="default") for _ in range(2))
    priorities = np.arange(50) / 7
    own.append(numbered(0, 50), priorities=priorities)
    with serving(served) as service, RemoteTable(service.address, transport=transport, prefetch=2) as table:
        table.append(numbered(0, 50), priorities=priorities)
        drawn = [table.sample(16) for _ in range(5)]

    for sample in drawn:
        expected = own.sample(16)
        assert (sample.ids == expected.ids).all()
        assert (sample.weights == expected.weights).all()
        assert (sample.probabilities == expected.probabilities).all()
        assert all((sample.columns[name] == expected.columns[name]).all() for name in SCHEMA)


def test_priorities_change_what_is_drawn(transport):
    sampler = Prioritized(alpha=1.0, epsilon=0.0)
    with (
        serving(ReplayTable(SCHEMA, 100, sampler=sampler, name="default")) as service,
        RemoteTable(service.address, transport=transport, prefetch=1) as table,
    ):
        ids = table.append(numbered(0, 10))
        changed = table.reprioritize(ids, np.where(ids == 3, 1.0, 0.0))
        sample = table.sample(20)
        stale = table.reprioritize(np.array([3, 12345]), np.ones(2))

    assert changed == 10
    assert set(sample.ids.tolist()) == {3}
    assert stale == 1


def test_rows_given_one_by_one_are_kept_in_their_order(transport):
    columns = numbered(0, 95)
    with serving() as service, RemoteTable(service.address, transport=transport, block_rows=20) as table:
        for row in range(95):
            table.append_row([columns[name][row] for name in SCHEMA])
        table.flush()
        sample = table.sample(300)
        rows = len(table)

    assert rows == 95
    assert is_whole(sample.columns)
    assert (sample.ids == sample.columns["number"]).all()


def test_rows_given_one_by_one_do_not_wait_for_others_for_ever():
    with serving() as service, RemoteTable(service.address, block_rows=1000, linger_seconds=0.0) as table:
        table.append_row([np.zeros(5, np.float32), 1, True])

        while not len(table):
            time.sleep(0.001)


def test_columns_of_another_schema_are_refused_before_they_travel(transport):
    with serving() as service, RemoteTable(service.address, transport=transport) as table:
        with pytest.raises(ShapeError, match="columns must be"):
            table.append({"x": np.zeros((3, 5), np.float32)})
        with pytest.raises(ShapeError, match="priority for each"):
            table.append(numbered(0, 3), priorities=np.ones(2))
        with pytest.raises(ShapeError):
            table.append_row([1, 2])


def test_what_the_table_refuses_is_raised_here_and_harms_nothing(transport):
    with serving() as service, RemoteTable(service.address, transport=transport) as table:
        with pytest.raises(NotEnoughData):
            table.sample(4)
        with pytest.raises(ValueError, match="priorities must be"):
            table.append(numbered(0, 3), priorities=np.array([1.0, np.nan, 1.0]))
        with pytest.raises(ValueError, match="priorities must be"):
            table.reprioritize(np.array([0]), np.array([-1.0]))
        with pytest.raises(ValueError, match="1 row or more"):
            table.sample(0)
        with pytest.raises(SettingsError, match="needs a folder"):
            table.snapshot()
        table.append(numbered(0, 3))

        assert len(table.sample(4)) == 4, "an old refusal is not raised again"


def test_more_rows_than_a_message_holds_travel_in_parts(transport):
    with (
        serving(ReplayTable(SCHEMA, 100_000, name="default"), max_message_bytes=1 << 16) as service,
        RemoteTable(service.address, transport=transport) as table,
    ):
        ids = table.append(numbered(0, 50_000), priorities=np.ones(50_000))

        assert (ids == np.arange(50_000)).all()
        assert is_whole(table.sample(100).columns)


def test_a_limiter_lets_samples_wait_for_inserts_and_inserts_for_samples(transport):
    limited = ReplayTable(SCHEMA, 100, limiter=RateLimiter.queue(20), name="default")
    with serving(limited) as service, RemoteTable(service.address, transport=transport, prefetch=1) as table:
        with pytest.raises(RateLimited):
            table.sample(10, timeout=0.01)
        table.append(numbered(0, 20))
        got = []
        writer = threading.Thread(target=lambda: got.append(table.append(numbered(20, 20))))
        writer.start()
        first, second = table.sample(10), table.sample(10)
        writer.join()

        assert len(first) == len(second) == 10
        assert len(got[0]) == 20


def test_an_insert_that_the_limiter_does_not_let_in_ends_at_its_deadline(transport):
    limited = ReplayTable(SCHEMA, 100, limiter=RateLimiter.queue(10), name="default")
    with serving(limited) as service, RemoteTable(service.address, transport=transport) as table:
        table.append(numbered(0, 10))
        with pytest.raises(RateLimited) as refused:
            table.append(numbered(10, 5), timeout=0.01)

        assert refused.value.side == "insert"
        table.sample(5, timeout=20)
        while table.statistics().appended < 15:  # it was on its way, and is kept once there is room
            time.sleep(0.001)
        assert len(table.append(numbered(15, 0))) == 0


def test_statistics_are_those_of_the_table(transport):
    limited = ReplayTable(SCHEMA, 100, limiter=RateLimiter.min_rows(5), name="default")
    with serving(limited) as service, RemoteTable(service.address, transport=transport, prefetch=1) as table:
        table.append(numbered(0, 10))
        table.sample(4)
        found = table.statistics()

    assert found.rows == found.appended == 10
    assert found.capacity == table.capacity == 100
    assert found.limiter is not None
    assert found.limiter.insert.passed == 1


def test_another_schema_or_table_is_refused_at_construction():
    with serving() as service:
        with pytest.raises(ShapeError, match="has columns"):
            RemoteTable(service.address, schema={"x": Column("float32", (6,))})
        with pytest.raises(SettingsError, match="must be one of default"):
            RemoteTable(service.address, "other")
        with pytest.raises(SettingsError, match="transport"):
            RemoteTable(service.address, transport="pigeon")
        with pytest.raises(SettingsError, match="prefetch"):
            RemoteTable(service.address, prefetch=0)


def test_nobody_at_the_address_is_said():
    with pytest.raises(Unreachable):
        RemoteTable("127.0.0.1:9")


def test_many_threads_may_share_a_client(transport):
    with (
        serving(ReplayTable(SCHEMA, 10_000, name="default")) as service,
        RemoteTable(service.address, transport=transport) as table,
    ):
        table.append(numbered(0, 10))
        wrong = []

        def work(number):
            for turn in range(20):
                first = 1000 * number + 10 * turn
                table.append(numbered(first, 10))
                sample = table.sample(32)
                if not is_whole(sample.columns):
                    wrong.append(sample)
                table.reprioritize(sample.ids, np.ones(32))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not wrong
        assert len(table) == 810


def test_closing_wakes_whoever_waits(transport):
    limited = ReplayTable(SCHEMA, 100, limiter=RateLimiter.min_rows(5), name="default")
    with serving(limited) as service:
        table = RemoteTable(service.address, transport=transport)
        raised = []

        def wait():
            try:
                table.sample(4)
            except Unreachable as error:
                raised.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not service.door.statistics().streams:
            time.sleep(0.001)
        table.close()
        waiting.join(20)

        assert not waiting.is_alive()
        assert raised


def test_a_client_leaves_no_threads_behind(transport):
    with serving() as service:
        before = threading.active_count()
        for _ in range(3):
            with RemoteTable(service.address, transport=transport) as table:
                table.append(numbered(0, 10))
                table.sample(3)
        own = [one for one in threading.enumerate() if one.name.startswith("replay-") and one.name != "replay-shared"]

    assert threading.active_count() <= before + 3, "but for the service's"
    assert not [one for one in own if one.name in {"replay-sample", "replay-write", "replay-ask"}]
