from collections import Counter
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest
from replay_service import SCHEMA, is_whole, numbered, serving

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, RateLimited, SettingsError, ShapeError, Unreachable
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.shard import cut, joined, weight
from fedmb.replay.sharded import LOOK_SECONDS, ShardedTable

pytestmark = pytest.mark.timeout(60)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@contextmanager
def shards(count, *, key="actor", **options):
    """So many services, and one client of all; the clock moves by hand."""
    with ExitStack() as parts:
        tables = [
            ReplayTable(SCHEMA, 10_000, name="default", sampler=options.pop("sampler", None)) for _ in range(count)
        ]
        services = [parts.enter_context(serving(table)) for table in tables]
        clock = Clock()
        addresses = [service.address for service in services]
        client = parts.enter_context(ShardedTable(addresses, key=key, clock=clock, reconnect_seconds=0.0, **options))
        yield client, services, clock


def filled(client, services):
    """Rows on every service, 100 times its number + 1; answers their ids."""
    ids = []
    for number, service in enumerate(services):
        key = next(str(key) for key in range(1000) if owner(str(key), services) is service)
        ids.append(client.append(numbered(1000 * number, 100 * (number + 1)), key=key))
    return np.concatenate(ids)


def owner(key, services):
    return max(services, key=lambda service: weight(key, service.address))


def test_a_writer_s_rows_lie_on_one_service_and_writers_on_all():
    with shards(3) as (client, services, _):
        for key in range(30):
            client.append(numbered(10 * key, 10), key=str(key))
        kept = {service.address: len(service.tables["default"]) for service in services}

        assert sum(kept.values()) == 300 == len(client)
        assert kept == {
            service.address: 10 * sum(owner(str(key), services) is service for key in range(30)) for service in services
        }


def test_few_writers_move_when_a_service_goes():
    names = [f"host{number}:1" for number in range(10)]

    def owners(names):
        return {key: max(names, key=lambda name: weight(str(key), name)) for key in range(2000)}

    before, after = owners(names), owners(names[:-1])

    assert all(after[key] == before[key] for key in before if before[key] != names[-1])
    assert min(Counter(before.values()).values()) > 150


def test_rows_are_mixed_by_sizes():
    with shards(3, seed=4) as (client, services, _):
        filled(client, services)
        drawn = Counter()
        for _ in range(60):
            sample = client.sample(100)
            assert is_whole(sample.columns)
            drawn.update((sample.columns["number"] // 1000).tolist())

        expected = np.array([1000, 2000, 3000])
        found = np.array([drawn[number] for number in range(3)])
        assert ((found - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, one in a thousand


def test_ids_find_their_rows_again():
    with shards(2, sampler=None) as (client, services, _):
        ids = filled(client, services)
        sample = client.sample(64)
        rows = dict(zip(ids.tolist(), [*range(100), *range(1000, 1200)], strict=True))

        assert len(set(ids.tolist())) == 300
        assert sample.columns["number"].tolist() == [rows[number] for number in sample.ids.tolist()]
        assert client.reprioritize(np.append(ids, [-1, 1 << 50, 77_777]), np.ones(303)) == 300


def test_probabilities_are_those_of_the_union():
    with ExitStack() as parts:
        tables = [ReplayTable(SCHEMA, 1000, sampler=Prioritized(alpha=1.0), name="default") for _ in range(2)]
        services = [parts.enter_context(serving(table)) for table in tables]
        client = parts.enter_context(ShardedTable([service.address for service in services], key="a"))
        filled(client, services)
        sample = client.sample(50)

        assert sample.probabilities == pytest.approx(np.full(50, 1 / 300))
        assert (sample.weights == 1).all()


def test_others_take_over_from_a_service_that_is_dead_and_it_is_named():
    with shards(3) as (client, services, clock):
        filled(client, services)
        key = next(str(key) for key in range(100) if owner(str(key), services) is services[1])
        services[1].close()
        samples = [client.sample(100) for _ in range(10)]
        ids = client.append(numbered(0, 5), key=key)
        lost = [one for one in client.statistics() if one.lost]

        assert [one.name for one in lost] == [services[1].address]
        assert all(len(sample) == 100 for sample in samples)
        assert not any((sample.columns["number"] // 1000 == 1).any() for sample in samples[1:])
        assert ids.min() >= 0
        assert client.reprioritize(np.concatenate([ids, [1 << 48]]), np.ones(6)) == 5
        clock.now += LOOK_SECONDS
        assert len(client.sample(10)) == 10, "it is looked for again, and still dead"


def test_an_error_is_raised_where_nobody_may_take_over():
    with shards(2, on_dead="error") as (client, services, clock):
        filled(client, services)
        services[0].close()
        clock.now += 10

        with pytest.raises(Unreachable) as raised:
            client.sample(100)
        assert services[0].address in raised.value.__notes__[0]


def test_all_dead_is_said_with_every_name():
    with shards(2) as (client, services, clock):
        filled(client, services)
        for service in services:
            service.close()
        clock.now += 10

        with pytest.raises(Unreachable) as raised:
            client.sample(10)
        assert all(service.address in str(raised.value) for service in services)


def test_a_service_that_was_dead_at_the_beginning_joins_later():
    with serving() as service, ExitStack() as later:
        with serving() as other:
            address = other.address
        clock = Clock()
        with ShardedTable([service.address, address], key="a", clock=clock, reconnect_seconds=0.0) as client:
            client.append(numbered(0, 10))
            assert [bool(one.lost) for one in client.statistics()] == [False, True]
            from fedmb.replay.service_access import Listening

            later.enter_context(serving(listening=Listening(port=int(address.rpartition(":")[2]))))
            clock.now += LOOK_SECONDS
            client.sample(4)

            assert [one.lost for one in client.statistics()] == ["", ""]


def test_nothing_to_draw_is_said():
    with shards(2) as (client, _, _), pytest.raises(NotEnoughData, match="2 services have none"):
        client.sample(3)


def test_rows_that_were_drawn_when_time_ran_out_are_not_lost():
    limited = [
        ReplayTable(SCHEMA, 100, limiter=RateLimiter.queue(60), max_times_sampled=1, name="default") for _ in "ab"
    ]
    with serving(limited[0]) as one, serving(limited[1]) as other:
        services = [one, other]
        with ShardedTable([one.address, other.address], key="a", prefetch=1) as client:
            for number, service in enumerate(services):
                key = next(str(key) for key in range(1000) if owner(str(key), services) is service)
                client.append(numbered(1000 * number, 50), key=key)
            got = Counter()
            with suppress(RateLimited, NotEnoughData):
                while True:
                    got.update(client.sample(20, timeout=0.3).ids.tolist())
            stocked = sum(len(sample) for shard in client._shards for sample in shard._stock)

            assert max(got.values()) == 1
            assert sum(got.values()) + stocked >= 80


def test_services_with_other_columns_are_refused():
    other = ReplayTable({"x": Column("float32", (5,))}, 10, name="default")
    with serving() as one, serving(other) as two, pytest.raises(ShapeError, match="other columns"):
        ShardedTable([one.address, two.address], key="a")


def test_settings_that_break_a_rule_are_refused():
    with pytest.raises(SettingsError, match="1 to"):
        ShardedTable([], key="a")
    with pytest.raises(SettingsError, match="name each once"):
        ShardedTable(["h:1", "h:1"], key="a")
    with pytest.raises(SettingsError, match="on_dead"):
        ShardedTable(["h:1"], key="a", on_dead="panic")


def test_samples_are_cut_and_joined():
    with serving() as service, ShardedTable([service.address], key="a") as client:
        client.append(numbered(0, 10))
        sample = client.sample(10)
    parts = [cut(sample, 0, 3), cut(sample, 3, 10)]

    assert (joined(parts).ids == sample.ids).all()
    assert is_whole(joined(parts).columns)
    assert joined([sample]) is sample
