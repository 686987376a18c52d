"""Rows that lie in a log already, told apart from those that a broker has not brought yet.

    take:   what is there at once; else ask the log for its end
            nothing lies behind the place: NotEnoughData, at once
            something does: wait for it, until the log answers twice that it gives none

A join of two streams asks one of them for what came before a record of the other: waiting for the future would be
for ever, and taking a slow or absent broker for the end would lose rows.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from fedmb.errors import NotEnoughData, Unreachable
from fedmb.ingest.log import EMPTY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmb.batch.minibatch import MiniBatch, Schema
    from fedmb.batch.source import SourcePosition
    from fedmb.ingest.log_source import LogSource
    from fedmb.ledger import Ledger, StreamPartition

AWAY_SECONDS = 1.0  # of one wait for a log that does not answer


class KnownRows:
    """A `BatchSource` over a `LogSource` whose `take` says that there are no more rows only where the log says so.

    Args:
        source: closed with this; it must be able to wait, `EMPTY_SECONDS` or longer.
        patience_seconds: how long a log that does not answer is waited for.
        clock: monotonic seconds.
    """

    def __init__(
        self, source: LogSource, *, patience_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._waits_until = math.inf
        self._without_rows: tuple[SourcePosition, Mapping[StreamPartition, int]] | None = None

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch."""
        return self._source.schema

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: a stream has no end."""
        return self._source.examples_per_epoch

    def take(self, size: int) -> MiniBatch:
        """The next rows, at least one and at most `size`.

        Raises:
            NotEnoughData: the log holds no more.
            Unreachable: it did not answer for as long as the patience lasts.
            FedmbError: as `LogSource.take`.
        """
        gives_up = min(self._clock() + self._patience_seconds, self._waits_until)
        silence_seconds, asked = 0.0, 0
        while True:
            self._source.limit_waiting(math.inf, silence_seconds=silence_seconds)
            try:
                return self._source.take(size)
            except NotEnoughData:
                try:
                    lag = self._source.lag()
                except Unreachable:
                    if self._clock() >= gives_up:
                        raise
                    silence_seconds, asked = AWAY_SECONDS, 0
                    continue
                found = (self._source.position(), lag)
                # Offsets behind the last record may hold none, where a transaction ended: such an end is remembered.
                if not any(lag.values()) or found == self._without_rows:
                    raise
                if asked == len(_SILENCES):
                    self._without_rows = found
                    raise
                silence_seconds, asked = _SILENCES[asked], asked + 1

    def position(self) -> SourcePosition:
        """The log source's."""
        return self._source.position()

    def seek(self, position: SourcePosition) -> None:
        """Go to a position that `position()` gave.

        Raises:
            ValueError: the position belongs to another kind of source.
        """
        self._source.seek(position)

    def limit_waiting(self, seconds: float) -> None:
        """Let no `take` wait for a log that does not answer longer than `seconds` from now on."""
        self._waits_until = self._clock() + seconds

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Tell the log's lag monitors what a stored model has learnt."""
        self._source.acknowledge(ledger, note)

    def close(self) -> None:
        """Close the log source."""
        self._source.close()


_SILENCES = (EMPTY_SECONDS, 0.0)
"""Waits after the log said that there is more; the last begins right after another answer, so that a connection that
was lost meanwhile is not taken for the end."""
