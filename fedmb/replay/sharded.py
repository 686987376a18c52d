"""One table on several services: one client that appends, draws and reprioritises as if they were one.

A writer's rows all go to one service, chosen by rendezvous hashing of the writer's key and the services' addresses, so
that windows and returns find their neighbours, and a service more or less moves only the writers that it must. A batch
is drawn from all of them, from each as many rows as a draw from the union would take: rows are mixed by sizes. An id
carries the number of its service in its upper bits.

Source: Thaler and Ravishankar 1998, IEEE/ACM Transactions on Networking 6(1), for the hashing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedmb.errors import FedmbError, NotEnoughData, SettingsError, ShapeError, Unreachable
from fedmb.replay.given_rows import checked_priorities
from fedmb.replay.remote import RemoteTable
from fedmb.replay.sample import Sample
from fedmb.replay.shard import ID_BITS, Shard, joined, weight
from fedmb.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns

logger = logging.getLogger(__name__)

OnDead: TypeAlias = Literal["others", "error"]
MAX_SHARDS = 1 << 14
LOOK_SECONDS = 5.0  # between two attempts to reach a service that was lost
SIZES_SECONDS = 1.0  # how old the sizes may be that rows are mixed by


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """One service of a sharded table at one moment."""

    name: str
    """Its address."""
    rows: int
    """Rows in its table, as last heard."""
    lost: str
    """Why it does not answer; empty while it does."""


class ShardedTable:
    """A view of one table on several services; also a context manager. For any number of threads.

    Args:
        addresses: of the services, `host:port`. Every client and every run must name the same ones in the same order:
            the names decide who keeps a writer's rows, the order is part of every id.
        table: its name on each.
        key: names this writer; rows of one key lie on one service.
        on_dead: "others" lets the services that answer take over the rows and the share of samples of one that does
            not, "error" raises.
        seed: of the draws that say how many rows come from which service.
        clock: monotonic seconds.
        options: of each `RemoteTable`. A service that has gone is looked for during `reconnect_seconds`, here 1 unless
            it is said, before it counts as dead.

    Raises:
        SettingsError: there is no service, or too many.
        ShapeError: their tables differ.
        Unreachable: none answers, or one does not and `on_dead` is "error".
    """

    def __init__(
        self,
        addresses: Sequence[str],
        table: str = "default",
        *,
        key: str,
        on_dead: OnDead = "others",
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        if not 1 <= len(addresses) <= MAX_SHARDS or len(set(addresses)) != len(addresses):
            raise SettingsError(
                f"a sharded table needs 1 to {MAX_SHARDS} services of different addresses, got {list(addresses)[:9]}; "
                "name each once"
            )
        if on_dead not in {"others", "error"}:
            raise SettingsError(
                f"on_dead must be others or error, got {on_dead!r}; others goes on with those that live"
            )
        self._schema: dict[str, Column] | None = None
        self._table, self._options = table, {"reconnect_seconds": 1.0, **options}
        self._shards = [Shard(number, name, self._client) for number, name in enumerate(addresses)]
        self._key, self._on_dead, self._clock = key, on_dead, clock
        self._random = generator(seed, key, "sharded")
        self._lock = threading.Lock()
        self._sizes()

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of a row as it is stored."""
        assert self._schema is not None, "the constructor reached a service"
        return dict(self._schema)

    @property
    def sample_schema(self) -> dict[str, Column]:
        """Columns of a sample."""
        return self._any().table.sample_schema

    @property
    def capacity(self) -> int:
        """Rows that those which answer can hold."""
        return sum(shard.table.capacity for shard in self._sizes())

    def __len__(self) -> int:
        return sum(self._sizes(oldest=0.0).values())

    def append(
        self,
        columns: Columns,
        *,
        priorities: NDArray[Any] | None = None,
        timeout: float | None = None,
        key: str | None = None,
    ) -> NDArray[np.int64]:
        """As `RemoteTable.append`, on the service of this writer's key.

        Args:
            columns: of the schema.
            priorities: of the rows.
            timeout: seconds to wait.
            key: in place of the writer's own, for a process that writes for several.

        Raises:
            Unreachable: no service answers, or the writer's does not and none may take over.
        """
        for shard in self._ranked(self._key if key is None else key):
            try:
                ids = shard.table.append(columns, priorities=priorities, timeout=timeout)
            except Unreachable as error:
                self._lose(shard, error)
            else:
                shard.lost, shard.rows = "", min(shard.table.capacity, shard.rows + int((ids >= 0).sum()))
                return shard.named(ids)
        raise self._all_lost()

    def sample(self, size: int, *, timeout: float | None = None) -> Sample:
        """As `RemoteTable.sample`, with rows of all services in proportion to their sizes.

        A row's probability is that of a draw from the union; weights are those that each service gave, which the
        mixture does not change where they are normalised over all rows.

        Raises:
            NotEnoughData: no service has rows.
            Unreachable: no service answers, or one does not and the others may not fill in.
        """
        if size < 1:
            raise ValueError(f"a sample must have 1 row or more, got size={size}")
        deadline = math.inf if timeout is None else self._clock() + timeout
        parts: list[tuple[Shard, Sample, float]] = []
        missing = size
        with self._lock:
            try:
                while missing:
                    missing -= self._draw(missing, size, deadline, parts)
            except FedmbError:
                for shard, sample, _ in parts:
                    shard.give_back(sample)
                raise
        return joined([_named(*part) for part in parts])

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[Any]) -> int:
        """As `RemoteTable.reprioritize`, each id on its own service; those of a service that was lost are passed over.

        Raises:
            Unreachable: a service does not answer and may not be passed over.
        """
        names = np.asarray(ids, np.int64)
        given = checked_priorities(priorities, len(names))
        owners, changed = np.where(names < 0, -1, names >> ID_BITS), 0
        for shard in self._living():
            where = owners == shard.number
            if where.any():
                try:
                    changed += shard.table.reprioritize(shard.own(names[where]), given[where])
                except Unreachable as error:
                    self._lose(shard, error)
        return changed

    def statistics(self) -> list[ShardStatistics]:
        """Each service, in order."""
        return [ShardStatistics(shard.name, shard.rows, shard.lost) for shard in self._shards]

    def close(self) -> None:
        """Close every client."""
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _client(self, address: str) -> RemoteTable:
        table = RemoteTable(address, self._table, **self._options)
        if self._schema is not None and table.schema != self._schema:
            table.close()
            raise ShapeError(f"services must have one table, {address} has other columns; start it with the same")
        self._schema = table.schema
        return table

    def _draw(self, count: int, size: int, deadline: float, parts: list[tuple[Shard, Sample, float]]) -> int:
        """Add rows of all services together, and the share of each, to `parts`; how many, fewer where one was lost."""
        sizes = self._sizes()
        total = sum(sizes.values())
        if not total:
            raise NotEnoughData(f"there must be rows to draw from, {len(sizes)} services have none; append some")
        counts = self._random.multinomial(count, [rows / total for rows in sizes.values()])
        at_once, drawn = -(-size // len(self._shards)), 0
        for (shard, rows), wanted in zip(sizes.items(), counts.tolist(), strict=True):
            if wanted:
                timeout = None if deadline == math.inf else max(0.0, deadline - self._clock())
                try:
                    parts.append((shard, shard.take(wanted, at_once, timeout), rows / total))
                except Unreachable as error:
                    self._lose(shard, error)
                    shard.forget()
                else:
                    drawn += wanted
        return drawn

    def _sizes(self, oldest: float = SIZES_SECONDS) -> dict[Shard, int]:
        """Rows of every service that answers, as they were not longer ago than `oldest` seconds."""
        for shard in self._living():
            if self._clock() - shard.heard >= oldest:
                try:
                    shard.rows = len(shard.table)
                except Unreachable as error:
                    self._lose(shard, error)
                else:
                    shard.heard, shard.lost = self._clock(), ""
        living = {shard: shard.rows for shard in self._shards if not shard.lost}
        if not living:
            raise self._all_lost()
        return living

    def _any(self) -> Shard:
        return next(iter(self._sizes()))

    def _living(self) -> list[Shard]:
        """Services that answer, and those that it is time to ask again."""
        now = self._clock()
        return [shard for shard in self._shards if not shard.lost or now >= shard.again]

    def _ranked(self, key: str) -> list[Shard]:
        """Living services, the one that should keep this key's rows first."""
        return sorted(self._living(), key=lambda shard: weight(key, shard.name), reverse=True)

    def _lose(self, shard: Shard, error: Unreachable) -> None:
        if self._on_dead == "error":
            error.add_note(f"service {shard.name} is one of {len(self._shards)}, and on_dead is error")
            raise error
        if not shard.lost:
            logger.warning("service left out address=%s services=%d reason=%s", shard.name, len(self._shards), error)
        shard.lost, shard.again = str(error), self._clock() + LOOK_SECONDS
        shard.heard = -math.inf

    def _all_lost(self) -> Unreachable:
        reasons = ", ".join(f"{shard.name} ({shard.lost})" for shard in self._shards)
        return Unreachable(f"one of {len(self._shards)} services must answer, none does: {reasons}; start them")


def _named(shard: Shard, sample: Sample, share: float) -> Sample:
    """A service's rows as rows of the sharded table."""
    probabilities = None if sample.probabilities is None else sample.probabilities * share
    return Sample(sample.columns, shard.named(sample.ids), sample.weights, probabilities)
