"""Whatever has learnt of a stream says up to where."""

import json
from contextlib import closing

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import SettingsError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.stream_ledger import ledger_at
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.stream_ring import StreamRing

FIRST, SECOND = (StreamPartition("log", "rows", number) for number in (0, 1))
LEDGER = Ledger({FIRST: Position(7, 2), SECOND: Position(3)})


def ring(path):
    made = StreamRing(path, {"x": Column("float32")}, [FIRST, SECOND], max_rows=64)
    made.append({"x": np.zeros(2, np.float32)}, np.zeros(2, int), np.zeros(2, int), np.arange(2), 1 - np.arange(2))
    made.pass_over({SECOND: Position(5)})
    return made


IN_RING = Ledger({FIRST: Position(1), SECOND: Position(5)})


def test_a_run_stands_where_its_newest_checkpoint_does(tmp_path):
    for version in (1, 2):
        ledger = Ledger({FIRST: Position(version)}) if version == 1 else LEDGER
        file = checkpoint.save(tmp_path / "checkpoints", ServerState(version, {"w": np.zeros(2)}, ledger))

    assert ledger_at(tmp_path) == LEDGER
    assert ledger_at(file) == LEDGER


def test_a_ring_is_asked_while_its_daemon_has_it(tmp_path):
    with closing(ring(tmp_path / "rows.ring")):
        assert ledger_at(tmp_path / "rows.ring") == IN_RING


def test_a_directory_stands_where_the_rings_in_it_do(tmp_path):
    with closing(ring(tmp_path / "rows.ring")):
        assert ledger_at(tmp_path) == IN_RING


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_a_ring_that_is_being_made_stands_nowhere(content, tmp_path):
    (tmp_path / "rows.ring").write_bytes(content)

    assert ledger_at(tmp_path / "rows.ring") == Ledger()


@pytest.mark.parametrize("content", [LEDGER.to_json(), {"ledger": LEDGER.to_json()}])
def test_a_ledger_in_json_is_read(content, tmp_path):
    (tmp_path / "ledger.json").write_text(json.dumps(content))

    assert ledger_at(tmp_path / "ledger.json") == LEDGER


def test_a_run_without_a_checkpoint_has_learnt_nothing(tmp_path):
    (tmp_path / "checkpoints").mkdir()

    assert ledger_at(tmp_path) == Ledger()


def test_what_has_no_ledger_is_refused(tmp_path):
    (tmp_path / "text").write_text("no")
    (tmp_path / "list").write_text("[1]")

    for name in (".", "none", "text", "list"):
        with pytest.raises(SettingsError, match="a ledger"):
            ledger_at(tmp_path / name)
