import itertools
import threading

import numpy as np
import pytest
from modelled_table import REMOVERS, SAMPLERS, ModelledTable, make, rows
from safetensors.numpy import load_file

from fedmb.errors import CorruptSnapshot, SettingsError, ShapeError
from fedmb.replay import table_snapshot


def go_on(table, start):
    """Six turns, and everything that is seen in them."""
    seen = []
    for step in range(6):
        seen.append(table.append(rows(start + 4 * step, 4), priorities=1.0 + np.arange(4) * step).tolist())
        sample = table.sample(3)
        table.reprioritize(sample.ids, np.arange(3.0) + step)
        weights = None if sample.weights is None else sample.weights.tobytes()
        seen.append((sample.ids.tolist(), weights, {name: one.tobytes() for name, one in sample.columns.items()}))
    return seen


@pytest.mark.parametrize(("sampler", "remover"), list(itertools.product(SAMPLERS, REMOVERS)))
@pytest.mark.parametrize("most", [None, 3])
def test_a_restored_table_goes_on_bit_for_bit(tmp_path, sampler, remover, most, monkeypatch):
    monkeypatch.setattr(table_snapshot, "PIECE", 100)  # a few rows: the table is written in many pieces
    table = make(sampler, remover, most=most, limited=True, skips=True)
    go_on(table, 0)
    table.snapshot(tmp_path)
    seen = go_on(table, 24)

    restored = make(sampler, remover, most=most, limited=True, skips=True, seed=99)
    restored.restore(tmp_path)

    assert go_on(restored, 24) == seen
    assert repr(restored.state_dict()) == repr(table.state_dict())


def test_a_snapshot_holds_the_rows_as_columns_that_others_can_read(tmp_path):
    table = make("uniform", "fifo")
    table.append(rows(0, 13))

    found = load_file(table.snapshot(tmp_path))

    assert found["rows.number"].tolist() == list(range(3, 13))
    assert found["rows.x"][0].tolist() == [3.0, -3.0, 6.0]


def test_a_table_in_a_folder_keeps_its_rows_out_of_its_snapshots_but_not_of_others(tmp_path):
    table = make("uniform", "fifo", folder=tmp_path / "own")
    table.append(rows(0, 5))

    assert not any(name.startswith("rows") for name in load_file(table.snapshot()))
    assert not any(name.startswith("rows") for name in load_file(table.snapshot(tmp_path / "own")))
    assert load_file(table.snapshot(tmp_path / "copy"))["rows.number"].tolist() == [0, 1, 2, 3, 4]

    other = make("uniform", "fifo")
    other.restore(tmp_path / "copy")
    assert other.sample(9).ids.tolist() == table.sample(9).ids.tolist()
    with pytest.raises(SettingsError, match=r"there must be a snapshot with rows to restore, .* has none"):
        other.restore(tmp_path / "own")
    with pytest.raises(SettingsError, match="a table in a folder goes on by itself"):
        table.restore(tmp_path / "copy")
    table.close()


def test_rows_that_are_used_up_stay_while_windows_may_reach_over_them():
    table = make("uniform", "fifo", most=1)
    table.append(rows(0, 10))
    table.sample(4)

    assert len(table) == 6
    assert table.state_dict()["rows"]["number"].tolist() == list(range(10))


def test_a_place_without_a_snapshot_is_refused(tmp_path):
    table = make("uniform", "fifo")

    with pytest.raises(SettingsError, match="a snapshot needs a folder, got none"):
        table.snapshot()
    with pytest.raises(SettingsError, match="there must be a snapshot with rows to restore"):
        table.restore(tmp_path)
    with pytest.raises(FileNotFoundError):
        table.restore(tmp_path / "absent")


def test_the_snapshot_before_a_damaged_one_is_restored(tmp_path):
    table = make("uniform", "fifo")
    table.append(rows(0, 3))
    table.snapshot(tmp_path)
    table.append(rows(3, 3))
    damaged = table.snapshot(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-1])

    other = make("uniform", "fifo")
    other.restore(tmp_path)

    assert len(other) == 3
    with pytest.raises(CorruptSnapshot):
        other.restore(damaged)
    with pytest.raises(ShapeError, match="must fit its settings"):
        make("uniform", "lifo").restore(tmp_path)


def test_snapshots_are_whole_while_others_append_and_draw(tmp_path):
    table, stop = make("prioritized", "fifo", capacity=500), threading.Event()
    table.append(rows(0, 500))
    failures = []

    def work():
        start = 500
        while not stop.is_set():
            table.append(rows(start, 50))
            sample = table.sample(20)
            table.reprioritize(sample.ids, np.ones(20))
            start += 50

    def watched():
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told by the assertion below
            failures.append(error)

    thread = threading.Thread(target=watched)
    thread.start()
    for _ in range(10):
        other = make("prioritized", "fifo", capacity=500)
        other.restore(table.snapshot(tmp_path))
        found = other.state_dict()["rows"]["number"]
        assert np.array_equal(found, np.arange(found[0], found[0] + 500))
        model = ModelledTable(other)
        model.rows = {int(number) % 500: [int(number), int(number), 0] for number in found}
        model.appended, model.sampled = int(found[-1]) + 1, other.statistics().sampled
        model.reprioritized = other.statistics().reprioritized
        model.sample(30)
    stop.set()
    thread.join()

    assert failures == []
