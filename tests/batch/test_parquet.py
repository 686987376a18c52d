"""Parquet columns become arrays where pyarrow is installed; where it is not, the error names the extra."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import numpy as np
import pytest

from fedmb.batch.files import load_table
from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, SettingsError, ShapeError


def test_without_pyarrow_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what an import finds where it is not installed
    (tmp_path / "table.parquet").write_bytes(b"PAR1")

    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[parquet\]'"):
        load_table(tmp_path / "table.parquet")


if importlib.util.find_spec("pyarrow"):  # the extra is installed: the rest of the promise can be checked
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")

    def saved(path, columns, **options):
        parquet.write_table(arrow.table(columns), path, **options)
        return path

    def test_numbers_and_vectors_come_back_with_their_dtypes(tmp_path):
        numbers, vectors = np.arange(7, dtype=np.uint8), np.arange(21, dtype=np.float32).reshape(7, 3)
        columns = {
            "y": numbers,
            "fixed": arrow.FixedSizeListArray.from_arrays(vectors.ravel(), 3),
            "listed": arrow.array(vectors.tolist(), arrow.list_(arrow.float32())),
            "ill": numbers > 3,
        }

        table = load_table(saved(tmp_path / "table.parquet", columns, row_group_size=3))

        assert (table["y"].dtype, table["y"].tolist()) == (np.uint8, numbers.tolist())
        assert (table["fixed"].dtype, table["fixed"].tolist()) == (np.float32, vectors.tolist())
        assert (table["listed"].dtype, table["listed"].tolist()) == (np.float32, vectors.tolist())
        assert (table["ill"].dtype, table["ill"].tolist()) == (np.bool_, (numbers > 3).tolist())

    def test_only_columns_of_the_schema_are_read(tmp_path):
        path = saved(tmp_path / "table.parquet", {"y": np.arange(3), "name": ["a", "b", "c"]})

        assert load_table(path, schema={"y": Column("int64")}).keys() == {"y"}
        with pytest.raises(ShapeError, match=r"lacks \['z'\]"):
            load_table(path, schema={"z": Column("int64")})
        with pytest.raises(ShapeError, match="must hold int32"):
            load_table(path, schema={"y": Column("int32")})

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([1, None], "must hold no gaps"),
            ([[1.0], [None]], "must hold no gaps"),
            (["a", "b"], "must hold numbers"),
            ([[1], [2, 3]], r"must be of one length, got \[1, 2\]"),
        ],
    )
    def test_gaps_text_and_ragged_lists_are_refused(tmp_path, column, message):
        with pytest.raises((DecodeError, ShapeError), match=message):
            load_table(saved(tmp_path / "table.parquet", {"x": arrow.array(column)}))

    def test_a_broken_or_large_file_is_refused(tmp_path):
        path = saved(tmp_path / "table.parquet", {"x": np.zeros(100_000)})  # a few hundred bytes, 800,000 unpacked
        with pytest.raises(DecodeError, match="at most 1000 bytes"):
            load_table(path, max_bytes=1000)
        with pytest.raises(DecodeError, match="at most 10000 bytes"):
            load_table(path, max_bytes=10_000)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DecodeError, match="readable"):
            load_table(path)
