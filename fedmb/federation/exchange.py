"""Messages under way on a grid: pushed, awaited, and late once their round has closed.

A node does one message at a time, so a node whose answer is late is not asked anew before that has come: it would
learn from an old model for ever. Late answers are pulled beside those of the open round, and whoever asked decides
what they are worth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message
    from flwr.serverapp import Grid

log = logging.getLogger(__name__)

_PULL_SECONDS = 0.2  # between two looks for replies; Flower's own loop waits 3 s. A look costs 8 ms of a core
_PATIENCE = 0.02  # of the time waited so far: who has waited for minutes looks once a second
_LONGEST_PULL_SECONDS = 1.0
_LINES = {"httpx", "httpcore", "grpc"}  # whose errors tell of the line, not of what came over it
_FORGOTTEN_AFTER = 8  # deadlines: a node that was lost never answers, and nobody waits for it that long


@runtime_checkable
class Withdrawing(Protocol):
    """A grid that can take back messages whose nodes have not begun with them."""

    def withdraw(self, message_ids: Iterable[str]) -> Iterable[str]:
        """Take back what was not begun; answers the ids of those messages."""
        ...


@runtime_checkable
class Foretelling(Protocol):
    """A grid that knows when waiting is in vain."""

    def can_answer(self, message_ids: Iterable[str]) -> bool:
        """Whether the reply to one of the messages can still come before others are pushed."""
        ...


class Arrival(NamedTuple):
    """A reply, or what was left of one."""

    node: int
    """Who was asked."""
    message: Message | None
    """None where the grid could not read it."""
    seconds: float
    """From the question to its arrival here."""
    damage: str = ""
    """Why it could not be read."""


class _Sent(NamedTuple):
    node: int
    pushed_at: float


class Exchange:
    """What was sent and has not been answered.

    Args:
        grid: Flower's grid.
        deadline_seconds: after so long without an answer a node counts as lost and may be asked anew.
    """

    def __init__(self, grid: Grid, deadline_seconds: float) -> None:
        self._grid = grid
        self._deadline_seconds = deadline_seconds
        self._open: set[str] = set()
        self._sent: dict[str, _Sent] = {}
        self._is_careful = False

    @property
    def is_open(self) -> bool:
        """Whether replies of the open round are missing."""
        return bool(self._open)

    def busy_nodes(self) -> set[int]:
        """Nodes that may still be at work for an earlier round."""
        since = time.monotonic() - self._deadline_seconds
        return {one.node for one in self._sent.values() if one.pushed_at > since}

    def owing_nodes(self) -> set[int]:
        """Nodes that have not answered, however long ago they were asked."""
        return {one.node for one in self._sent.values()}

    def push(self, messages: Sequence[Message]) -> None:
        """Send the messages of a round that opens; whatever is unanswered from now on is late."""
        now = time.monotonic()
        forgotten = now - _FORGOTTEN_AFTER * self._deadline_seconds
        self._sent = {one: sent for one, sent in self._sent.items() if sent.pushed_at > forgotten}
        ids = list(self._grid.push_messages(messages))
        self._open = set()
        for message_id, message in zip(ids, messages, strict=False):  # none at all when the grid could not be reached
            if message_id is not None:
                self._open.add(message_id)
                self._sent[message_id] = _Sent(message.metadata.dst_node_id, now)

    def arrivals(self, seconds: float, *, waits_for_late: bool = False) -> Iterator[Sequence[Arrival]]:
        """Replies as they arrive, late ones among them, until the open round's are in or the time has passed.

        Where nothing was sent, the first late ones end it. With `waits_for_late` they are awaited like the others.
        """
        began = time.monotonic()
        was_sent = bool(self._open) or waits_for_late
        while self._is_awaited(waits_for_late) or (self._sent and not was_sent):
            some = False
            for together in self._pulled():
                some = True
                yield together
            if (some and not was_sent) or not self._can_come():
                return
            if self._is_awaited(waits_for_late) or not was_sent:
                waited = time.monotonic() - began
                if waited > seconds:
                    log.warning("time passed unanswered=%d seconds=%g", len(self._open), seconds)
                    return
                pause = max(_PULL_SECONDS, min(_PATIENCE * waited, _LONGEST_PULL_SECONDS))
                time.sleep(min(pause, seconds - waited))

    def close(self) -> None:
        """Close the round: what is under way is late; what nobody has begun is taken back where that can be done."""
        if self._open and isinstance(self._grid, Withdrawing):
            for message_id in self._grid.withdraw(sorted(self._open)):
                self._sent.pop(message_id, None)
        self._open = set()

    def _is_awaited(self, late_too: bool) -> bool:
        return bool(self._open) or (late_too and bool(self.busy_nodes()))

    def _can_come(self) -> bool:
        return not isinstance(self._grid, Foretelling) or self._grid.can_answer(sorted(self._sent))

    def _pulled(self) -> Iterator[Sequence[Arrival]]:
        """What has arrived: together where the grid answers with a list, one by one where it makes each when asked.

        A grid that cannot read a reply loses those that it read before it in the same pull, so from the first such
        reply on each is pulled by itself.
        """
        for ids in [[one] for one in sorted(self._sent)] if self._is_careful else [sorted(self._sent)]:
            try:
                for together in _arrived(self._grid.pull_messages(ids)):
                    now = time.monotonic()
                    found = [self._arrival(message, now) for message in together]
                    # Of two answers of one client the older question's counts, whatever order they are told in.
                    yield sorted(found, key=lambda one: (-one.seconds, one.node))
            except Exception as error:
                if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LINES:
                    raise  # nobody's reply: the line to the SuperLink is down
                log.warning("reply not understood node=%s", self._nodes_of(ids), exc_info=True)
                if self._is_careful:
                    yield [self._lost(ids[0], f"{type(error).__name__}: {str(error)[:200]}")]
                self._is_careful = True

    def _arrival(self, message: Message, now: float) -> Arrival:
        asked = message.metadata.reply_to_message_id
        self._open.discard(asked)
        sent = self._sent.pop(asked, _Sent(message.metadata.src_node_id, now))
        return Arrival(sent.node, message, now - sent.pushed_at)

    def _lost(self, asked: str, damage: str) -> Arrival:
        self._open.discard(asked)
        sent = self._sent.pop(asked)
        return Arrival(sent.node, None, time.monotonic() - sent.pushed_at, damage)

    def _nodes_of(self, ids: Sequence[str]) -> str:
        return ",".join(sorted({str(self._sent[one].node) for one in ids if one in self._sent}))


def _arrived(pulled: Iterable[Message]) -> Iterator[Sequence[Message]]:
    """Replies that arrived together: all of a list; one by one where each is made when it is asked for."""
    if isinstance(pulled, Sequence):
        yield from [pulled] if pulled else []
    else:
        for message in pulled:
            yield [message]
