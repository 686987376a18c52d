import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save as save_safetensors

from fedmb.errors import CorruptCheckpoint, VersionMismatch
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import Checkpoints, ServerState
from fedmb.ledger import Ledger, Position, StreamPartition


def state(version=3):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3) + version, "seen": np.array(7, np.int64)}
    ledger = Ledger({StreamPartition("site", "digits", 1): Position(40, 3)})
    learnt = {"a": {"private": 12}, "b": {"stream": 5}}
    return ServerState(version, arrays, ledger, {"b": {"cursor": 2}, "a": {"epoch": 1}}, learnt=learnt, seed=9)


def assert_same(one, other):
    for name in ("version", "ledger", "positions", "silence", "learnt", "seed"):
        assert getattr(one, name) == getattr(other, name)
    assert one.arrays.keys() == other.arrays.keys()
    assert all(
        np.array_equal(array, other.arrays[name]) and array.dtype == other.arrays[name].dtype
        for name, array in one.arrays.items()
    )


def test_a_state_makes_the_round_trip(tmp_path):
    path = checkpoint.save(tmp_path, state())

    assert_same(checkpoint.load(path), state())


def test_equal_states_give_equal_bytes_in_every_process():
    script = (
        "import hashlib, runpy; from fedmb.federation.checkpoint import to_bytes;"
        f"state = runpy.run_path({__file__!r})['state']; print(hashlib.sha256(to_bytes(state())).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }

    assert len(digests) == 1


def test_the_newest_generation_is_found_and_two_are_kept(tmp_path):
    for version in range(1, 6):
        checkpoint.save(tmp_path, state(version))

    assert [version for version, _ in checkpoint.generations(tmp_path)] == [4, 5]
    assert_same(checkpoint.newest(tmp_path), state(5))


def aged(directory, version, hours):
    """Save a version and let its file look so many hours old."""
    path = checkpoint.save(directory, state(version), Checkpoints(keep_hours=math.inf))
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def versions(directory):
    return [version for version, _ in checkpoint.generations(directory)]


def test_so_many_versions_are_kept_as_asked(tmp_path):
    for version in range(1, 9):
        checkpoint.save(tmp_path, state(version), Checkpoints(keep=5))

    assert versions(tmp_path) == [4, 5, 6, 7, 8]


def test_versions_are_kept_by_age(tmp_path):
    for version, hours in enumerate((9, 7, 5, 3, 1), start=1):
        aged(tmp_path, version, hours)
    checkpoint.save(tmp_path, state(6), Checkpoints(keep_hours=6))

    assert versions(tmp_path) == [3, 4, 5, 6]


def test_milestones_are_kept_for_good(tmp_path):
    for version in range(1, 14):
        checkpoint.save(tmp_path, state(version), Checkpoints(keep_every=5))

    assert versions(tmp_path) == [5, 10, 12, 13]


def test_the_newest_two_are_kept_however_old(tmp_path):
    for version in (1, 2, 3):
        aged(tmp_path, version, 1000)
    checkpoint.save(tmp_path, state(4), Checkpoints(keep_hours=1))

    assert versions(tmp_path) == [3, 4]
    with pytest.raises(ValidationError):
        Checkpoints(keep=1)


def test_everything_but_the_model_is_read_without_it(tmp_path):
    path = checkpoint.save(tmp_path, state())
    found = checkpoint.load_without_arrays(path)

    assert (found.ledger, found.positions, found.learnt) == (state().ledger, state().positions, state().learnt)
    assert not found.arrays
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorruptCheckpoint):
        checkpoint.load_without_arrays(path)


def test_a_file_from_before_rows_were_counted_by_client_is_read():
    about = {"format": 1, "version": 2, "seed": 0, "ledger": {}, "positions": {}, "convergence": {}}
    data = save_safetensors({"w": np.zeros(1)}, metadata={"fedmb": json.dumps(about)})

    assert (checkpoint.from_bytes(data).learnt, checkpoint.from_bytes(data).silence) == ({}, {})


def test_nothing_saved_is_no_error(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


def test_a_file_torn_or_flipped_anywhere_is_set_aside_for_the_older_one(tmp_path):
    checkpoint.save(tmp_path, state(1))
    path = checkpoint.save(tmp_path, state(2))
    whole = path.read_bytes()
    rng = random.Random(4)
    for _ in range(200):
        place = rng.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(whole[:place] if rng.random() < 0.5 else bytes(flipped))

        assert_same(checkpoint.newest(tmp_path), state(1))


def test_when_no_generation_is_whole_the_run_does_not_start_over_silently(tmp_path):
    path = checkpoint.save(tmp_path, state(1))
    path.write_bytes(b"")

    with pytest.raises(CorruptCheckpoint, match="all 1"):
        checkpoint.newest(tmp_path)


def test_an_unfinished_file_is_never_a_generation(tmp_path):
    path = checkpoint.save(tmp_path, state(1))
    (tmp_path / f".{path.name}.tmp").write_bytes(b"half")

    assert len(checkpoint.generations(tmp_path)) == 1


def test_bytes_that_are_no_checkpoint_are_refused():
    for data in (b"", b"PK\x03\x04", b"\x80\x04\x95.", bytes(64), b"\xff" * 64):
        with pytest.raises(CorruptCheckpoint):
            checkpoint.from_bytes(data)


def test_another_format_is_named(monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    data = checkpoint.to_bytes(state())
    monkeypatch.undo()

    with pytest.raises(VersionMismatch, match="format 1, got 99"):
        checkpoint.from_bytes(data)


def test_a_full_disk_leaves_the_older_generation_whole(tmp_path):
    checkpoint.save(tmp_path, state(1))
    program = f"""
import resource, signal, sys
from pathlib import Path
import numpy as np
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoint.save(Path({str(tmp_path)!r}), ServerState(2, {{"w": np.zeros(10_000)}}))
except OSError as error:
    print("refused:", error.strerror)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "File too large" in result.stdout
    assert_same(checkpoint.newest(tmp_path), state(1))
