"""What a rule is, and the rule that nobody has to choose: the weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedmb.aggregation.blockwise import take_whole, weighted_sum
from fedmb.errors import NotEnoughData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]


class Rule(Protocol):
    """How the updates of a round become one model.

    A rule has no memory, and its answer depends on who sent what, never on when it came. Integers and booleans are
    never averaged: they come whole from one client, or element by element from one each.
    """

    def least(self, refused: int = 0) -> int:
        """Fewest updates it can work with, once `refused` of its bad clients' were refused before."""
        ...

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """One model of all in the stack, in their dtypes.

        Args:
            stack: the updates.
            before: the model that all of them started from.
            refused: updates that were refused at the door for what they held; a rule that withstands `f` bad clients
                need withstand only so many fewer.

        Raises:
            NotEnoughData: there are fewer updates than the rule can work with; keep the previous model.
        """
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean, each client weighted by the units that it learnt; integers come from the heaviest client.

    Takes every update at its word: one bad client among any number decides the model.

    Source: FedAvg, McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """

    def least(self, refused: int = 0) -> int:
        """One."""
        return 1

    def combine(self, stack: Stack, before: Arrays, *, refused: int = 0) -> Model:
        """Sum of weight x model over the sum of weights, in float64 and by client name."""
        total = total_weight(stack)
        return take_whole(stack, weighted_sum(stack, stack.weights, total), heaviest(stack))


def total_weight(stack: Stack) -> float:
    """Sum of all weights.

    Raises:
        NotEnoughData: it is 0.
    """
    total = float(sum(stack.weights.tolist()))  # one after the other: numpy's sum groups by how many there are
    if total == 0:
        raise NotEnoughData(
            f"a mean needs a positive total weight, got {len(stack)} models of total weight 0; "
            "keep the previous model for this round"
        )
    return total


def heaviest(stack: Stack, among: NDArray[np.int64] | None = None) -> str:
    """The client of the largest weight, of all or `among` some of them; the first by name on a tie."""
    numbers = np.arange(len(stack)) if among is None else np.sort(among)
    return stack.clients[int(numbers[np.argmax(stack.weights[numbers])])]


def demand(rule: Rule, stack: Stack, refused: int = 0) -> None:
    """Refuse to work with too few updates.

    Raises:
        NotEnoughData: there are fewer than the rule's `least`.
    """
    least = rule.least(refused)
    if len(stack) < least:
        beside = f" beside {refused} refused" if refused else ""
        raise NotEnoughData(
            f"{rule} needs at least {least} updates{beside}, got {len(stack)}; keep the previous model for this round, "
            "and let more clients take part or lower aggregation.bad_clients"
        )


def left_over(bad_clients: int, refused: int) -> int:
    """Bad clients that may still be among those let in."""
    return max(0, bad_clients - refused)
