import json

import numpy as np
import pytest
from numbered_ring import SCHEMA as STREAM_SCHEMA
from replay_service import SCHEMA, numbered

from fedmb.errors import AlreadyOwned, CorruptSnapshot, SettingsError
from fedmb.ledger import StreamPartition
from fedmb.replay.inspection import inspected
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.ring import Ring
from fedmb.replay.stream_ring import StreamRing


def test_a_ring_is_inspected_while_it_is_written(tmp_path):
    ring = Ring.mapped(tmp_path / "ring", SCHEMA, 20)
    ring.append(numbered(0, 25))

    found = inspected(tmp_path / "ring")

    assert (found["kind"], found["rows"], found["capacity"], found["appended"]) == ("ring", 20, 20, 25)
    assert found["ages"]["max"] == 19
    assert found["columns"]["x"] == ["float32", [5]]
    ring.close()


def test_a_ring_of_a_stream_is_inspected(tmp_path):
    ring = StreamRing(tmp_path / "ring", STREAM_SCHEMA, (StreamPartition("log", "topic", 0),), max_bytes=1 << 20)
    found = inspected(tmp_path / "ring")
    ring.close()

    assert (found["kind"], found["rows"], found["capacity"]) == ("ring of a stream", 0, ring.capacity)


def test_a_table_s_folder_is_inspected_once_nobody_has_it(tmp_path):
    table = ReplayTable.mapped(tmp_path / "t", SCHEMA, 10, sampler=Prioritized(alpha=1.0, epsilon=0.0))
    table.append(numbered(0, 14), priorities=np.arange(14.0))
    table.snapshot()
    with pytest.raises(AlreadyOwned) as refused:
        inspected(tmp_path / "t")
    table.close()

    found = inspected(tmp_path / "t")

    assert "HOST:PORT" in refused.value.__notes__[-1]
    assert (found["kind"], found["rows"], found["appended"]) == ("table", 10, 14)
    assert (found["ages"]["min"], found["ages"]["max"]) == (0, 9)
    assert found["priorities"]["max"] == 13
    assert found["snapshot"]["appended"] == 14


def test_a_folder_of_rows_in_any_order_knows_their_ages_and_draws(tmp_path):
    table = ReplayTable.mapped(tmp_path / "t", SCHEMA, 10, remover=Reservoir(), max_times_sampled=5)
    table.append(numbered(0, 200))
    table.sample(20)
    table.close()

    found = inspected(tmp_path / "t")

    assert found["rows"] == found["ages"]["count"] == found["times_sampled"]["count"]
    assert found["ages"]["max"] > 20
    assert found["times_sampled"]["mean"] == pytest.approx(20 / 10, rel=0.3)
    assert "snapshot" not in found


@pytest.mark.parametrize("remover", [None, Reservoir])
def test_a_snapshot_is_inspected_by_file_or_folder(tmp_path, remover):
    table = ReplayTable(SCHEMA, 10, remover=remover and remover())
    table.append(numbered(0, 14))
    path = table.snapshot(tmp_path)

    found = inspected(tmp_path)

    assert found == inspected(path)
    assert (found["kind"], found["rows"], found["appended"]) == ("snapshot", 10, 14)
    assert bool(found["ages"]) == (remover is None)
    json.dumps(found)


def test_what_is_damaged_or_none_of_ours_is_said(tmp_path):
    (tmp_path / "snapshot-000001-00000000.safetensors").write_bytes(b"nonsense")
    (tmp_path / "text").write_text("text")

    with pytest.raises(CorruptSnapshot):
        inspected(tmp_path / "snapshot-000001-00000000.safetensors")
    for place in (tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(SettingsError, match="there must be a ring"):
            inspected(place)
