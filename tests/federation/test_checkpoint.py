import random
import subprocess
import sys

import numpy as np
import pytest

from fedmb.errors import CorruptCheckpoint, VersionMismatch
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.ledger import Ledger, Position, StreamPartition


def state(version=3):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3) + version, "seen": np.array(7, np.int64)}
    ledger = Ledger({StreamPartition("site", "digits", 1): Position(40, 3)})
    return ServerState(version, arrays, ledger, {"b": {"cursor": 2}, "a": {"epoch": 1}}, seed=9)


def assert_same(one, other):
    assert (one.version, one.ledger, one.positions, one.seed) == (
        other.version,
        other.ledger,
        other.positions,
        other.seed,
    )
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
