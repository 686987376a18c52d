import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.remover import Fifo
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.row_store import RowStore
from fedmb.replay.trajectory import Windows

SCHEMA = {"x": Column("float32"), "terminated": Column("bool"), "truncated": Column("bool")}


def used(policy):
    policy.bind(5)
    return policy


def served():
    limiter = RateLimiter.min_rows(1)
    limiter.serve()
    return limiter


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"max_times_sampled": 0}, "max_times_sampled must be 1 to .*, got 0"),
        ({"limiter": RateLimiter.min_rows(9)}, "min_size must be at most the capacity of 8 rows, got 9"),
        (
            {"limiter": RateLimiter(2.0, 1, 50.0), "max_times_sampled": 1},
            "samples_per_insert must be at most max_times_sampled = 1, got 2",
        ),
        ({"limiter": served()}, "a limiter serves one table"),
        ({"sampler": used(Prioritized())}, "a sampler or remover serves one table"),
        ({"remover": used(Fifo())}, "a sampler or remover serves one table"),
        ({"reader": Windows(2), "remover": Reservoir()}, "needs a table that is first in, first out"),
        ({"sampler": "uniform"}, r"a sampler must be an object that has draw\(\), got 'uniform'"),
        ({"remover": Reservoir}, r"a remover must be an object that has place\(\), got <class"),
        ({"reader": "n_step"}, r"a reader must be an object that has read\(\), got 'n_step'"),
        ({"limiter": 4.0}, r"a limiter must be an object that has serve\(\), got 4.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_parts_that_do_not_go_together_are_refused_when_the_table_is_made(parts, rule):
    with pytest.raises(SettingsError, match=rule):
        ReplayTable(SCHEMA, 8, **parts)


def test_a_limit_of_draws_goes_with_a_limiter_that_only_waits_for_rows():
    ReplayTable(SCHEMA, 8, max_times_sampled=1, limiter=RateLimiter(3.0, 2))


def test_a_table_has_one_capacity():
    with pytest.raises(SettingsError, match="a table needs a capacity, got none"):
        ReplayTable(SCHEMA)
    with pytest.raises(SettingsError, match="a store says its capacity, 5, got 6 too"):
        ReplayTable(RowStore.in_memory(SCHEMA, 5), 6)

    assert ReplayTable(RowStore.in_memory(SCHEMA, 5)).capacity == 5
