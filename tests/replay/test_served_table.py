import numpy as np
import pytest
from replay_service import SCHEMA, numbered

from fedmb.errors import SettingsError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_table import ServedTable


def block(served, first, count):
    return served.rows.block(numbered(first, count), count)


def test_an_insert_that_comes_twice_is_kept_once():
    served = ServedTable(ReplayTable(SCHEMA, 100))

    first = served.insert("w", 1, block(served, 0, 5), None, timeout=1)
    again = served.insert("w", 1, block(served, 0, 5), None, timeout=1)

    assert first.tolist() == again.tolist() == [0, 1, 2, 3, 4]
    assert len(served) == 5


def test_an_insert_that_the_limiter_does_not_let_in_may_come_again():
    served = ServedTable(ReplayTable(SCHEMA, 100, limiter=RateLimiter.queue(5)))
    served.insert("w", 1, block(served, 0, 5), None, timeout=0)

    assert served.insert("w", 2, block(served, 5, 5), None, timeout=0) is None
    served.draw(5, timeout=0)
    assert len(served.insert("w", 2, block(served, 5, 5), None, timeout=0)) == 5


def test_figures_say_how_old_and_how_weighed_rows_are():
    sampler = Prioritized(alpha=1.0, epsilon=0.0)
    served = ServedTable(ReplayTable(SCHEMA, 10, sampler=sampler), sampler=sampler, in_order=True)
    served.insert("w", 1, block(served, 0, 14), np.arange(14.0), timeout=1)

    found = served.figures()

    assert (found["rows"], found["ages"]["max"], found["priorities"]["max"]) == (10, 9, 13)
    assert found["snapshot_age_seconds"] is None


def test_a_snapshot_goes_where_it_should(tmp_path):
    times = iter([10.0, 12.5, 15.0])
    served = ServedTable(ReplayTable(SCHEMA, 10), tmp_path / "s", clock=lambda: next(times))
    served.insert("w", 1, block(served, 0, 4), None, timeout=1)

    stored = served.snapshot()

    assert stored["seconds"] == 2.5
    assert served.snapshot_age == 2.5
    other = ReplayTable(SCHEMA, 10)
    other.restore(tmp_path / "s")
    assert len(other) == 4


def test_a_table_without_a_place_is_not_stored(tmp_path):
    assert not ServedTable(ReplayTable(SCHEMA, 10)).is_stored
    assert ServedTable(ReplayTable(SCHEMA, 10), tmp_path).is_stored
    assert ServedTable(ReplayTable(SCHEMA, 10), has_folder=True).is_stored
    with pytest.raises(SettingsError, match="folder"):
        ServedTable(ReplayTable(SCHEMA, 10)).snapshot()
