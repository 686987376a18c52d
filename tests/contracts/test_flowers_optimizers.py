"""The server's optimisers beside Flower's own of the same names, round by round.

Flower's second moments begin at 0 and ours at tau squared, as in the paper; so tau is small here. Flower's FedAdam
corrects the bias of its moments and counts rounds from 2 while it does; the paper's and ours does not.
"""

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flowers

from fedmb.aggregation.directions import Adagrad, Adam, Momentum, Yogi
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import reply_to
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

ROUNDS, TAU = 5, 1e-7
PAIRS = {
    "FedAvgM": (
        lambda: flowers.FedAvgM(server_momentum=0.9, server_learning_rate=0.5),
        lambda: Stepping(Momentum(0.9), rate=0.5),
    ),
    "FedAdagrad": (lambda: flowers.FedAdagrad(eta=0.1, tau=TAU), lambda: Stepping(Adagrad(TAU), rate=0.1)),
    "FedYogi": (
        lambda: flowers.FedYogi(eta=0.1, beta_1=0.9, beta_2=0.99, tau=TAU),
        lambda: Stepping(Yogi(tau=TAU), rate=0.1),
    ),
    "FedAdam": (
        lambda: flowers.FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=TAU),
        lambda: Stepping(Adam(tau=TAU), rate=0.1),
    ),
}


def models_of(strategy):
    """The model before the first round and after each; clients' changes depend on their names and the round alone."""
    app = ClientApp()

    def learn(client, instruction):
        draws = np.random.default_rng([int(client[-1]), instruction.base_version])
        arrays = {
            name: array + draws.standard_normal(array.shape).astype(np.float32)
            for name, array in sorted(instruction.arrays.items())
        }
        weight = 10.0 + int(client[-1])
        return Update(arrays, weight, instruction.base_version, {client: {}}, sums={"units": weight, "loss": 1.0})

    @app.train()
    def train(message, context):
        client = context.node_config["client"]
        return reply_to(message, lambda instruction: learn(client, instruction), client=client)

    start = ServerState(0, {"w": np.zeros((3, 4), np.float32), "b": np.ones(4, np.float32)})
    seen = [start.arrays]
    grid = InProcessGrid(app, {10 + number: {"client": f"client-{number}"} for number in range(4)})
    loop = RoundLoop(grid, strategy, Rounds(count=ROUNDS), on_round=lambda state, report: seen.append(state.arrays))
    loop.run(start)
    return [np.concatenate([one["b"].ravel(), one["w"].ravel()]).astype(np.float64) for one in seen]


@pytest.mark.parametrize("name", PAIRS)
def test_the_numbers_are_flowers_where_the_definitions_agree(name):
    flower, ours = PAIRS[name]
    theirs, mine = models_of(flower()), models_of(MiniBatchFedAvg(optimizer=ours()))

    for number in range(1, ROUNDS + 1):
        moved, other = mine[number] - mine[number - 1], theirs[number] - theirs[number - 1]
        if name == "FedAdam":
            moved = moved * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        assert np.allclose(moved, other, rtol=2e-5, atol=1e-6), number
    assert not np.allclose(mine[-1], mine[0])
