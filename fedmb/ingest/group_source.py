"""Mini-batches from the partitions that a consumer group gives this member; which ones may change between rounds.

    seek    refresh the partitions; each begins where the server's ledger stands, never where the group's offsets do
    take    as a log source of these partitions
    revoked partitions give nothing more; what was taken of them is judged by the server's ledger like any update

A client that is a process for each message joins under its name (`KafkaLog.as_member`): a member that leaves and joins
anew in every round would be dealt other partitions each time.

Two members may take the same rows around a rebalance. Only one of their updates starts at the server's ledger when it
arrives; the other is dropped and its member goes back, so each row is learnt once all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from fedmb.errors import NotEnoughData
from fedmb.ingest.log import LogReader
from fedmb.ingest.log_source import LogSource
from fedmb.ledger import Ledger, StreamPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmb.batch.minibatch import MiniBatch, Schema
    from fedmb.batch.source import SourcePosition
    from fedmb.ingest.codec import Codec
    from fedmb.ingest.dead_letter import DeadLetters

JOIN_SECONDS = 10.0  # a group of some members settles in one to three; a member too many waits so long once
_KEYS = {"ledger", "group"}


class SharedReader(LogReader, Protocol):
    """A reader whose partitions somebody else deals out; they change in `refresh` alone."""

    def refresh(self, timeout_seconds: float = 0.0) -> tuple[StreamPartition, ...]:
        """Make `partitions` what is given now, and answer them; waits so long while there is none."""
        ...


class GroupSource:
    """A `BatchSource` over whatever partitions of one topic this member has; used by one thread.

    Args:
        reader: a member of the group; closed with the source.
        group: `log/topic`, by which a server knows whose partitions may come to this member.
        codecs: as of `LogSource`.
        dead_letters: where undecodable records go; closed with the source.
        linger_seconds: as of `LogSource`.
        patience_seconds: as of `LogSource`.

    Raises:
        SettingsError: the codecs do not go together, or a time is negative.
    """

    def __init__(
        self,
        reader: SharedReader,
        group: str,
        codecs: Sequence[Codec],
        *,
        dead_letters: DeadLetters,
        linger_seconds: float = math.inf,
        patience_seconds: float = 30.0,
    ) -> None:
        self.group = group
        self._reader = reader
        self._codecs = codecs
        self._dead_letters = dead_letters
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._limits = (math.inf, math.inf)
        self._joining_seconds = JOIN_SECONDS
        self._stored = Ledger()
        self._inner = self._source_of_partitions()

    @property
    def schema(self) -> Schema:
        """Columns of every mini-batch."""
        return self._codecs[0].schema

    @property
    def examples_per_epoch(self) -> float:
        """`math.inf`: a stream has no end."""
        return math.inf

    @property
    def partitions(self) -> tuple[StreamPartition, ...]:
        """What this member reads until the next seek."""
        return tuple(self._reader.partitions)

    def take(self, size: int) -> MiniBatch:
        """The next rows of the member's partitions, as `LogSource.take` gives them.

        Raises:
            NotEnoughData: the group gives this member no partition, or no row came in time.
            CorruptLog, RecordsGone, AccessDenied, TooManyRejected: as of `LogSource`.
            ValueError: `size` is not positive.
        """
        if self._inner is None:
            raise NotEnoughData(
                f"a member of the group needs a partition of {self.group}, got none: others read all that "
                "there are, or it came a moment ago; start fewer clients, or add partitions"
            )
        return self._inner.take(size)

    def position(self) -> SourcePosition:
        """The ledger of the rows taken, and the group."""
        ledger = self._inner.position()["ledger"] if self._inner is not None else {}
        return {"ledger": ledger, "group": self.group}

    def seek(self, position: SourcePosition) -> None:
        """Take over what the group gives now; partitions begin where `acknowledge` or else the position says.

        Raises:
            ValueError: the position belongs to another kind of source.
            AccessDenied: the brokers refuse this member.
        """
        ledger = position.get("ledger", {})
        if not (position.keys() <= _KEYS and isinstance(ledger, Mapping)):
            raise ValueError(
                f'a group source\'s position is {{"ledger": {{...}}, "group": ...}}, got {str(position)[:200]}; seek '
                "the source that gave it"
            )
        self._go_to(Ledger({**Ledger.from_json(ledger), **self._stored}))

    def acknowledge(self, ledger: Ledger, note: str) -> None:
        """Know how far a stored model has learnt every partition of the group, others' too, and tell lag monitors."""
        self._stored = ledger
        if self._inner is not None:
            self._inner.acknowledge(ledger, note)

    def limit_waiting(self, seconds: float, *, silence_seconds: float = math.inf) -> None:
        """Be less patient, as `LogSource.limit_waiting`; holds for partitions that come later too."""
        self._limits = (seconds, silence_seconds)
        if self._inner is not None:
            self._inner.limit_waiting(seconds, silence_seconds=silence_seconds)

    def lag(self) -> dict[StreamPartition, int]:
        """Records between the stored model's ledger and the end, of the partitions that the group gives now."""
        self._go_to(self._stored)
        return self._inner.lag() if self._inner is not None else {}

    def close(self) -> None:
        """Leave the group, unless as a member that comes back, and close the reader and the dead letters."""
        self._reader.close()
        self._dead_letters.close()

    def _go_to(self, ledger: Ledger) -> None:
        before = self.partitions
        now = self._reader.refresh(self._joining_seconds)
        self._joining_seconds = 0.0  # what the group gives later is there at some later seek
        if now != before:
            self._inner = self._source_of_partitions()
        if self._inner is None:
            return
        here = self._inner.position()
        wanted = {one: ledger.position(one) for one in now}
        if Ledger.from_json(here["ledger"]) != Ledger(wanted) or now != before:
            self._inner.seek({"ledger": Ledger(wanted).to_json()})

    def _source_of_partitions(self) -> LogSource | None:
        if not self._reader.partitions:
            return None
        source = LogSource(
            self._reader,
            self._codecs,
            dead_letters=self._dead_letters,
            linger_seconds=self._linger_seconds,
            patience_seconds=self._patience_seconds,
        )
        seconds, silence_seconds = self._limits
        source.limit_waiting(seconds, silence_seconds=silence_seconds)
        return source
