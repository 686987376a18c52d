"""A table in a folder, opened again: the rows that are whole, and everything else as the newest snapshot has it.

Where nothing was appended since the snapshot, the table goes on bit for bit. Rows that were appended since are there
too; the sampler takes them as new ones, with the priority that it gives to those, and the generator goes on where it
stood at the snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import CorruptSnapshot
from fedmb.replay.remover_recovery import Survivors, check_recoverable, recover_remover
from fedmb.replay.snapshot import newest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedmb.replay.limiter import RateLimiter
    from fedmb.replay.row_commits import RowCommit
    from fedmb.replay.table_contents import TableContents


def reopen(contents: TableContents, limiter: RateLimiter | None, folder: Path) -> None:
    """Fill a new table, and its limiter, with what its folder holds.

    Raises:
        FedmbError: what `recover` raises, and `CorruptSnapshot` where all snapshots are damaged.
    """
    state = newest(folder)
    recover(contents, state)
    if limiter is not None:
        limiter.recover(contents.ids.appended, len(contents.ids), None if state is None else state["limiter"])


def recover(contents: TableContents, state: dict[str, Any] | None) -> None:
    """Fill a new table with what its commits and its newest snapshot, if there is one, say.

    Raises:
        SettingsError: its remover cannot be told which rows are there.
        ShapeError: the snapshot is of a table of other settings.
        CorruptSnapshot: the snapshot is newer than the rows.
    """
    commits = contents.commits
    assert commits is not None, "a table without commits cannot be recovered"
    if contents.fifo is None:
        check_recoverable(contents.remover)
    last, capacity = commits.last, contents.store.capacity
    then = 0
    if state is not None:
        contents.check_state(state)
        then = int(state["ids"]["appended"])
        if then > last.appended:
            raise CorruptSnapshot(
                f"a snapshot must not be newer than the table's rows, it has seen {then} and they are {last.appended}; "
                "delete the folder's snapshots to go on with the rows alone"
            )
        contents.load_policies(state)
    before = np.zeros(capacity, np.int64) if state is None else _codes(state["ids"], capacity)
    if contents.fifo is None:
        now, number = commits.columns["code"], commits.columns["number"]
        _give_up_half_written(contents, last)
    else:
        now = _codes({"appended": last.appended, "oldest": last.oldest}, capacity)
        number = now - 1
    is_fresh, was_there = (now > 0) & (now != before), before > 0
    if len(gone := np.flatnonzero(was_there & (now != before) & ~is_fresh)):
        contents.sampler.drop(gone)
    slots = np.flatnonzero(now > 0)
    slots = slots[np.argsort(number[slots])]
    if is_fresh.any():
        contents.sampler.store(slots[is_fresh[slots]], None)
    if contents.fifo is None and (then != last.appended or (now != before).any()):
        survivors = Survivors(contents.store, last.appended, slots, number[slots], is_fresh[slots])
        recover_remover(contents.remover, survivors)
    contents.adopt(last.appended, last.oldest, slots)


def _codes(ids: dict[str, Any], capacity: int) -> NDArray[np.int64]:
    """By slot, the id + 1 of its row; 0 or below where there is none."""
    if "code" in ids:
        return np.asarray(ids["code"])
    codes = np.zeros(capacity, np.int64)
    numbers = np.arange(ids["oldest"], ids["appended"])
    codes[numbers % capacity] = numbers + 1
    return codes


def _give_up_half_written(contents: TableContents, last: RowCommit) -> None:
    """Rows of an append that did not end are gone, and so are rows that were drawn for the last time."""
    commits = contents.commits
    assert commits is not None, "as `recover` found"
    code = commits.columns["code"]
    gone = (code > 0) & (commits.columns["number"] >= last.appended)
    if contents.limit is not None:
        gone |= (code > 0) & (commits.columns["times"] >= contents.limit.most)
    code[gone] *= -1
