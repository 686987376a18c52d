"""A dataset's rows come in the order of a table, however they are fetched."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from fedmb.batch.dataset import column_of, dataset_source, following, load_dataset
from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError, ShapeError

X, Y = np.arange(34, dtype=np.float32).reshape(17, 2), np.arange(17)


class Counted:
    """Counts fetches; row 0 is read for the schema."""

    def __init__(self, has_batched_fetch):
        self.single, self.batched = 0, 0
        if has_batched_fetch:
            self.__getitems__ = self.fetch

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        self.single += 1
        return X[index], int(Y[index])

    def fetch(self, indices):
        self.batched += 1
        return [(X[index], int(Y[index])) for index in indices]


class Torn:
    """Rows of one shape, but for one row that breaks and one of another shape."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        if index == 4:
            raise OSError("sector not found")
        return {"x": [1.0, 2.0] if index == 7 else [1.0]}


@pytest.mark.parametrize("tail", ["balance", "keep", "drop"])
@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
        Subset(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), range(17)),
        list(zip(X, Y, strict=True)),
        Counted(has_batched_fetch=True),
        Counted(has_batched_fetch=False),
    ],
    ids=["torch tensors", "torch subset", "list", "batched fetch", "single fetch"],
)
def test_rows_order_epochs_and_tails_are_those_of_the_table(dataset, tail):
    source = dataset_source(dataset, seed=5, client="a", tail=tail, names=["x", "y"])
    table = TableSource({"x": X, "y": Y}, seed=5, client="a", tail=tail)

    for size in [4, 4, 6, 3, 5, 4] * 3:
        one, other = source.take(size), table.take(size)
        assert all(one.columns[name].tobytes() == other.columns[name].tobytes() for name in ("x", "y"))
        assert (one.origins, source.position()) == (other.origins, table.position())
    assert source.schema == table.schema


def test_a_batch_is_one_fetch_where_the_dataset_offers_it():
    dataset = Counted(has_batched_fetch=True)
    source = dataset_source(dataset, seed=0, client=0, names=["x", "y"])
    source.take(6)
    source.take(6)

    assert (dataset.batched, dataset.single) == (3, 0)


def test_a_row_that_breaks_or_has_another_shape_leaves_the_position_before_it():
    source = dataset_source(Torn(), seed=0, client=0)
    failures = set()
    for _ in range(18):
        before = source.position()
        try:
            source.take(1)
        except (OSError, ShapeError) as error:
            failures.add(type(error))
            assert source.position() == before
            source.seek(before | {"cursor": before["cursor"] + 1})  # pass over it

    assert failures == {OSError, ShapeError}


def test_an_empty_dataset_is_refused():
    with pytest.raises(SettingsError, match="at least one row"):
        dataset_source([], seed=0, client=0)


def test_a_torch_dataset_is_served_without_importing_torch_here():
    probe = "import sys, fedmb.batch.dataset; print('torch' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "False"


HERE = Path(__file__).stem
PADDED = {"x": Column("uint8", (4,)), "x_mask": Column("bool", (4,)), "y": Column("uint8")}


class Numbers:
    """`count` rows, each so many numbers as its own."""

    def __init__(self, count, **options):
        self.count, self.options = count, options

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return list(range(index)), index


class Endless:
    def __iter__(self):
        return iter(())


@pytest.fixture
def importable(monkeypatch):
    """This file as a module that a URL can name."""
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.usefixtures("importable")
def test_a_dataset_is_called_with_what_its_url_says():
    dataset = load_dataset(f"dataset:{HERE}:Numbers?count=3&root=/data/a%20b&flip=true&scale=[0.5,2]&name=x")

    assert len(dataset) == 3
    assert dataset.options == {"root": "/data/a b", "flip": True, "scale": [0.5, 2], "name": "x"}


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"dataset:{HERE}", "module:Class"),
        (f"dataset:{HERE}:Numbers?count=1&count=2", "each name once"),
        ("dataset:nowhere.to.be:Found", "importable, got: No module named 'nowhere'"),
        (f"dataset:{HERE}:Missing", "importable"),
        (f"dataset:{HERE}:Numbers", "must open, got TypeError.*count"),
        (f"dataset:{HERE}:Endless", "__len__ and __getitem__, Endless"),
    ],
)
def test_a_dataset_url_that_breaks_a_rule_says_which(url, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load_dataset(url)


def test_rows_of_different_lengths_are_padded_to_the_schema_and_weigh_their_tokens():
    batch = following(PADDED, [([1, 2], 0), ([], 1), ([1, 2, 3, 4], 2)])

    assert batch.columns["x"].tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]
    assert batch.columns["x_mask"].sum(1).tolist() == batch.units.tolist() == [2, 0, 4]
    assert [array.dtype.name for array in batch.columns.values()] == ["uint8", "bool", "uint8"]


def test_rows_that_bring_their_masks_are_taken_as_they_are():
    row = {"x": np.ones(4, np.uint8), "x_mask": np.array([True, True, False, False]), "y": 3, "more": 1}
    named, placed = following(PADDED, [row]), following(PADDED, [tuple(row[name] for name in PADDED)])

    assert named.units is placed.units is None
    assert list(named.columns) == list(placed.columns) == list(PADDED)


@pytest.mark.parametrize("value", [256, -1, 0.5, float("nan")])
def test_a_number_that_another_dtype_would_change_is_refused(value):
    with pytest.raises(ShapeError, match="'y' must hold uint8"):
        dataset_source(
            [{"y": value}],
            seed=0,
            client=0,
            schema={"y": PADDED["y"]},
            collate=functools.partial(following, {"y": PADDED["y"]}),
        )


def test_a_first_row_of_other_columns_is_refused_before_any_batch():
    with pytest.raises(ShapeError, match="columns must be"):
        dataset_source([{"x": 1}], seed=0, client=0, schema={"z": Column("int64")})


def test_a_column_is_read_in_pieces():
    rows = [(np.array([number, 0, 0, 0]), np.ones(4, bool), number % 7) for number in range(2500)]

    assert column_of(rows, "y", PADDED | {"x": Column("int64", (4,))}).tolist() == [row[2] for row in rows]


def test_a_client_may_have_some_of_the_rows():
    source = dataset_source(list(range(20)), rows=np.array([3, 5, 8]), names=["y"], seed=0, client=0)

    assert sorted(source.take(3).columns["y"]) == [3, 5, 8]
    assert source.examples_per_epoch == 3
