import functools

import numpy as np
import pytest
from modelled_table import SCHEMA, rows

from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir

EXACT = {
    "fifo": Fifo,
    "lifo": Lifo,
    "reservoir": functools.partial(Reservoir, seed=3),
    "lowest": LowestPriority,
}


def ids_of(table, turns, start=0):
    found = []
    for count in turns:
        found.append(table.append(rows(start, count)).tolist())
        start += count
        if len(table) > 4:
            ids = np.array([one for one in found[-1] if one >= 0][:1], np.int64)
            table.reprioritize(ids, np.full(len(ids), 1.0))
    return found


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("snapshot_after", [None, 0, 2, 5])
@pytest.mark.parametrize("most", [None, 4])
def test_a_remover_knows_what_it_would_know_had_it_never_been_away(tmp_path, name, snapshot_after, most):
    turns = [3, 4, 2, 7, 1, 5]
    here = ReplayTable(SCHEMA, 10, remover=EXACT[name](), max_times_sampled=most)
    away = ReplayTable.mapped(tmp_path, SCHEMA, 10, remover=EXACT[name](), max_times_sampled=most)
    for step, count in enumerate(turns):
        start = sum(turns[:step])
        assert here.append(rows(start, count)).tolist() == away.append(rows(start, count)).tolist()
        if step == snapshot_after:
            away.snapshot()
    away.close()

    again = ReplayTable.mapped(tmp_path, SCHEMA, 10, remover=EXACT[name](), max_times_sampled=most)

    assert ids_of(again, [1, 4, 1, 12, 3], 22) == ids_of(here, [1, 4, 1, 12, 3], 22)
    again.close()


def test_rows_are_told_to_the_sampler_in_the_order_in_which_they_came(tmp_path):
    away = ReplayTable.mapped(tmp_path, SCHEMA, 10, sampler=Recency(1.0), remover=Lifo())
    away.append(rows(0, 25))
    away.close()

    again = ReplayTable.mapped(tmp_path, SCHEMA, 10, sampler=Recency(1.0), remover=Lifo())
    drawn = np.concatenate([again.sample(50).columns["number"] for _ in range(40)])
    again.close()

    counts = [int(np.sum(drawn == number)) for number in (24, 8, 7, 6)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0.4 * len(drawn)


def test_balanced_classes_stay_balanced(tmp_path):
    def label(first, count, rare):
        columns = rows(first, count)
        columns["label"] = np.where(np.arange(count) % 10 == 0, rare, 0).astype(np.uint8)
        return columns

    away = ReplayTable.mapped(tmp_path, SCHEMA, 20, remover=ClassBalanced("label"))
    away.append(label(0, 100, 1))
    away.snapshot()
    away.append(label(100, 100, 2))
    away.close()

    again = ReplayTable.mapped(tmp_path, SCHEMA, 20, remover=ClassBalanced("label"))
    again.append(label(200, 100, 3))
    found = again.state_dict()["rows"]["label"]
    again.close()

    assert np.bincount(found).tolist() == [5, 5, 5, 5]


def test_priorities_of_rows_before_the_snapshot_still_decide(tmp_path):
    away = ReplayTable.mapped(tmp_path, SCHEMA, 4, remover=LowestPriority())
    away.append(rows(0, 4), priorities=np.array([5.0, 1.0, 7.0, 3.0]))
    away.snapshot()
    away.append(rows(4, 1), priorities=np.array([6.0]))
    away.close()

    again = ReplayTable.mapped(tmp_path, SCHEMA, 4, remover=LowestPriority())
    again.append(rows(5, 1), priorities=np.array([9.0]))
    found = sorted(again.state_dict()["rows"]["number"].tolist())
    again.close()

    assert found == [0, 2, 4, 5]


def test_a_table_that_was_never_written_is_empty(tmp_path):
    ReplayTable.mapped(tmp_path, SCHEMA, 4, remover=ClassBalanced("label")).close()

    again = ReplayTable.mapped(tmp_path, SCHEMA, 4, remover=ClassBalanced("label"))

    assert len(again) == 0
    assert again.append(rows(0, 2)).tolist() == [0, 1]
    again.close()
