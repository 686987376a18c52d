"""A mixture draws each task by its share, exactly on average and nearly so in every batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.minibatch import Column, MiniBatch
from fedmb.batch.mixture import Mixture, apportioned, tempered
from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData, SettingsError, ShapeError
from fedmb.ledger import Position, Span, StreamPartition


def table(name, rows):
    return TableSource({"y": np.arange(rows)}, seed=0, client=name)


class Numbers:
    """A stream of rising numbers that gives at most three at once and is silent when told."""

    schema = {"y": Column("int64")}
    examples_per_epoch = math.inf

    def __init__(self, name):
        self.partition = StreamPartition("log", name, 0)
        self.at, self.is_silent = 0, False

    def take(self, size):
        if self.is_silent:
            raise NotEnoughData("silent")
        stop = self.at + min(size, 3)
        span = {self.partition: Span(Position(self.at), Position(stop))}
        batch = MiniBatch({"y": np.arange(self.at, stop)}, span=span, origins={"stream": stop - self.at})
        self.at = stop
        return batch

    def position(self):
        return {"at": self.at}

    def seek(self, position):
        self.at = position.get("at", 0)

    def close(self):
        pass


def test_temperature_one_is_proportional_infinity_even_and_two_between():
    sizes = {"large": 900.0, "small": 100.0}

    assert tempered(sizes, 1) == pytest.approx({"large": 0.9, "small": 0.1})
    assert tempered(sizes, 2) == pytest.approx({"large": 0.75, "small": 0.25})
    assert tempered(sizes, math.inf) == pytest.approx({"large": 0.5, "small": 0.5})
    assert tempered(sizes, 1e-3) == pytest.approx({"large": 1, "small": 0})


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.integers(1, 10_000), st.integers(0, 1000))
def test_parts_add_up_and_are_within_one_row_of_their_shares(weights, size, seed):
    shares = np.array(weights) / sum(weights)

    parts = apportioned(shares, size, np.random.default_rng(seed))

    assert parts.sum() == size
    assert (np.abs(parts - shares * size) < 1 + 1e-9).all()


def test_parts_equal_their_shares_on_average_also_where_a_share_is_less_than_a_row():
    shares = np.array([0.5, 0.31, 0.15, 0.04])
    random = np.random.default_rng(0)

    mean = np.mean([apportioned(shares, 5, random) for _ in range(20_000)], axis=0)

    assert np.allclose(mean, shares * 5, atol=0.02)


@pytest.mark.parametrize("temperature", [1.0, 3.0, math.inf])
def test_rows_of_tasks_pass_a_chi_square_test(temperature):
    sizes = {"a": 640, "b": 80, "c": 15}
    mixture = Mixture(
        {name: table(name, rows) for name, rows in sizes.items()}, temperature, task_column="task", seed=3, client="x"
    )
    tasks = np.concatenate([mixture.take(7).columns["task"] for _ in range(2000)])
    found, expected = np.bincount(tasks, minlength=3), np.array(list(mixture.shares.values())) * len(tasks)

    chi_square = ((found - expected) ** 2 / expected).sum()
    print("chi-square, 2 degrees of freedom:", chi_square, found, expected)
    assert len(tasks) == 14_000
    assert chi_square < 9.21  # the 99th percentile


def test_each_task_keeps_its_own_order_and_epochs():
    mixture = Mixture({"a": table("a", 30), "b": table("b", 10)}, math.inf, task_column="task", seed=0, client=0)
    batches = [mixture.take(8) for _ in range(10)]
    alone = table("b", 10)

    from_b = np.concatenate([batch.columns["y"][batch.columns["task"] == 1] for batch in batches])
    assert sorted(from_b[:10]) == sorted(alone.take(10).columns["y"]) == list(range(10))
    assert all(batch.origins == {"private": 8} for batch in batches)


def test_a_table_fills_its_share_across_the_end_of_its_epoch():
    mixture = Mixture({"a": table("a", 3), "b": table("b", 300)}, math.inf, seed=0, client=0)

    assert [len(mixture.take(20)) for _ in range(5)] == [20] * 5


def test_streams_need_weights_and_keep_their_spans():
    with pytest.raises(SettingsError, match="give it one in weights"):
        Mixture({"a": table("a", 3), "s": Numbers("s")}, seed=0, client=0)
    streams = {name: Numbers(name) for name in ("s", "t")}
    mixture = Mixture({**streams, "a": table("a", 5)}, weights={"s": 5, "t": 5}, seed=0, client=0)

    batch = mixture.take(6)

    assert mixture.examples_per_epoch == math.inf
    assert batch.span == {stream.partition: Span(Position(0), Position(stream.at)) for stream in streams.values()}
    assert batch.origins == {"stream": 4, "private": 2}


def test_a_silent_stream_moves_no_other_source():
    stream = Numbers("s")
    mixture = Mixture({"a": table("a", 9), "s": stream}, weights={"s": 9}, seed=0, client=0)
    mixture.take(4)
    before = mixture.position()
    stream.is_silent = True

    with pytest.raises(NotEnoughData):
        mixture.take(4)
    assert mixture.position() == before


def test_a_refused_position_moves_no_source():
    mixture = Mixture({"a": table("a", 9), "b": table("b", 9)}, seed=0, client=0)
    mixture.take(4)
    before = mixture.position()

    for sources in ({"a": {}, "b": {"epoch": -1, "cursor": 0}}, {"a": {}}):
        with pytest.raises(ValueError, match="position"):
            mixture.seek({"draws": 0, "sources": sources})
        assert mixture.position() == before


def test_what_does_not_mix_is_refused():
    with pytest.raises(SettingsError, match="at least one source"):
        Mixture({}, seed=0, client=0)
    with pytest.raises(SettingsError, match=r"got \['b'\]"):
        Mixture({"a": table("a", 3)}, weights={"b": 1}, seed=0, client=0)
    with pytest.raises(SettingsError, match="temperature must be above 0"):
        Mixture({"a": table("a", 3)}, 0.0, seed=0, client=0)
    with pytest.raises(SettingsError, match="finite weight above 0"):
        Mixture({"a": table("a", 3)}, weights={"a": 0}, seed=0, client=0)
    with pytest.raises(ShapeError, match="must be new, got 'y'"):
        Mixture({"a": table("a", 3)}, task_column="y", seed=0, client=0)
    other = TableSource({"y": np.zeros(3)}, seed=0, client=0)
    with pytest.raises(ShapeError, match="must have one schema"):
        Mixture({"a": table("a", 3), "b": other}, seed=0, client=0)
