"""A dataset's rows come in the order of a table, however they are fetched."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from fedmb.batch.dataset import DatasetSource
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
    source = DatasetSource(dataset, seed=5, client="a", tail=tail, names=["x", "y"])
    table = TableSource({"x": X, "y": Y}, seed=5, client="a", tail=tail)

    for size in [4, 4, 6, 3, 5, 4] * 3:
        one, other = source.take(size), table.take(size)
        assert all(one.columns[name].tobytes() == other.columns[name].tobytes() for name in ("x", "y"))
        assert (one.origins, source.position()) == (other.origins, table.position())
    assert source.schema == table.schema


def test_a_batch_is_one_fetch_where_the_dataset_offers_it():
    dataset = Counted(has_batched_fetch=True)
    source = DatasetSource(dataset, seed=0, client=0, names=["x", "y"])
    source.take(6)
    source.take(6)

    assert (dataset.batched, dataset.single) == (3, 0)


def test_a_row_that_breaks_or_has_another_shape_leaves_the_position_before_it():
    source = DatasetSource(Torn(), seed=0, client=0)
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
        DatasetSource([], seed=0, client=0)


def test_a_torch_dataset_is_served_without_importing_torch_here():
    probe = "import sys, fedmb.batch.dataset; print('torch' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "False"
