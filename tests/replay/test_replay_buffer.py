import threading

import numpy as np
import pytest
from frequencies import expect_frequencies
from modelled_table import SCHEMA, rows, same_rows

from fedmb.batch.minibatch import Column
from fedmb.errors import CorruptSnapshot, NotEnoughData, RateLimited, SettingsError, ShapeError
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_buffer import ReplayBuffer
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir


def two(weights=None, seed=0):
    tables = {
        "new": ReplayTable(SCHEMA, 8, sampler=Prioritized(), name="new", seed=seed),
        "ever": ReplayTable(SCHEMA, 20, remover=Reservoir(), name="ever", seed=seed),
    }
    return ReplayBuffer(tables, weights=weights, seed=seed)


def test_rows_go_into_the_tables_that_are_named():
    buffer = two()

    everywhere = buffer.append(rows(0, 5))
    one = buffer.append(rows(5, 2), tables=["ever"])

    assert {name: ids.tolist() for name, ids in everywhere.items()} == {"new": [0, 2, 4, 6, 8], "ever": [1, 3, 5, 7, 9]}
    assert {name: ids.tolist() for name, ids in one.items()} == {"ever": [11, 13]}
    assert (len(buffer["new"]), len(buffer["ever"]), len(buffer)) == (5, 7, 12)
    assert buffer.tables == ("new", "ever")


def test_rows_that_are_not_kept_have_no_id():
    buffer = two()

    ids = buffer.append(rows(0, 30))

    assert (ids["new"] == -1).sum() == 22
    assert (ids["ever"] == -1).sum() == 30 - len(buffer["ever"])


def test_a_mixture_has_the_shares_and_says_whose_rows_are_whose():
    buffer = two(weights={"new": 1, "ever": 3})
    buffer.append(rows(0, 8), tables=["new"])
    buffer.append(rows(100, 20), tables=["ever"])

    for _ in range(20):
        sample = buffer.sample(40)
        assert {name: (one.start, one.stop) for name, one in sample.tables.items()} == {
            "new": (0, 10),
            "ever": (10, 40),
        }
        assert sample.columns["number"][:10].max() < 8
        assert sample.columns["number"][10:].min() >= 100
        assert same_rows(sample.columns)
        assert buffer.ids_in("new", sample.ids).tolist() == (sample.columns["number"][:10]).tolist()
        assert len(buffer.ids_in("ever", sample.ids)) == 30
        assert (sample.weights[10:] == 1).all()
    assert buffer.sample(4, weights={"ever": 1}).tables == {"ever": slice(0, 4)}


def test_without_weights_every_row_is_as_likely_as_any_other():
    buffer = ReplayBuffer({"a": ReplayTable(SCHEMA, 8, name="a"), "b": ReplayTable(SCHEMA, 8, name="b")})
    buffer.append(rows(0, 3), tables=["a"])
    buffer.append(rows(3, 7), tables=["b"])

    drawn = np.concatenate([buffer.sample(3).columns["number"] for _ in range(4000)])

    expect_frequencies(drawn, np.ones(10), stratified=True)


def test_priorities_find_their_tables():
    buffer = two()
    buffer.append(rows(0, 6))
    ids = np.array([4, 2, 3, 5, -1, 999, 4])

    assert buffer.reprioritize(ids, np.arange(7.0)) == 4  # rows 2 and 1 of one table, 1 and 2 of the other
    found = buffer.statistics()
    assert (found["new"].reprioritized, found["new"].stale) == (2, 0)
    assert (found["ever"].reprioritized, found["ever"].stale) == (2, 1)


def test_each_table_takes_its_own_columns():
    small = {"number": Column("int64")}
    buffer = ReplayBuffer({"small": ReplayTable(small, 5), "whole": ReplayTable(SCHEMA, 5)})

    buffer.append(rows(0, 3))

    assert buffer["small"].sample(2).columns.keys() == {"number"}
    assert buffer.sample(2, weights={"whole": 1}).columns.keys() == SCHEMA.keys()
    with pytest.raises(ShapeError, match="must give the same columns, 'small' gives"):
        buffer.sample(2)
    with pytest.raises(ShapeError, match="must give the same columns"):
        assert buffer.sample_schema
    with pytest.raises(ShapeError, match=r"columns must be those of \('small',\), got .*'x'.* too"):
        buffer.append(rows(0, 3), tables=["small"])
    with pytest.raises(ShapeError, match="columns must be"):
        buffer.append({"number": np.arange(3)})
    assert len(buffer) == 6


def test_a_limiter_that_refuses_says_where_the_rows_are():
    tables = {
        "a": ReplayTable(SCHEMA, 8, name="a"),
        "b": ReplayTable(SCHEMA, 8, name="b", limiter=RateLimiter(1.0, 1, 2.0)),
    }
    buffer = ReplayBuffer(tables)
    buffer.append(rows(0, 3))

    with pytest.raises(RateLimited) as refused:
        buffer.append(rows(3, 1), timeout=0.001)

    assert refused.value.__notes__ == ["table 'b' refused; the rows are in ['a']"]
    assert (len(tables["a"]), len(tables["b"])) == (4, 3)


@pytest.mark.parametrize(
    ("weights", "rule"),
    [
        ({"old": 1}, r"weights must name tables of \('new', 'ever'\), got \['old'\]"),
        ({"new": -1, "ever": 2}, "weights must be finite, 0 or more, and one above 0, got {'new': -1}"),
        ({"new": float("inf")}, "weights must be finite"),
        ({"new": 0}, "one above 0, got {'new': 0}"),
        ({}, "one above 0"),
    ],
    ids=str,
)
def test_weights_without_meaning_are_refused(weights, rule):
    with pytest.raises(SettingsError, match=rule):
        two(weights=weights)
    with pytest.raises(SettingsError, match=rule):
        two().sample(3, weights=weights)


def test_what_cannot_be_done_is_refused():
    buffer = two()

    with pytest.raises(NotEnoughData, match=r"one of the tables \('new', 'ever'\) must hold a row to draw"):
        buffer.sample(3)
    with pytest.raises(ValueError, match="1 row or more"):
        buffer.sample(0)
    with pytest.raises(SettingsError, match=r"tables must be of .*, got \['old'\]"):
        buffer.append(rows(0, 1), tables=["old"])
    with pytest.raises(SettingsError, match="a buffer needs at least one table"):
        ReplayBuffer({})
    with pytest.raises(ShapeError, match="a state must be of tables"):
        buffer.load_state_dict({"tables": {}, "random": None})


def test_a_restored_buffer_goes_on_bit_for_bit(tmp_path):
    def go_on(buffer, start):
        seen = []
        for step in range(5):
            seen.append({name: ids.tolist() for name, ids in buffer.append(rows(start + 6 * step, 6)).items()})
            sample = buffer.sample(7)
            buffer.reprioritize(sample.ids, np.arange(7.0))
            seen.append((sample.ids.tolist(), sample.weights.tobytes(), sample.tables))
        return seen

    buffer = two(seed=1)
    go_on(buffer, 0)
    path = buffer.snapshot(tmp_path)
    seen = go_on(buffer, 30)

    restored = two(seed=2)
    restored.restore(tmp_path)

    assert go_on(restored, 30) == seen
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptSnapshot):
        restored.restore(path)


def test_a_snapshot_has_all_tables_at_one_moment(tmp_path):
    tables = {name: ReplayTable({"number": Column("int64")}, 1000, name=name) for name in "ab"}
    buffer, stop = ReplayBuffer(tables), threading.Event()

    def append():
        number = 0
        while not stop.is_set():
            for name in "ab":  # b is never ahead of a, and never behind by more than one row
                buffer.append({"number": np.array([number])}, tables=[name])
            number += 1

    thread = threading.Thread(target=append)
    thread.start()
    for _ in range(15):
        restored = ReplayBuffer({name: ReplayTable({"number": Column("int64")}, 1000, name=name) for name in "ab"})
        restored.restore(buffer.snapshot(tmp_path))
        found = restored.statistics()
        assert found["a"].appended - found["b"].appended in {0, 1}
    stop.set()
    thread.join()
    buffer.close()
    with pytest.raises(ValueError, match="must be open"):
        buffer.sample(1)
