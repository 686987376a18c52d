import numpy as np
import pytest
from replay_service import SCHEMA, is_whole, numbered, serving

from fedmb.batch.minibatch import Column
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_source import served_source


def source_of(service, query="", *, schema=SCHEMA, patience_seconds=5.0):
    url = f"replay://{service.address}/rows{query}"
    return served_source(url, schema, client="a", seed=0, patience_seconds=patience_seconds)


def test_what_actors_appended_is_drawn_whole_and_counted_as_replayed():
    table = ReplayTable(SCHEMA, 1000, name="rows")
    table.append(numbered(0, 500))
    with serving(table) as service:
        source = source_of(service)
        batches = [source.take(64) for _ in range(20)]
        position = source.position()
        source.close()

    assert all(is_whole(batch.columns) for batch in batches)
    assert len(np.unique(np.concatenate([batch.columns["number"] for batch in batches]))) > 400
    assert batches[0].origins == {"replay": 64}
    assert position == {"draws": 20, "table": "rows"}


def test_losses_become_the_priorities_of_the_served_rows():
    table = ReplayTable(SCHEMA, 64, sampler=Prioritized(alpha=1.0), name="rows")
    table.append(numbered(0, 64))
    with serving(table) as service:
        source = source_of(service, "?prioritizes=true&prefetch=1&transport=grpc")
        for _ in range(160):
            batch = source.take(32)
            source.hear(source.batches - 1, np.where(batch.columns["number"] == 7, 1.0, 0.001).astype(np.float32))
        drawn = np.concatenate([source.take(32).columns["number"] for _ in range(30)])
        weights = source.take(32).units
        source.close()

    assert (drawn[320:] == 7).mean() > 0.8
    assert weights is not None


def test_a_table_whose_limiter_lets_nothing_out_is_waited_for_as_long_as_the_patience_lasts():
    table = ReplayTable(SCHEMA, 100, limiter=RateLimiter(samples_per_insert=1.0, min_size=50), name="rows")
    table.append(numbered(0, 10))
    with serving(table) as service:
        source = source_of(service, patience_seconds=0.2)
        with pytest.raises(NotEnoughData):
            source.take(8)
        table.append(numbered(10, 40))
        batch = source.take(8)
        source.close()

    assert is_whole(batch.columns)


def test_samples_of_other_columns_are_refused():
    with (
        serving(ReplayTable(SCHEMA, 10, name="rows")) as service,
        pytest.raises(ShapeError, match=r"samples of table rows must have the task's columns"),
    ):
        source_of(service, schema={"x": Column("float32", (4,))})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("replay://h:1", "replay://host:port/TABLE"),
        ("replay:/rows", "replay://host:port/TABLE"),
        ("replay://h:1/a/b", "replay://host:port/TABLE"),
        ("replay://u:p@h:1/rows", "replay://host:port/TABLE"),
        ("replay://127.0.0.1:1/rows?prioritises=true", "did you mean prioritizes"),
        ("replay://127.0.0.1:1/rows?token=x", "is told prioritizes, root_certificates"),
        ("replay://127.0.0.1:1/rows?prefetch=-1", "prefetch must be a number"),
        ("replay://127.0.0.1:1/rows?transport=carrier", "transport must be auto, grpc, shared"),
    ],
)
def test_a_url_that_breaks_a_rule_is_refused_with_the_way_out(url, said):
    with pytest.raises(SettingsError, match=said):
        served_source(url, SCHEMA, client="a", seed=0, patience_seconds=1.0)


def test_a_truth_that_is_none_is_refused():
    with serving(ReplayTable(SCHEMA, 10, name="rows")) as service, pytest.raises(SettingsError, match="true or false"):
        source_of(service, "?prioritizes=yes")
