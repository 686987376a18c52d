import os
import random

import numpy as np
import pytest

from fedmb.batch.minibatch import Column
from fedmb.errors import AlreadyOwned, CorruptRing, SettingsError
from fedmb.replay.ring_layout import PAGE
from fedmb.replay.row_commits import SECTOR, RowCommits

BY_SLOT = {"code": Column("int64"), "times": Column("uint32")}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "commits"


def test_the_last_commit_and_what_is_known_of_slots_are_there_again(path):
    commits = RowCommits(path, BY_SLOT, 9)
    for number in range(5):
        commits.columns["code"][number] = number + 1
        commits.commit(number, number // 2)
    commits.flush()
    commits.close()

    again = RowCommits(path, BY_SLOT, 9)

    assert again.last[1:] == (4, 2)
    assert again.columns["code"].tolist() == [1, 2, 3, 4, 5, 0, 0, 0, 0]
    assert again.columns["times"].dtype == np.uint32
    again.close()


def test_a_table_in_order_needs_no_columns(path):
    commits = RowCommits(path, {}, 10**9)
    commits.commit(7, 3)
    commits.close()

    assert path.stat().st_size == 2 * PAGE
    again = RowCommits(path, {}, 10**9)
    assert again.last[1:] == (7, 3)
    again.close()


def test_a_torn_commit_leaves_the_one_before_it(path):
    commits = RowCommits(path, BY_SLOT, 3)
    for number in range(6):
        commits.commit(number, 0)
    commits.close()
    whole, chance = path.read_bytes(), random.Random(1)

    for _ in range(100):
        data = bytearray(whole)
        data[PAGE + chance.randrange(28)] ^= 1 << chance.randrange(8)  # the slot of the last commit, an even number
        path.write_bytes(data)
        again = RowCommits(path, BY_SLOT, 3)
        assert again.last.appended == 4
        again.close()


def test_without_a_whole_commit_the_file_is_refused(path):
    commits = RowCommits(path, BY_SLOT, 3)
    commits.commit(1, 0)
    commits.close()
    data = bytearray(path.read_bytes())
    data[PAGE] ^= 1
    data[PAGE + SECTOR] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptRing, match="both commit slots fail their checksum; delete its folder"):
        RowCommits(path, BY_SLOT, 3)


def test_a_file_that_is_cut_off_is_refused(path):
    commits = RowCommits(path, BY_SLOT, 3)
    commits.commit(1, 0)
    commits.close()
    os.truncate(path, 2 * PAGE)

    with pytest.raises(CorruptRing, match="it is cut off at 8192 bytes"):
        RowCommits(path, BY_SLOT, 3)


def test_a_making_that_was_cut_off_is_begun_again(path):
    RowCommits(path, BY_SLOT, 3).close()
    os.truncate(path, 2 * PAGE)

    again = RowCommits(path, BY_SLOT, 3)

    assert again.last == (0, 0, 0)
    again.close()


def test_the_file_has_one_owner_and_one_description(path):
    commits = RowCommits(path, BY_SLOT, 3)
    with pytest.raises(AlreadyOwned):
        RowCommits(path, BY_SLOT, 3)
    commits.close()

    with pytest.raises(SettingsError, match="must fit its settings"):
        RowCommits(path, BY_SLOT, 4)
    with pytest.raises(SettingsError, match="must fit its settings"):
        RowCommits(path, {}, 3)
    RowCommits(path, BY_SLOT, 3).close()


def test_whoever_holds_a_column_does_not_hold_the_file(path):
    commits = RowCommits(path, BY_SLOT, 3)
    held = commits.columns["code"]
    commits.close()

    again = RowCommits(path, BY_SLOT, 3)
    again.columns["code"][1] = 5

    assert held[1] == 5
    again.close()
