import errno
import json
import os
import random

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedmb.errors import CorruptSnapshot, VersionMismatch
from fedmb.replay import snapshot
from fedmb.replay.snapshot import Streamed

STATE = {
    "text": "a",
    "none": None,
    "big": 1 << 100,
    "third": 1 / 3,
    "list": [1, [2.5, "b"], {"deep": np.arange(3)}],
    "empty": np.empty((0, 4), np.float32),
    "arrays": {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64", "complex128")
    },
    "scalar": np.array(7.5),
    "numpy": np.int64(4),
}


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_state_comes_back_as_it_was(tmp_path):
    path = snapshot.save(tmp_path / "new" / "folder", STATE)

    assert same(STATE, snapshot.load(path))
    assert same(STATE, snapshot.newest(tmp_path / "new" / "folder"))
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_any_safetensors_library_reads_its_arrays(tmp_path):
    found = load_file(snapshot.save(tmp_path, {"rows": {"x": np.arange(6.0).reshape(2, 3)}, "y": np.int64(4)}))

    assert found.keys() == {"rows.x"}
    assert found["rows.x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_array_written_in_pieces_is_the_whole_one(tmp_path):
    whole = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    pieces = Streamed(whole.dtype, whole.shape, (whole[start : start + 70] for start in range(0, 1000, 70)))

    assert same(snapshot.load(snapshot.save(tmp_path, {"x": pieces})), {"x": whole})


def test_the_newest_two_generations_are_kept(tmp_path):
    for number in range(4):
        snapshot.save(tmp_path, {"number": number})

    assert [version for version, _ in snapshot.generations(tmp_path)] == [3, 4]
    assert snapshot.newest(tmp_path) == {"number": 3}
    assert snapshot.load(snapshot.generations(tmp_path)[0][1]) == {"number": 2}


def test_a_snapshot_is_for_its_owner_alone(tmp_path):
    path = snapshot.save(tmp_path, STATE)

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_without_snapshots_has_none(tmp_path):
    assert snapshot.newest(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        snapshot.newest(tmp_path / "absent")


def test_a_snapshot_torn_or_changed_anywhere_is_refused_and_the_one_before_is_used(tmp_path):
    snapshot.save(tmp_path, {"number": 1, "x": np.arange(100)})
    path = snapshot.save(tmp_path, {"number": 2, "x": np.arange(100)})
    whole = path.read_bytes()
    chance = random.Random(7)

    for tear in range(300):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        if tear % 3 == 0:
            del data[at:]
        elif tear % 3 == 1:
            data[at] ^= 1 << chance.randrange(8)
        else:
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        if bytes(data) == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(CorruptSnapshot):
            snapshot.load(path)
        assert snapshot.newest(tmp_path)["number"] == 1

    path.write_bytes(whole)
    assert snapshot.newest(tmp_path)["number"] == 2


def test_where_no_snapshot_is_whole_it_is_said(tmp_path):
    for _ in range(2):
        snapshot.save(tmp_path, {"x": np.arange(9)}).write_bytes(b"")

    with pytest.raises(CorruptSnapshot, match=r"all 2 in .* are damaged; delete them to begin anew"):
        snapshot.newest(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"1234567", b"\xff" * 64, bytes(64), (9).to_bytes(8, "little") + b'{"a": 1} ']
)
def test_a_foreign_file_is_no_snapshot(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)

    with pytest.raises(CorruptSnapshot):
        snapshot.load(path)


def foreign(path, about, data=b"12345678", offsets=(0, 8)):
    header = json.dumps(
        {"__metadata__": {"fedmb": json.dumps(about)}, "x": {"dtype": "I64", "shape": [1], "data_offsets": offsets}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    "mark",
    [
        {"$array": "x", "dtype": "object", "shape": [1]},
        {"$array": "x", "dtype": "int64", "shape": [2]},
        {"$array": "x", "dtype": "nonsense", "shape": [1]},
        {"$array": "y", "dtype": "int64", "shape": [1]},
    ],
)
def test_a_mark_that_does_not_fit_its_array_is_refused(tmp_path, mark):
    with pytest.raises(CorruptSnapshot):
        snapshot.load(foreign(tmp_path / "x", {"format": 1, "state": {"a": mark}}))


def test_another_format_is_said_to_be_one(tmp_path):
    with pytest.raises(VersionMismatch, match="a snapshot must have format 1, got 2"):
        snapshot.load(foreign(tmp_path / "x", {"format": 2, "state": {}}))


def test_a_full_disk_leaves_the_generations_before_and_nothing_else(tmp_path, monkeypatch):
    path = snapshot.save(tmp_path, {"number": 1})

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space") as refused:
        snapshot.save(tmp_path, {"number": 2})

    assert refused.value.filename.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_source_of_pieces_leaves_nothing(tmp_path):
    def fail():
        yield np.zeros(1)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        snapshot.save(tmp_path, {"x": Streamed(np.dtype(float), (2,), fail())})

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleaned_up(tmp_path):
    left, alive = tmp_path / ".snapshot-4194304999-ab.tmp", tmp_path / f".snapshot-{os.getpid()}-ab.tmp"
    left.touch()
    alive.touch()

    path = snapshot.save(tmp_path, {})

    assert sorted(tmp_path.iterdir()) == sorted([alive, path])
