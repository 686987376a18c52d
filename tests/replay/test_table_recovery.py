"""What a folder holds at every step of an append is what a process leaves that is killed there."""

import itertools
import shutil
from contextlib import closing

import numpy as np
import pytest
from modelled_table import REMOVERS, SAMPLERS, make, rows, same_rows

from fedmb.errors import CorruptRing, CorruptSnapshot, SettingsError
from fedmb.replay.remover import Fifo
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.row_commits import RowCommits
from fedmb.replay.row_ids import SlotIds
from fedmb.replay.row_store import RowStore

KINDS = list(itertools.product(REMOVERS, [None, 2]))


def contents(table):
    """Number of each row, by id, as the files have it."""
    known = table._contents
    slots = known.view.slots_in_order() if known.fifo is not None else known.ids.held()
    found = known.store.read(slots)
    assert same_rows(found), "a row is torn"
    return dict(zip(known.ids.ids_of(slots).tolist(), found["number"].tolist(), strict=True))


@pytest.fixture
def kill_points(tmp_path, monkeypatch):
    """Copies of the folder, taken before and after each thing that an append writes."""
    copies, folder = [], tmp_path / "table"

    def copy():
        copies.append(shutil.copytree(folder, tmp_path / f"killed-{len(copies)}"))

    def copying(whole):
        def step(self, *arguments):
            copy()
            result = whole(self, *arguments)
            copy()
            return result

        return step

    def write_by_halves(self, slots, columns):
        half = len(columns["number"]) // 2
        torn = {name: column.copy() for name, column in columns.items()}
        torn["number"][half:] = -1
        torn["x"][:half] = -1
        write(self, slots, torn)
        copy()
        write(self, slots, columns)

    write = RowStore.write
    for kind, name in ((RowCommits, "commit"), (SlotIds, "give_up"), (SlotIds, "assign")):
        monkeypatch.setattr(kind, name, copying(getattr(kind, name)))
    monkeypatch.setattr(RowStore, "write", write_by_halves)
    yield copies
    monkeypatch.undo()


@pytest.mark.parametrize(("remover", "most"), KINDS)
@pytest.mark.parametrize("with_snapshot", [False, True])
def test_killed_anywhere_in_an_append_no_row_before_it_is_lost_and_none_is_torn(
    tmp_path, kill_points, remover, most, with_snapshot
):
    table = make("prioritized", remover, most=most, folder=tmp_path / "table")
    for start in range(0, 21, 3):
        table.append(rows(start, 3))
        if start == 12 and with_snapshot:
            table.snapshot()
        if most:
            table.sample(2)
    before, begin = contents(table), len(kill_points)
    ids = table.append(rows(21, 4)).tolist()
    after, end = contents(table), len(kill_points)
    table.close()
    given = {one for one in ids if one >= 0}

    assert end - begin >= 3
    for folder in kill_points[begin:end]:
        with opened(remover, most, folder) as resumed:
            found = contents(resumed)
            appended = resumed.statistics().appended
            assert found.items() <= before.items() | after.items()
            assert found.items() >= before.items() & after.items(), "a row that nobody overwrites is lost"
            assert found.keys().isdisjoint(given) or (found == after and appended == 25)
            assert appended in {21, 25}
            assert len(resumed) == len(found)
            new = set(resumed.append(rows(25, 6)).tolist()) - {-1}
            assert new.isdisjoint(before.keys() | (given if appended == 25 else set())), "an id was given twice"
            contents(resumed)
            resumed.sample(min(3, len(resumed)))


def opened(remover, most, folder):
    return closing(make("prioritized", remover, most=most, folder=folder))


def test_a_row_appended_alone_is_there_once_it_was_acknowledged(tmp_path, kill_points):
    table = make("uniform", "fifo", folder=tmp_path / "table")
    table.append(rows(0, 12))
    begin = len(kill_points)
    table.append_row([column[0] for column in rows(12, 1).values()])
    table.close()

    kept = [set(range(2, 12))] + [set(range(3, 12))] * 2 + [set(range(3, 13))]
    for folder, wanted in zip(kill_points[begin:], kept, strict=True):
        with opened("fifo", None, folder) as resumed:
            assert set(contents(resumed)) == wanted


@pytest.mark.parametrize(("sampler", "remover"), list(itertools.product(SAMPLERS, REMOVERS)))
@pytest.mark.parametrize("most", [None, 3])
def test_a_table_that_was_closed_behind_a_snapshot_goes_on_bit_for_bit(tmp_path, sampler, remover, most):
    def go_on(table, start):
        seen = []
        for step in range(6):
            seen.append(table.append(rows(start + 4 * step, 4)).tolist())
            sample = table.sample(3)
            table.reprioritize(sample.ids, np.arange(3.0) + step)
            seen.append((sample.ids.tolist(), None if sample.weights is None else sample.weights.tolist()))
        return seen

    table = make(sampler, remover, most=most, folder=tmp_path / "table", limited=True)
    go_on(table, 0)
    table.snapshot()
    shutil.copytree(tmp_path / "table", tmp_path / "other")
    seen, statistics = go_on(table, 24), table.statistics()
    table.close()

    other = make(sampler, remover, most=most, folder=tmp_path / "other", limited=True, seed=99)
    assert go_on(other, 24) == seen
    found = other.statistics()
    assert (found.appended, found.rows, found.sampled) == (statistics.appended, statistics.rows, statistics.sampled)
    assert found.limiter.difference == statistics.limiter.difference
    other.close()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_that_came_after_the_snapshot_are_new_ones_to_the_sampler(tmp_path, sampler):
    table = make(sampler, "fifo", folder=tmp_path / "table")
    table.append(rows(0, 8))
    table.snapshot()
    table.append(rows(8, 5))
    table.close()

    resumed = make(sampler, "fifo", folder=tmp_path / "table")
    assert contents(resumed) == {number: number for number in range(3, 13)}
    assert set(np.concatenate([resumed.sample(5).ids for _ in range(80)]).tolist()) == set(range(3, 13))
    resumed.close()


def test_a_snapshot_newer_than_the_rows_is_refused(tmp_path):
    table = make("uniform", "fifo", folder=tmp_path / "table")
    table.append(rows(0, 8))
    shutil.copytree(tmp_path / "table", tmp_path / "old")
    table.append(rows(8, 5))
    newest = table.snapshot()
    table.close()
    shutil.copy(newest, tmp_path / "old")

    with pytest.raises(CorruptSnapshot, match="it has seen 13 and they are 8; delete the folder's snapshots"):
        make("uniform", "fifo", folder=tmp_path / "old")

    (tmp_path / "old" / newest.name).unlink()
    make("uniform", "fifo", folder=tmp_path / "old").close()  # nothing holds the folder


def test_a_folder_whose_rows_are_gone_is_refused(tmp_path):
    table = make("uniform", "fifo", folder=tmp_path / "table")
    table.append(rows(0, 8))
    table.close()
    (tmp_path / "table" / "rows").unlink()

    with pytest.raises(CorruptRing, match="must lie beside its commits, it is gone"):
        make("uniform", "fifo", folder=tmp_path / "table")


def test_a_remover_of_somebody_elses_is_refused(tmp_path):
    class Own(Fifo):
        pass

    with pytest.raises(SettingsError, match=r"needs a remover of .*'Fifo', 'Lifo', .* got Own"):
        ReplayTable.mapped(tmp_path / "table", make("uniform", "fifo").schema, 10, remover=Own())
