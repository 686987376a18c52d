"""Rows every value of which says which row it is of, so that a torn one shows."""

from __future__ import annotations

import numpy as np

from fedmb.batch.collate import Ragged
from fedmb.batch.minibatch import Column
from fedmb.ledger import Ledger, Position, StreamPartition
from fedmb.replay.ragged import RaggedColumn

PLAIN = {"number": Column("int64"), "body": Column("int64", (30,)), "tail": Column("float64", (3,))}
TEXTS = {**PLAIN, "text": RaggedColumn("int64", 4000)}
METER = StreamPartition("log", "meter", 0)


def rows(first, stop, schema=PLAIN):
    """Rows of which every value says which row it is of."""
    numbers = np.arange(first, stop)
    columns = {
        "number": numbers,
        "body": numbers[:, None] + np.arange(30),
        "tail": numbers[:, None] * np.array([1.0, 2.0, 3.0]),
    }
    if "text" in schema:
        columns["text"] = Ragged.of([np.full(number % 13, number) for number in range(first, stop)])
    return columns


def count_torn(ids, columns):
    """Rows of which any value is not of the row asked for."""
    numbers = np.asarray(ids)
    wrong = columns["number"] != numbers
    wrong |= (columns["body"] != numbers[:, None] + np.arange(30)).any(1)
    wrong |= (columns["tail"] != numbers[:, None] * np.array([1.0, 2.0, 3.0])).any(1)
    if "text" in columns:
        wrong |= columns["text"].lengths != numbers % 13
        owners = np.repeat(numbers, columns["text"].lengths)
        wrong[np.isin(numbers, owners[columns["text"].values != owners])] = True
    return int(wrong.sum())


def ledger(appended):
    return Ledger({METER: Position(appended)})
