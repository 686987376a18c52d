"""One service of a sharded table: its client, what is known of it, and rows that were drawn ahead."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from fedmb.replay.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fedmb.replay.remote import RemoteTable

ID_BITS = 48  # of an id on its service, which is more rows than one sees in a year
_OWN = (1 << ID_BITS) - 1


class Shard:
    """A service; used under the lock of its sharded table where it is not said otherwise.

    Args:
        number: which it is.
        name: its address.
        connect: makes a client for an address.
    """

    def __init__(self, number: int, name: str, connect: Callable[[str], RemoteTable]) -> None:
        self.number, self.name, self._connect = number, name, connect
        self._table: RemoteTable | None = None
        self.rows = 0
        """In its table, when it was last heard."""
        self.heard = -math.inf
        """When that was."""
        self.lost = ""
        """Why it does not answer; empty while it does."""
        self.again = -math.inf
        """When to ask it again, once it was lost."""
        self._stock: deque[Sample] = deque()

    @property
    def table(self) -> RemoteTable:
        """Its client, which is made when it is first asked for.

        Raises:
            FedmbError: what `RemoteTable` raises.
        """
        self._table = self._table or self._connect(self.name)
        return self._table

    def close(self) -> None:
        """Close the client."""
        if self._table is not None:
            self._table.close()

    def named(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of rows of this service as ids of the sharded table; -1 stays what it is. Any thread."""
        return np.where(ids < 0, ids, ids | (self.number << ID_BITS))

    def own(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of the sharded table as ids of this service. Any thread."""
        return ids & _OWN

    def take(self, count: int, at_once: int, timeout: float | None) -> Sample:
        """`count` rows, of batches of `at_once` rows, so that the client asks for one size again and again.

        Raises:
            FedmbError: what `RemoteTable.sample` raises; nothing that was drawn is lost.
        """
        while (have := sum(map(len, self._stock))) < count:
            self._stock.append(self.table.sample(at_once, timeout=timeout))
            self.rows, have = self.table.last_known_rows, have + at_once
        parts: list[Sample] = []
        while count:
            first = self._stock.popleft()
            if len(first) > count:
                self._stock.appendleft(cut(first, count, len(first)))
                first = cut(first, 0, count)
            parts.append(first)
            count -= len(first)
        return joined(parts)

    def give_back(self, sample: Sample) -> None:
        """Rows that were taken and are not needed."""
        self._stock.appendleft(sample)

    def forget(self) -> None:
        """Drop rows that were drawn ahead."""
        self._stock.clear()
        self.heard = -math.inf


def weight(key: str, name: str) -> int:
    """How much a key wants to be at a service; the one with the largest weight has it."""
    return int.from_bytes(hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest(), "big")


def cut(sample: Sample, start: int, stop: int) -> Sample:
    """Rows `start` to `stop` of a sample, as views."""
    return Sample(
        {name: array[start:stop] for name, array in sample.columns.items()},
        sample.ids[start:stop],
        None if sample.weights is None else sample.weights[start:stop],
        None if sample.probabilities is None else sample.probabilities[start:stop],
    )


def joined(parts: Sequence[Sample]) -> Sample:
    """One sample of all rows; weights and probabilities only where every part has them."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.weights for part in parts if part.weights is not None]
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Sample(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        np.concatenate([part.ids for part in parts]),
        np.concatenate(weights) if len(weights) == len(parts) else None,
        np.concatenate(probabilities) if len(probabilities) == len(parts) else None,
    )
