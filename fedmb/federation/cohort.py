"""What came back from one round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Message

    from fedmb.ledger import Ledger
    from fedmb.update import Update


@dataclass(frozen=True, slots=True)
class Reply:
    """An accepted update with the message that brought it; Flower's strategies aggregate messages.

    Where the strategy is `Receiving`, it has the arrays, and neither of the two.
    """

    update: Update
    message: Message
    norm: float
    """Length of the change that the update makes to the model."""


@dataclass(slots=True)
class Cohort:
    """What came back from one round."""

    ledger: Ledger
    """The model's ledger, advanced by every accepted reply."""
    accepted: dict[str, Reply] = field(default_factory=dict)
    """Accepted replies, by client name."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons, by client name or `node <id>` where no name is known."""
    silent: set[str] = field(default_factory=set)
    """Clients that answered that they have nothing new."""
    resting: tuple[str, ...] = ()
    """Clients that were not asked, because they had nothing new in the last rounds."""
    closed_by: str = "replies"
    """What closed the round: replies, time, rows, drift or enough."""
    late: dict[str, int] = field(default_factory=dict)
    """Accepted clients whose update came late, with how many versions it is behind."""
    is_given_back: bool = False
    """Whether what was accepted does not count after all."""
    bytes_down: int = 0
    """Bytes of the messages to the clients that were asked."""
    bytes_up: int = 0
    """Bytes of the replies that came, refused ones among them."""

    @property
    def positions(self) -> dict[str, Mapping[str, Any]]:
        """Where the sources of accepted clients stand."""
        return {client: reply.update.positions[client] for client, reply in self.accepted.items()}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Clients with nothing new, whether they were asked or not, sorted."""
        return tuple(sorted({*self.silent, *self.resting} - self.accepted.keys()))

    @property
    def has_nothing_new(self) -> bool:
        """Whether clients answered, and not one of them had anything to learn from."""
        return bool(self.skipped) and not self.accepted and not self.is_given_back

    @property
    def heard(self) -> int:
        """Clients that are accounted for: with an update, or with nothing new."""
        return len(self.accepted) + len(self.skipped)

    def in_order(self) -> list[Reply]:
        """Accepted replies by client name: summing in this order gives the same bits whatever arrived first."""
        return [self.accepted[name] for name in sorted(self.accepted)]

    def without(self, quorum: int, before: Ledger) -> str:
        """Give back a round with updates of too few clients; answers why, and nothing where there are enough."""
        if not self.accepted or self.heard >= quorum:
            return ""
        reason = (
            f"a round needs a quorum of {quorum} clients, got {self.heard}; its rows are learnt again; start clients "
            "or lower rounds.quorum"
        )
        self.give_back(before, reason)
        return reason

    def give_back(self, before: Ledger, reason: str) -> None:
        """Let nothing count of what was accepted: no model was made of it, so its rows are still to be learnt."""
        self.rejected |= dict.fromkeys(sorted(self.accepted), reason)
        self.accepted.clear()
        self.late.clear()
        self.is_given_back = True
        self.ledger = before


def reasons_in(rejected: Mapping[str, str]) -> str:
    """The reasons of a fruitless round in one line."""
    return "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "no node answered in time"
