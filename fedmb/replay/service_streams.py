"""What a replay service answers, whatever carries the frames: three streams, each served by a thread of its own.

    sample   PULL of size and number      -> as many BATCHes, as soon as the table gives them
    write    INSERT                       -> INSERTED, once the rows are kept
    ask      STATISTICS, REPRIORITIZE ... -> FIGURES, DONE

A batch is drawn only for a client that has room for it, which `PULL` says: that is the whole flow control. Several
batches for which a client has room travel as one message, since a message costs more than a batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.errors import DecodeError, FedmbError, NotEnoughData, RateLimited, SettingsError
from fedmb.replay.ring_layout import rounded
from fedmb.replay.wire_batch import BatchForm
from fedmb.replay.wire_format import PAD, PRIORITIZED, SHARED, Kind, frame, json_frame, padded
from fedmb.replay.wire_refusal import REFUSALS, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from fedmb.replay.row_block import RowBlock
    from fedmb.replay.sample import Sample
    from fedmb.replay.served_table import ServedTable
    from fedmb.replay.shared_arena import Arena
    from fedmb.replay.wire_format import Frame

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # between two looks at whether a client that waits is still there
TOGETHER_BYTES = 1 << 18  # of batches in one message; more save nothing, and the first of them waits for the last
MOST_CREDIT = 4096  # batches that a client may have asked for at once


@dataclass(frozen=True, slots=True)
class Session:
    """One stream of one client."""

    table: ServedTable
    writer: str
    is_ending: Callable[[], bool]
    """True once the service ends."""
    is_heard: Callable[[], bool]
    """False once the client has gone."""
    max_bytes: int
    """Of a message."""
    arena: Arena | None = None
    """Memory that this stream shares with its client; None where rows travel in messages."""

    def is_active(self) -> bool:
        """Whether somebody waits for an answer that will be given."""
        return not self.is_ending() and self.is_heard()


def drawing(session: Session, requests: Iterable[Frame]) -> Iterator[bytes]:
    """Answers to the requests of a sample stream.

    Raises:
        DecodeError: a request is no PULL, or asks for more than is allowed.
    """
    outbox = _Outbox(session)
    for one in requests:
        credit = _Credit(one, session)
        while credit.left and not session.is_ending():
            try:
                sample = _drawn(session, credit.size)
                while sample is not None:
                    outbox.add(sample, credit)
                    sample = _drawn_now(session, credit.size) if credit.left and outbox.has_room() else None
            except REFUSALS as error:
                if isinstance(error, DecodeError):
                    raise
                outbox.refuse(error, credit)
            if message := outbox.message():
                yield message


def inserting(session: Session, requests: Iterable[Frame]) -> Iterator[bytes]:
    """Answers to the requests of a write stream, each once its rows are kept.

    Raises:
        DecodeError: a request is no INSERT, or its bytes are no rows.
    """
    form = session.table.rows
    for one in requests:
        block, priorities = _rows_in(one, session, form)
        try:
            ids = session.table.insert(session.writer, one.sequence, block, priorities, timeout=LOOK_SECONDS)
            while ids is None and session.is_active():
                ids = session.table.insert(session.writer, one.sequence, block, priorities, timeout=LOOK_SECONDS)
        except REFUSALS as error:
            yield json_frame(Kind.REFUSED, refusal(error), rows=one.rows, sequence=one.sequence)
        else:
            if ids is not None:
                yield frame(Kind.INSERTED, ids, rows=one.rows, sequence=one.sequence)


def asking(session: Session, requests: Iterable[Frame]) -> Iterator[bytes]:
    """Answers to the requests of an ask stream.

    Raises:
        DecodeError: a request is none that is known.
    """
    for one in requests:
        try:
            yield _answer(session, one)
        except REFUSALS as error:
            if isinstance(error, DecodeError):
                raise
            yield json_frame(Kind.REFUSED, refusal(error), rows=one.rows, sequence=one.sequence)
        except OSError as error:
            logger.warning("question not answered kind=%s reason=%s", one.kind.name, error)
            said = FedmbError(
                f"a disk must take what is stored, it does not: {error}; free space on the service's disk"
            )
            yield json_frame(Kind.REFUSED, refusal(said), rows=one.rows, sequence=one.sequence)


STREAMS: dict[str, Callable[[Session, Iterable[Frame]], Iterator[bytes]]] = {
    "Sample": drawing,
    "Write": inserting,
    "Ask": asking,
}


class _Credit:
    """What is left of one PULL."""

    def __init__(self, one: Frame, session: Session) -> None:
        self.size, self.left, self.sequence = one.rows, one.extra, one.sequence
        if one.kind is not Kind.PULL or not 1 <= self.left <= MOST_CREDIT or self.size < 1:
            raise DecodeError(
                f"a sample stream must ask for 1 to {MOST_CREDIT} batches of 1 row or more, got {one.kind.name} of "
                f"{self.left} by {self.size}; ask for fewer"
            )
        if len(one.payload) not in {0, 0 if session.arena is None else 4 * self.left}:
            raise DecodeError(f"a PULL must name no slots or {self.left}, got {len(one.payload)} bytes of them")
        self.slots: list[int] = np.frombuffer(one.payload, np.uint32)[::-1].tolist()
        if session.arena is not None:
            for slot in self.slots:
                session.arena.offset(slot, 0)


class _Outbox:
    """Collects what goes into one message."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._form = BatchForm(session.table.drawn_schema)
        self._parts: list[Any] = []
        self._bytes = 0

    def has_room(self) -> bool:
        return self._bytes < TOGETHER_BYTES

    def add(self, sample: Sample, credit: _Credit) -> None:
        """Put a batch in, in place of one unit of credit."""
        form, table = self._form, self._session.table
        arena = self._session.arena if credit.slots else None
        size = form.parts(len(sample.ids)).stop
        most = self._session.max_bytes if arena is None else arena.slot_bytes
        if size > most:
            raise SettingsError(
                f"a batch must fit into {most} bytes, {len(sample.ids)} rows take {size}; ask for fewer rows, or raise "
                "max_message_bytes of the service",
                key="size",
            )
        if arena is None:
            self._parts += form.framed(sample, len(table))
        else:
            slot = credit.slots.pop()
            self._parts.append(
                form.put(sample, arena.memory, arena.offset(slot, size), table_rows=len(table), slot=slot)
            )
        self._bytes += size
        credit.left -= 1

    def refuse(self, error: Exception, credit: _Credit) -> None:
        """Say why there will be nothing for the rest of a credit."""
        content = {**refusal(error), "batches": credit.left, "slots": credit.slots}
        self._put(json_frame(Kind.REFUSED, content, rows=credit.size, sequence=credit.sequence))
        credit.left = 0

    def message(self) -> bytes:
        """All that was put in; empty afterwards."""
        found = b"".join(self._parts)
        self._parts.clear()
        self._bytes = 0
        return found

    def _put(self, one: bytes) -> None:
        self._parts += (one, bytes(padded(len(one)) - len(one)))


def _drawn(session: Session, size: int) -> Sample | None:
    """The next batch, once the table gives one; None when the client has gone meanwhile."""
    if size * session.table.rows.row_bytes > session.max_bytes:
        raise SettingsError(
            f"a batch must fit into {session.max_bytes} bytes, got {size} rows of {session.table.rows.row_bytes}; ask "
            "for fewer, or raise max_message_bytes of the service",
            key="size",
        )
    while True:
        try:
            return session.table.draw(size, timeout=LOOK_SECONDS)
        except RateLimited:
            if not session.is_active():
                return None


def _drawn_now(session: Session, size: int) -> Sample | None:
    """Another batch if the table has one now."""
    try:
        return session.table.draw(size, timeout=0.0)
    except (RateLimited, NotEnoughData):
        return None


def _rows_in(one: Frame, session: Session, form: RowBlock) -> tuple[NDArray[np.void], NDArray[np.float64] | None]:
    """The rows and priorities that an INSERT brings; views of the message, copies where the client could change them.

    Raises:
        DecodeError: it is none, or brings more or fewer bytes than it says.
    """
    if one.kind is not Kind.INSERT or one.rows < 1:
        raise DecodeError(f"a write stream must bring rows, got {one.kind.name} of {one.rows}; speak its version")
    at = rounded(one.rows * form.row_bytes, PAD)
    size = at + 8 * one.rows if one.flags & PRIORITIZED else one.rows * form.row_bytes
    source: Any = one.payload
    if one.flags & SHARED:
        if session.arena is None or len(one.payload) != 4:  # noqa: PLR2004  # a slot's number
            raise DecodeError("rows in shared memory need shared memory and one slot, got neither; speak its version")
        start = session.arena.offset(int.from_bytes(one.payload, "little"), size)
        source = session.arena.memory[start : start + size]  # a copy: what is checked is what is kept
    if len(source) != size:
        raise DecodeError(f"{one.rows} rows must be {size} bytes, got {len(source)}; send whole rows of the schema")
    block = form.over(source, one.rows)
    form.check(block)
    return block, np.ndarray((one.rows,), np.float64, source, at) if one.flags & PRIORITIZED else None


def _answer(session: Session, one: Frame) -> bytes:
    match one.kind:
        case Kind.STATISTICS:
            return json_frame(Kind.FIGURES, session.table.statistics(), sequence=one.sequence)
        case Kind.FIGURES:
            return json_frame(Kind.FIGURES, session.table.figures(), sequence=one.sequence)
        case Kind.SNAPSHOT:
            return json_frame(Kind.FIGURES, session.table.snapshot(), sequence=one.sequence)
        case Kind.REPRIORITIZE if len(one.payload) == 16 * one.rows:
            ids = np.frombuffer(one.payload, np.int64, one.rows)
            priorities = np.frombuffer(one.payload, np.float64, one.rows, 8 * one.rows)
            return frame(Kind.DONE, extra=session.table.reprioritize(ids, priorities), sequence=one.sequence)
    raise DecodeError(f"a question must be one that the service knows, got {one.kind.name} of {one.rows} rows")
