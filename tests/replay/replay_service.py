"""A replay service in this process, for tests of its clients; and rows whose values say which row they are."""

from contextlib import ExitStack, closing, contextmanager

import numpy as np

from fedmb.batch.minibatch import Column
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.served_table import ServedTable
from fedmb.replay.service import ReplayService
from fedmb.replay.service_access import Listening

SCHEMA = {"x": Column("float32", (5,)), "number": Column("int64"), "done": Column("bool")}
TRANSPORTS = ("grpc", "shared")


def numbered(first, count):
    """Rows that can be told from each other, and told whole."""
    numbers = np.arange(first, first + count)
    return {
        "x": np.repeat(numbers[:, None], 5, 1).astype(np.float32),
        "number": numbers,
        "done": numbers % 2 == 0,
    }


def is_whole(columns):
    """Whether each row is one of `numbered`."""
    numbers = columns["number"]
    expected = numbered(0, 1)
    return (
        list(columns) == list(expected)
        and all(columns[name].dtype == expected[name].dtype for name in expected)
        and bool((columns["x"] == numbers[:, None].astype(np.float32)).all())
        and bool((columns["done"] == (numbers % 2 == 0)).all())
    )


@contextmanager
def serving(*tables, listening=None, folder=None, **options):
    """A service of these tables, under their names; a table with 100 rows of room where there is none."""
    with ExitStack() as parts:
        tables = tables or (ReplayTable(SCHEMA, 100, name="default"),)
        for table in tables:
            parts.enter_context(closing(table))
        served = {table.name: ServedTable(table, folder) for table in tables}
        service = ReplayService(served, listening or Listening(), **options)
        yield parts.enter_context(service)
