"""Rounds of a model that is part bfloat16: by every rule, compressed or not, stopped and resumed."""

from functools import partial

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedAvgM

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.compress import Wire
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum
from fedmb.aggregation.rule import Mean
from fedmb.arrays.bfloat16 import BFLOAT16, rounded, widened
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import reply_to
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

RULES = [Mean(), TrimmedMean(1), Median(), GeometricMedian(), MultiKrum(1), ClippedMean()]
STRATEGIES = {
    **{type(rule).__name__: partial(MiniBatchFedAvg, rule, memory_bytes=0) for rule in RULES},
    "FedAvg": FedAvg,
    "FedAvgM": partial(FedAvgM, server_momentum=0.9),
}


def learnt(client, instruction):
    """The same change for the half in bfloat16 and the half in float32, and a row more."""
    number, version = int(client[-1]), instruction.base_version
    change = np.random.default_rng([number, version]).standard_normal((5, 4)).astype(np.float32)
    arrays = {
        "half": rounded(widened(instruction.arrays["half"]) + change),
        "full": instruction.arrays["full"] + change,
        "seen": instruction.arrays["seen"] + number,
    }
    return Update(arrays, 10.0 + number, version, {client: {}}, sums={"units": 10.0, "loss": 1.0})


def run(make, wire, state=None, *, count=2):
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["client"]
        return reply_to(message, partial(learnt, client), client=client)

    grid = InProcessGrid(app, {10 + k: {"client": f"client-{k}"} for k in range(6)})
    zeros = np.zeros((5, 4), np.float32)
    first = ServerState(0, {"half": rounded(zeros), "full": zeros, "seen": np.array([7])})
    return RoundLoop(grid, make(), Rounds(count=count), on_round=lambda *_: None, wire=wire).run(state or first)


@pytest.mark.parametrize("compression", ["none", "bf16"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_both_halves_of_a_model_move_alike_and_a_resumed_run_has_the_same_bits(name, compression, tmp_path):
    make, wire = STRATEGIES[name], Wire(compression=compression)
    whole, first = run(make, wire), run(make, wire, count=1)
    checkpoint.save(tmp_path, first)
    resumed = run(make, wire, checkpoint.newest(tmp_path))

    assert first.arrays["half"].dtype == whole.arrays["half"].dtype == BFLOAT16
    assert np.abs(first.arrays["full"]).max() > 0.1
    assert np.allclose(widened(first.arrays["half"]), first.arrays["full"], rtol=2**-7, atol=0.03)
    assert first.arrays["seen"].dtype == np.int64
    assert first.arrays["seen"][0] in range(7, 13)
    assert checkpoint.to_bytes(whole) == checkpoint.to_bytes(resumed)
