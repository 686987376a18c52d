"""Tables come from files whole or not at all, and no file runs code or fills the memory."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmb.batch.files import load_table
from fedmb.batch.minibatch import Column
from fedmb.errors import DecodeError, FedmbError, SettingsError, ShapeError

COLUMNS = {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "y": np.array([1, 0, 1, 1], np.uint8)}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_comes_back(tmp_path, save):
    save(tmp_path / "table.npz", **COLUMNS)

    loaded = load_table(tmp_path / "table.npz")

    assert loaded.keys() == COLUMNS.keys()
    assert all(np.array_equal(loaded[name], COLUMNS[name]) for name in COLUMNS)
    assert all(loaded[name].dtype == COLUMNS[name].dtype for name in COLUMNS)


def test_a_safetensors_file_comes_back(tmp_path):
    safetensors.numpy.save_file(COLUMNS, tmp_path / "table.safetensors")

    loaded = load_table(str(tmp_path / "table.safetensors"))

    assert loaded.keys() == COLUMNS.keys()
    assert all(np.array_equal(loaded[name], COLUMNS[name]) for name in COLUMNS)


def test_a_folder_of_npy_files_comes_back_and_its_other_files_are_left_alone(tmp_path):
    for name, array in COLUMNS.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "readme.txt").write_text("rows of ward 3")

    loaded = load_table(tmp_path)

    assert loaded.keys() == COLUMNS.keys()
    assert all(np.array_equal(loaded[name], COLUMNS[name]) for name in COLUMNS)


def test_a_folder_is_held_to_the_same_limits_as_an_npz(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(1000))
    with pytest.raises(DecodeError, match="at most 100 bytes"):
        load_table(tmp_path, max_bytes=100)
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object))
    with pytest.raises(DecodeError, match="must hold plain numbers"):
        load_table(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(DecodeError, match=r"readable \.npy"):
        load_table(tmp_path)


def test_a_schema_is_held_to_whatever_the_form(tmp_path):
    np.savez(tmp_path / "table.npz", **COLUMNS)
    schema = {"x": Column("float32", (3,)), "y": Column("uint8")}

    assert load_table(tmp_path / "table.npz", schema=schema).keys() == schema.keys()
    with pytest.raises(ShapeError, match="column 'y' must hold int64"):
        load_table(tmp_path / "table.npz", schema=schema | {"y": Column("int64")})


def test_objects_are_refused_without_being_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle from a table file was run",))

    np.savez(tmp_path / "table.npz", x=np.array([Bomb()], object))

    with pytest.raises(DecodeError, match="must hold plain numbers"):
        load_table(tmp_path / "table.npz")


def test_records_are_refused(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.zeros(3, [("a", "f4"), ("b", "i8")]))

    with pytest.raises(DecodeError, match="must hold plain numbers"):
        load_table(tmp_path / "table.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "table.npz", x=np.zeros(64 << 20, np.uint8))
    assert (tmp_path / "table.npz").stat().st_size < 1 << 20

    tracemalloc.start()
    with pytest.raises(DecodeError, match="raise max_bytes"):
        load_table(tmp_path / "table.npz", max_bytes=1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 << 20


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(-4,)", "(1099511627776, 0)"])
def test_a_header_that_promises_other_bytes_is_refused(tmp_path, shape):
    lying = npy(np.zeros(4, np.uint8)).replace(b"(4,), }" + b" " * 24, f"{shape}, }}".encode().ljust(31), 1)
    zipped(tmp_path / "table.npz", {"x.npy": lying})

    with pytest.raises((DecodeError, ShapeError)):
        load_table(tmp_path / "table.npz")


def test_a_directory_that_understates_the_size_is_refused(tmp_path):
    path = zipped(tmp_path / "table.npz", {"x.npy": npy(np.zeros(1 << 20, np.uint8))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)

    with pytest.raises(DecodeError):
        load_table(path, max_bytes=10_000)


def test_other_compressions_are_refused(tmp_path):
    zipped(tmp_path / "table.npz", {"x.npy": npy(COLUMNS["x"])}, zipfile.ZIP_LZMA)

    with pytest.raises(DecodeError, match="stored or deflated"):
        load_table(tmp_path / "table.npz")


def test_columns_of_unequal_length_are_refused_with_their_lengths(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.zeros(3), y=np.zeros(4))
    safetensors.numpy.save_file({"x": np.zeros(3), "y": np.zeros(4)}, tmp_path / "table.safetensors")

    for path in (tmp_path / "table.npz", tmp_path / "table.safetensors"):
        with pytest.raises(ShapeError, match=r"got \{'x': 3, 'y': 4\}"):
            load_table(path)


@pytest.mark.parametrize("array", [np.float64(3), np.zeros(0), np.zeros((3, 0))])
def test_an_array_without_examples_is_refused(tmp_path, array):
    np.savez(tmp_path / "table.npz", x=array)

    with pytest.raises(ShapeError, match="must have examples on its first axis"):
        load_table(tmp_path / "table.npz")


def test_a_file_without_arrays_is_refused(tmp_path):
    zipped(tmp_path / "table.npz", {})
    zipped(tmp_path / "notes.npz", {"readme.txt": b"hello"})
    safetensors.numpy.save_file({}, tmp_path / "table.safetensors")

    with pytest.raises(DecodeError, match="at least one array"):
        load_table(tmp_path / "table.npz")
    with pytest.raises(DecodeError, match=r"differently named \.npy arrays"):
        load_table(tmp_path / "notes.npz")
    with pytest.raises(DecodeError, match="at least one array"):
        load_table(tmp_path / "table.safetensors")


def test_what_is_no_table_file_is_refused(tmp_path):
    (tmp_path / "table.txt").write_text("a,b\n")
    (tmp_path / "table.npz").write_bytes(b"not a zip")
    (tmp_path / "table.safetensors").write_bytes(b"\xff" * 64)

    for mapped in (False, True):
        with pytest.raises(SettingsError, match=r"a \.npz(, | or )\.safetensors"):
            load_table(tmp_path / "table.txt", mapped=mapped)
    with pytest.raises(SettingsError, match="must be an existing file"):
        load_table(tmp_path / "absent.npz")
    with pytest.raises(DecodeError, match=r"readable \.npz"):
        load_table(tmp_path / "table.npz")
    with pytest.raises(DecodeError, match=r"readable \.safetensors"):
        load_table(tmp_path / "table.safetensors")


def test_a_large_safetensors_file_is_refused(tmp_path):
    safetensors.numpy.save_file(COLUMNS, tmp_path / "table.safetensors")

    with pytest.raises(DecodeError, match="at most 10 bytes"):
        load_table(tmp_path / "table.safetensors", max_bytes=10)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".npz", ".safetensors"]), mapped=st.booleans())
def test_a_damaged_file_gives_a_fedmb_error_or_a_table(tmp_path, data, suffix, mapped):
    path = tmp_path / f"table{suffix}"
    if suffix == ".npz":
        (np.savez if mapped else np.savez_compressed)(path, **COLUMNS)
    else:
        safetensors.numpy.save_file(COLUMNS, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])

    try:
        loaded = load_table(path, mapped=mapped, max_bytes=1 << 20)
    except FedmbError:
        return
    assert len({len(column) for column in loaded.values()}) == 1
