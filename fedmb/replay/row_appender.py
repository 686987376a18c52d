"""One row into a table in which the oldest always goes first, in less than a microsecond.

The function is made for one table, with all it needs at hand: `with` would cost a tenth of it, a method another one.
The sampler hears of the row before its next draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import threading

    from fedmb.replay.row_commits import RowCommits
    from fedmb.replay.row_ids import FifoIds
    from fedmb.replay.row_store import RowStore

AppendRow: TypeAlias = Callable[[Sequence[Any]], None]


def row_appender(store: RowStore, ids: FifoIds, commits: RowCommits | None, lock: threading.Lock) -> AppendRow:
    """A function that copies one row in, whose values are in the order of the schema.

    Args:
        store: where rows lie.
        ids: of its rows.
        commits: what says which of them are whole, of a mapped table.
        lock: held while a row is copied.
    """
    write, capacity, acquire, release = store.write_row, store.capacity, lock.acquire, lock.release

    def append_row(row: Sequence[Any]) -> None:
        acquire()
        try:
            number = ids.appended
            write(number % capacity, row)
            ids.appended = number + 1
        finally:
            release()

    if commits is None:
        return append_row
    commit = commits.commit

    def append_and_commit(row: Sequence[Any]) -> None:
        with lock:
            if commits.is_closed:  # whoever kept this function may not write to a file that has another owner
                raise ValueError("a table must be open to be used, this one was closed; make another")
            number = ids.appended
            oldest = max(ids.oldest, number + 1 - capacity)
            if oldest > ids.oldest:
                commit(number, oldest)  # give up the row that is about to be overwritten
            write(number % capacity, row)
            commit(number + 1, oldest)
            ids.appended = number + 1

    return append_and_commit
