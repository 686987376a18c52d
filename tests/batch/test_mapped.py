"""Mapped tables stay on disk and give the rows that read ones give."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from fedmb.batch.files import load_table
from fedmb.batch.table import TableSource
from fedmb.errors import DecodeError, SettingsError

COLUMNS = {
    "x": np.arange(60, dtype=np.float32).reshape(20, 3),
    "y": np.arange(20, dtype=np.uint8),
    "z": np.arange(20) ** 2,
}


def folder(path):
    path.mkdir()
    for name, array in COLUMNS.items():
        np.save(path / f"{name}.npy", array)
    return path


def npz(path):
    np.savez(path.with_suffix(".npz"), **COLUMNS)
    return path.with_suffix(".npz")


def tensor_file(path):
    safetensors.numpy.save_file(COLUMNS, path.with_suffix(".safetensors"), metadata={"ward": "3"})
    return path.with_suffix(".safetensors")


FORMS = pytest.mark.parametrize("save", [folder, npz, tensor_file])


@FORMS
def test_mapped_columns_equal_read_ones_and_cannot_be_written(tmp_path, save):
    path = save(tmp_path / "table")

    mapped, read = load_table(path, mapped=True), load_table(path)

    assert mapped.keys() == read.keys() == COLUMNS.keys()
    for name, array in mapped.items():
        assert type(array) is np.ndarray
        assert (array.dtype, array.tolist()) == (read[name].dtype, read[name].tolist())
        assert not array.flags.writeable


@FORMS
def test_a_source_over_a_mapped_table_gives_the_same_rows_and_plain_arrays(tmp_path, save):
    mapped = TableSource(load_table(save(tmp_path / "table"), mapped=True), seed=1, client="a")
    read = TableSource(COLUMNS, seed=1, client="a")

    for _ in range(7):
        one, other = mapped.take(6), read.take(6)
        assert all(one.columns[name].tobytes() == other.columns[name].tobytes() for name in COLUMNS)
        assert all(type(column) is np.ndarray and column.flags.writeable for column in one.columns.values())


@pytest.mark.parametrize("form", ["folder", ".npz", ".safetensors"])
def test_batches_of_a_mapped_table_take_memory_for_their_rows_only(tmp_path, form):
    large = np.zeros((1 << 16, 64))  # 32 MiB
    path = tmp_path / f"table{form}"
    if form == "folder":
        path.mkdir()
        np.save(path / "x.npy", large)
    elif form == ".npz":
        np.savez(path, x=large)
    else:
        safetensors.numpy.save_file({"x": large}, path)
    del large

    tracemalloc.start()
    source = TableSource(load_table(path, mapped=True), seed=0, client="a")
    for _ in range(3):
        source.take(32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 << 20


def test_a_fortran_array_keeps_its_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(COLUMNS["x"]))

    assert np.array_equal(load_table(tmp_path, mapped=True)["x"], COLUMNS["x"])


def test_what_cannot_be_mapped_is_refused_with_the_way_out(tmp_path):
    np.savez_compressed(tmp_path / "table.npz", **COLUMNS)
    (tmp_path / "table.csv").write_text("y\n1\n")

    with pytest.raises(SettingsError, match=r"must not be compressed.*save it with numpy\.savez"):
        load_table(tmp_path / "table.npz", mapped=True)
    with pytest.raises(SettingsError, match=r"save it as \.npy files"):
        load_table(tmp_path / "table.csv", mapped=True)


def test_objects_are_refused_unread(tmp_path):
    np.save(tmp_path / "x.npy", np.array([print], object))
    np.savez(tmp_path / "table.npz", x=np.array([print], object))

    for path in (tmp_path, tmp_path / "table.npz"):
        with pytest.raises(DecodeError, match="must hold plain numbers"):
            load_table(path, mapped=True)


def test_a_file_cut_short_is_refused(tmp_path):
    for path in (folder(tmp_path / "t") / "x.npy", npz(tmp_path / "table"), tensor_file(tmp_path / "table")):
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DecodeError):
            load_table(path if path.suffix != ".npy" else path.parent, mapped=True)
