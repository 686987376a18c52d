"""SCAFFOLD's control variates: where all clients' gradients point, so that each can correct for where its own do.

    client   y = x; steps on  gradient - own + mean           own' = own - mean + (x - y) / reach
    server   x = mean of the y's                               sum += own' - own;  mean = sum / number of clients

A client's change of its own variate follows from its reply, `own' - own = (x - y) / reach - mean`, so nothing but the
model and one number travel upwards. A client keeps its own variate, by the version of the model that it went into
(`fedmb.training.control_variate`); an update that is not averaged changes neither side.

A client that has lost its own says so. The server cannot know what the sum holds of it, so everyone begins anew at 0:
the generation, a number that travels with the mean, is raised. One round is then FedAvg's.

Source: Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II; (x - y) / reach is its (x - y) / (K eta),
for learning rates that change and for momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmb.aggregation.server_optimizer import stepped
from fedmb.aggregation.stack import matrix_of
from fedmb.arrays.bfloat16 import BFLOAT16
from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from fedmb.aggregation.stack import Stack
    from fedmb.update import Arrays

    Model = dict[str, NDArray[Any]]

_CELLS = 1 << 18  # values of all clients in a block
_SUM = "sum/"
_CLIENTS, _GENERATION = "clients", "generation"


LOST = "control_lost"
"""Sum of an update that says that its client began anew, though the server counts on what it had."""


@dataclass(frozen=True, slots=True)
class Variate:
    """What the server sends of control variates."""

    mean: Arrays
    """Over all clients; empty while all are 0."""
    generation: int
    """Raised when everyone begins anew."""


class ControlVariates:
    """The server's half: the sum of all clients' variates.

    Args:
        parameters: names of the arrays that are stepped; every floating one if left out.
    """

    def __init__(self, parameters: Collection[str] | None = None) -> None:
        self.parameters = None if parameters is None else frozenset(parameters)
        self.generation = 0
        """How often everyone began anew."""
        self._sum: Model = {}
        self._clients: set[str] = set()

    def mean(self) -> Model:
        """The mean of all clients' variates, of every stepped array; empty while all are 0."""
        count = len(self._clients)
        return {name: np.asarray(array / array.dtype.type(count)) for name, array in self._sum.items()}

    def learn(self, stack: Stack, before: Arrays, lost: Iterable[str] = ()) -> None:
        """Add what the round's clients changed of their variates.

        Args:
            stack: their models, each with its reach.
            before: the model that all of them started from.
            lost: those that have lost their own.
        """
        if lost := tuple(lost):
            self._sum, self._clients = {}, set()
            self.generation += 1
            return
        mean = self.mean()
        total = {name: self._begun(name, before) for name in stepped(before, self.parameters)}
        flat = {name: array.reshape(-1) for name, array in total.items()}
        rows, start, reaches = stack.rows(), stack.beside(before), stack.reaches
        for block in stack.layout.blocks(max(1, _CELLS // max(1, len(stack))), floating=True):
            models = matrix_of(rows, block, np.dtype(np.float64))
            models -= matrix_of([start], block, np.dtype(np.float64))
            gradient = np.zeros(block.size)
            for change, reach in zip(models, reaches.tolist(), strict=True):
                gradient -= change / reach
            for piece in block.pieces:
                if piece.field.name in flat:
                    part = gradient[piece.at : piece.at + piece.stop - piece.start]
                    flat[piece.field.name][piece.start : piece.stop] += part
        for name, array in mean.items():
            total[name] -= len(stack) * array.astype(np.float64)
        self._sum = {name: array.astype(_kept(before[name].dtype)) for name, array in total.items()}
        self._clients |= set(stack.clients)

    def _begun(self, name: str, before: Arrays) -> NDArray[np.float64]:
        found = self._sum.get(name)
        return np.zeros(before[name].shape) if found is None else found.astype(np.float64)

    def state_dict(self) -> Model:
        """Sum, names of the clients in it, and generation."""
        if not self._sum and not self.generation:
            return {}
        clients = np.frombuffer("\n".join(sorted(self._clients)).encode(), np.uint8)
        state: Model = {_SUM + name: array for name, array in self._sum.items()}
        return state | {_CLIENTS: clients.copy(), _GENERATION: np.array(self.generation)}

    def load_state_dict(self, state: Arrays) -> None:
        """Go on from what `state_dict` gave; an empty one is a beginning.

        Raises:
            SettingsError: it is something else's.
        """
        if unknown := [key for key in state if not key.startswith(_SUM) and key not in {_CLIENTS, _GENERATION}]:
            raise SettingsError(
                f"a run keeps its control variates, got {unknown[0]!r} in its checkpoint; start a new run",
                key="training.control_variates",
            )
        self._sum = {key.removeprefix(_SUM): np.asarray(one) for key, one in state.items() if key.startswith(_SUM)}
        names = np.asarray(state[_CLIENTS]).tobytes().decode() if _CLIENTS in state else ""
        self._clients = set(names.split("\n")) - {""}
        self.generation = int(state[_GENERATION]) if _GENERATION in state else 0


def _kept(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a variate: float32 for 16-bit parameters."""
    return np.dtype(np.float32) if dtype == BFLOAT16 or dtype.itemsize < np.dtype(np.float32).itemsize else dtype
