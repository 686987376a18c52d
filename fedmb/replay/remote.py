"""A replay table that lives in another process: the same calls, over gRPC or through shared memory.

    with RemoteTable("learner.example:8400", token_file=Path("token"), root_certificates=Path("ca.crt")) as table:
        table.append(columns)
        sample = table.sample(256)
        table.reprioritize(sample.ids, priorities)

Needs neither torch nor the rest of fedmb.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import DecodeError, SettingsError, Unreachable
from fedmb.replay.given_rows import checked_priorities
from fedmb.replay.limiter_statistics import LimiterStatistics, WaitStatistics
from fedmb.replay.remote_connection import Connection
from fedmb.replay.remote_inserting import Inserter
from fedmb.replay.remote_sampling import Puller
from fedmb.replay.service_access import Reaching
from fedmb.replay.shared_arena import Wanted
from fedmb.replay.table_statistics import TableStatistics
from fedmb.replay.wire_format import Frame, Kind, frame, frames, json_of
from fedmb.replay.wire_refusal import raised

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Column, Columns, Schema
    from fedmb.replay.remote_connection import Transport
    from fedmb.replay.remote_stream import Stream
    from fedmb.replay.sample import Sample

ANSWER_SECONDS = 30.0  # within which a service answers what needs no waiting


class RemoteTable:
    """A table of a replay service; also a context manager. For any number of threads.

    Inserting, sampling and asking go their own ways: one that waits does not hold up the others.

    Args:
        address: of the service, `host:port`.
        table: its name there.
        schema: columns that the caller means, to be refused where the table has others; None takes the table's.
        root_certificates: PEM certificates that vouch for the service; without them the system's do, and on loopback
            no TLS is used.
        token_file: file with the token that the service wants.
        prefetch: batches that are asked for before they are needed. They are drawn when they are asked for: rows and
            priorities that come later are not in them.
        transport: "auto" takes shared memory where the service is on this machine, "grpc" and "shared" insist.
        reconnect_seconds: how long to look for a service that has gone, before `Unreachable` is raised.
        block_rows: rows of `append_row` that travel together.
        linger_seconds: how long such a row waits for others, looked at when another one is given.

    Raises:
        SettingsError: an argument breaks a rule, or the service has no such table.
        ShapeError: the table has other columns.
        Unreachable: nobody answers there.
        AccessDenied: the service wants another token.
        VersionMismatch: it speaks another version.
    """

    def __init__(
        self,
        address: str,
        table: str = "default",
        *,
        schema: Schema | None = None,
        root_certificates: Path | str | None = None,
        token_file: Path | str | None = None,
        prefetch: int = 8,
        transport: Transport = "auto",
        reconnect_seconds: float = 30.0,
        block_rows: int = 256,
        linger_seconds: float = 0.2,
    ) -> None:
        if prefetch < 1 or block_rows < 1:
            raise SettingsError(f"prefetch and block_rows must be 1 or more, got {prefetch} and {block_rows}")
        if transport not in {"auto", "grpc", "shared"}:
            raise SettingsError(f"transport must be auto, grpc or shared, got {transport!r}; auto fits most")
        roots, token = (None if one is None else Path(one) for one in (root_certificates, token_file))
        self.name = table
        self._connection = Connection(
            Reaching(address, roots, token),
            table,
            schema=schema,
            transport=transport,
            reconnect_seconds=reconnect_seconds,
        )
        self._puller = Puller(self._connection, prefetch)
        self._inserter = Inserter(self._connection, block_rows=block_rows, linger_seconds=linger_seconds)
        self._asker = _Asker(self._connection)

    @property
    def schema(self) -> dict[str, Column]:
        """Columns of a row as it is stored."""
        return dict(self._connection.schema)

    @property
    def sample_schema(self) -> dict[str, Column]:
        """Columns of a sample, which the table's reader may make from those that are stored."""
        return dict(self._connection.drawn_schema)

    @property
    def capacity(self) -> int:
        """Rows it can hold."""
        return self._connection.capacity

    def __len__(self) -> int:
        return self.statistics().rows

    def append(
        self, columns: Columns, *, priorities: NDArray[Any] | None = None, timeout: float | None = None
    ) -> NDArray[np.int64]:
        """Send rows, wait until they are kept, and answer their ids: as `ReplayTable.append`.

        More rows than a message holds travel in parts, each of which is kept or refused by itself.

        Args:
            columns: of the schema, `(rows, ...)` each.
            priorities: of the rows, `(rows,)`.
            timeout: seconds to wait; rows that were sent before it is over may still be kept. None is without end.

        Raises:
            ShapeError: columns do not follow the schema.
            ValueError: a priority is negative or not finite.
            RateLimited: the service has not said in time that it keeps the rows.
            Unreachable: it has gone, and did not come back.
        """
        return self._inserter.append(columns, priorities, timeout)

    def append_row(self, row: Sequence[Any]) -> None:
        """Give one row, which travels with others: values in the order of the schema.

        It is kept once `flush` returned. Blocks while too many rows are on their way.

        Raises:
            ShapeError: values do not follow the schema.
            FedmbError: rows that were given before were refused.
        """
        self._inserter.append_row(row)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every row that was given is kept.

        Raises:
            RateLimited: the time is over.
            FedmbError: some were refused.
        """
        self._inserter.flush(timeout)

    def sample(self, size: int, *, timeout: float | None = None) -> Sample:
        """The next batch of `size` rows, which was drawn when it was asked for: as `ReplayTable.sample`.

        Args:
            size: rows. Batches are prefetched for each size by itself.
            timeout: seconds to wait; None is without end.

        Raises:
            NotEnoughData: there is nothing to draw.
            RateLimited: no batch came in time.
            SettingsError: so many rows can never be drawn at once, or do not fit into a message.
            ValueError: `size` is below 1.
            Unreachable: the service has gone, and did not come back.
        """
        if size < 1:
            raise ValueError(f"a sample must have 1 row or more, got size={size}")
        return self._puller.sample(int(size), timeout)

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[Any]) -> int:
        """Give rows new priorities, and answer how many rows that were: as `ReplayTable.reprioritize`.

        Raises:
            ShapeError: there is not one priority an id.
            ValueError: a priority is negative or not finite.
            Unreachable: the service has gone, and did not come back.
        """
        names = np.ascontiguousarray(ids, np.int64)
        given = np.ascontiguousarray(checked_priorities(priorities, len(names)))
        return self._asker.ask(Kind.REPRIORITIZE, names, given, rows=len(names)).extra

    def statistics(self) -> TableStatistics:
        """A frozen snapshot of the table.

        Raises:
            Unreachable: the service has gone, and did not come back.
        """
        return statistics_in(json_of(self._asker.ask(Kind.STATISTICS).payload))

    def figures(self) -> dict[str, Any]:
        """What the service knows of its table, as JSON values: more than `statistics`, such as ages and priorities."""
        return json_of(self._asker.ask(Kind.FIGURES).payload)

    def snapshot(self) -> dict[str, Any]:
        """Let the service store its table now; where, and how many seconds that took.

        Raises:
            SettingsError: it has no place for snapshots.
        """
        return json_of(self._asker.ask(Kind.SNAPSHOT, timeout=None).payload)

    @property
    def last_known_rows(self) -> int:
        """Rows in the table when it gave the newest batch; 0 before that."""
        return self._puller.table_rows

    def close(self) -> None:
        """Close every stream; rows that `flush` did not wait for may be kept or not."""
        self._connection.close()
        for part in (self._puller, self._inserter, self._asker):
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()


class _Asker:
    """Questions that are answered at once, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._sequence = 0

    def ask(self, kind: Kind, *parts: Any, rows: int = 0, timeout: float | None = ANSWER_SECONDS) -> Frame:
        """The answer."""
        deadline = time.monotonic() + (ANSWER_SECONDS if timeout is None else timeout)
        with self._lock:
            self._sequence += 1
            question = frame(kind, *parts, rows=rows, sequence=self._sequence)
            return self._connection.retry(lambda: self._asked(question, timeout), self._forget, deadline)

    def close(self) -> None:
        """End the stream."""
        if (stream := self._stream) is not None:
            stream.close()

    def _asked(self, question: bytes, timeout: float | None) -> Frame:
        stream = self._stream = self._stream or self._connection.open("Ask", Wanted(1, 1))
        self._connection.check_open()
        stream.send(question)
        while True:
            try:
                message = stream.receive(timeout)
            except TimeoutError:
                raise Unreachable(
                    f"the service at {self._connection.address} must answer within {timeout:g} s, it did not; look at "
                    "its log"
                ) from None
            for one in frames(message):
                if one.kind is Kind.REFUSED:
                    raise raised(json_of(one.payload))
                if one.sequence == self._sequence and one.kind in {Kind.DONE, Kind.FIGURES}:
                    return one
                raise DecodeError(f"an answer must be to its question, got {one.kind.name}; use one version")

    def _forget(self) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.close()


def statistics_in(figures: dict[str, Any]) -> TableStatistics:
    """Statistics from JSON values.

    Raises:
        DecodeError: they are others.
    """
    try:
        limiter = figures["limiter"]
        if limiter is not None:
            sides = {side: WaitStatistics(**limiter[side]) for side in ("insert", "sample")}
            limiter = LimiterStatistics(**{**limiter, **sides})
        return TableStatistics(**{**figures, "limiter": limiter})
    except (KeyError, TypeError) as error:
        raise DecodeError(f"statistics must be a table's, got others: {error}; use one version") from error
