"""A table source gives each row once per epoch, in level batches, the same after any stop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmb.batch.source import BatchSource
from fedmb.batch.table import TableSource, batch_rows
from fedmb.errors import SettingsError, ShapeError

TAILS = ["balance", "keep", "drop"]


def table(rows: int, tail: str = "balance", seed: int = 3, client: str | int = 0) -> TableSource:
    numbers = np.arange(rows)
    return TableSource({"x": np.stack([numbers, numbers**2], 1), "y": numbers}, seed=seed, client=client, tail=tail)


def epoch_of(source: TableSource, sizes: list[int]) -> list[list[int]]:
    """Row numbers of the batches of one epoch, sizes taken in turn."""
    epoch, batches = source.position()["epoch"], []
    while source.position()["epoch"] == epoch:
        batches.append(source.take(sizes[len(batches) % len(sizes)]).columns["y"].tolist())
    return batches


def test_it_is_a_batch_source():
    assert isinstance(table(3), BatchSource)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 250))
def test_balanced_batches_have_the_sizes_of_array_split(rows, size):
    sizes = [len(batch) for batch in epoch_of(table(rows), [size])]

    assert sizes == [len(part) for part in np.array_split(np.arange(rows), -(-rows // size))]


@settings(deadline=None)
@given(st.integers(1, 100), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from(["balance", "keep"]))
def test_each_row_comes_once_per_epoch_whatever_the_sizes(rows, sizes, tail):
    source = table(rows, tail)

    for _ in range(2):
        assert sorted(itertools.chain.from_iterable(epoch_of(source, sizes))) == list(range(rows))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_a_size_that_changes_mid_epoch_levels_what_is_left(rows, before, after):
    source = table(rows)
    first = len(source.take(before))
    left = rows - first

    rest = [len(batch) for batch in epoch_of(source, [after])]

    if left:
        assert rest == [len(part) for part in np.array_split(np.arange(left), -(-left // after))]


def test_kept_tails_end_with_a_short_batch_and_dropped_ones_do_not_come():
    kept = [len(batch) for batch in epoch_of(table(10, "keep"), [4])]
    dropping = table(10, "drop")
    dropped = [(len(dropping.take(4)), dropping.position()) for _ in range(3)]

    assert kept == [4, 4, 2]
    assert [length for length, _ in dropped] == [4, 4, 4]
    assert [position["epoch"] for _, position in dropped] == [0, 0, 1]


def test_a_batch_larger_than_the_table_is_the_table_except_under_drop():
    assert len(table(5).take(100)) == 5
    assert len(table(5, "keep").take(100)) == 5
    with pytest.raises(SettingsError, match="lower the size or use tail 'balance'"):
        table(5, "drop").take(6)


def test_rows_of_all_columns_stay_together():
    batch = table(20).take(7)

    assert np.array_equal(batch.columns["x"][:, 0], batch.columns["y"])
    assert np.array_equal(batch.columns["x"][:, 1], batch.columns["y"] ** 2)
    assert batch.origins == {"private": 7}
    assert batch.span == {}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_a_run_that_stops_at_any_cursor_goes_on_bitwise(tail, rows):
    sizes = [3, 5, 1, 4, 2] if rows > 5 else [1]
    uninterrupted, positions, batches = table(rows, tail), [], []
    for step in range(15):
        positions.append(uninterrupted.position())
        batches.append(uninterrupted.take(sizes[step % len(sizes)]).columns["y"].tolist())

    for stop, position in enumerate(positions):
        resumed = table(rows, tail)
        resumed.seek(position)
        rest = [resumed.take(sizes[step % len(sizes)]).columns["y"].tolist() for step in range(stop, 15)]
        assert rest == batches[stop:]


def test_clients_seeds_and_epochs_have_their_own_orders():
    orders = [epoch_of(table(50, client=client, seed=seed), [50])[0] for client in (0, 1, "1", "b") for seed in (3, 4)]
    source = table(50)
    orders += [epoch_of(source, [50])[0] for _ in range(3)][1:]

    assert len({tuple(order) for order in orders}) == 10


def test_a_numpy_integer_names_the_same_client_as_pythons():
    assert epoch_of(table(50, client=np.int64(4)), [50]) == epoch_of(table(50, client=4), [50])


def test_batches_are_copies():
    source = table(4)
    source.take(4).columns["y"][:] = 99
    source.seek({})

    assert 99 not in source.take(4).columns["y"]


def test_contiguous_columns_are_kept_by_reference_and_others_copied_once():
    plain, foreign = np.arange(6.0), np.arange(12, dtype=">f4").reshape(6, 2)[::-1]
    source = TableSource({"plain": plain, "foreign": foreign}, seed=0, client=0)

    batch = source.take(6)

    assert np.shares_memory(source._columns["plain"], plain)
    assert np.array_equal(np.sort(batch.columns["foreign"], axis=0), np.sort(foreign, axis=0))
    assert source._columns["foreign"].flags.c_contiguous
    assert source._columns["foreign"].dtype.isnative


@pytest.mark.parametrize(
    "position",
    [{"epoch": 0}, {"epoch": 0, "cursor": 11}, {"epoch": -1, "cursor": 0}, {"epoch": 0, "cursor": True}, {"offset": 3}],
)
def test_a_foreign_position_is_refused_and_changes_nothing(position):
    source = table(10)
    source.take(4)
    before = source.position()

    with pytest.raises(ValueError, match="a table's position must be"):
        source.seek(position)
    assert source.position() == before


def test_what_is_no_table_is_refused():
    with pytest.raises(SettingsError, match="at least one row"):
        TableSource({"x": np.zeros((0, 3))}, seed=0, client=0)
    with pytest.raises(SettingsError, match="at least one row"):
        TableSource({}, seed=0, client=0)
    with pytest.raises(ShapeError, match="Python objects"):
        TableSource({"x": np.array([None, "a"])}, seed=0, client=0)
    with pytest.raises(ShapeError, match="equal length"):
        TableSource({"x": np.zeros(3), "y": np.zeros(4)}, seed=0, client=0)
    with pytest.raises(ShapeError, match="column 'x'"):
        TableSource({"x": np.array(3.0)}, seed=0, client=0)
    with pytest.raises(SettingsError, match="tail must be one of"):
        table(3, "reflect")
    with pytest.raises(SettingsError, match="seed must be 0"):
        table(3, seed=-1)
    with pytest.raises(ValueError, match="size must be 1 or more"):
        table(3).take(0)


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 1000), st.sampled_from(TAILS))
def test_a_batch_holds_at_most_its_size_and_what_is_left(left, size, tail):
    rows = batch_rows(left, size, tail)

    assert (0 if tail == "drop" else 1) <= rows <= min(left, size)
