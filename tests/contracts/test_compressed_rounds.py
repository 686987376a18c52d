"""Rounds whose updates travel compressed: as accurate, as repeatable and as guarded as others."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from fedmb.aggregation.compress import Wire
from fedmb.batch.table import TableSource
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.residual import Residual
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.server import scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.update import Update

ROUNDS = 12
SCHEMES = ["bf16", "int8", "top"]


def digits_grid(folder, count=3):
    task = Digits()
    rows = task.train_rows()
    clients = {}
    for at in range(count):
        part = {name: array[at::count] for name, array in rows.items()}
        source = TableSource(part, seed=0, client=f"c{at}")
        training = Training.plain(batch_size=32, steps=10, learning_rate=0.2)
        clients[f"c{at}"] = LocalUpdate(task, source, training, client=f"c{at}", seed=0)
    app = client_app(lambda context: clients[context.node_config["client"]], lambda name: Residual(folder / name))
    return InProcessGrid(app, {10 + at: {"client": f"c{at}"} for at in range(count)})


def run(grid, wire, *, state=None, count=ROUNDS, strategy=None):
    reports = []
    loop = RoundLoop(
        grid,
        strategy or MiniBatchFedAvg(),
        Rounds(count=count, connect_seconds=1),
        on_round=lambda _, report: reports.append(report),
        wire=wire,
    )
    return loop.run(state or ServerState(0, initial_arrays(Digits(), 0))), reports


def accuracy(state):
    return scorer(Digits(), {"": Digits().test_rows()})(state)["accuracy"]


@pytest.fixture(scope="module")
def uncompressed(tmp_path_factory):
    state, reports = run(digits_grid(tmp_path_factory.mktemp("whole")), Wire())
    return accuracy(state), reports[-1]


@pytest.mark.parametrize(("scheme", "share"), [("bf16", 0.5), ("int8", 0.26), ("top", 0.1)])
def test_digits_are_learnt_within_a_point_in_the_same_rounds_with_fewer_bytes(tmp_path, uncompressed, scheme, share):
    state, reports = run(digits_grid(tmp_path), Wire(compression=scheme))
    known, whole = uncompressed
    about = 6000  # bytes of three replies beside their models: layout, position, metrics

    assert known > 0.9
    assert accuracy(state) > known - 0.01
    assert whole.bytes_up * share - about < reports[-1].bytes_up < whole.bytes_up * share + about
    assert reports[-1].bytes_down == pytest.approx(whole.bytes_down, rel=0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_that_stops_and_goes_on_has_the_same_bits(tmp_path, scheme):
    wire = Wire(compression=scheme)
    whole, _ = run(digits_grid(tmp_path / "whole"), wire, count=4)
    first, _ = run(digits_grid(tmp_path / "cut"), wire, count=2)
    beyond, _ = run(digits_grid(tmp_path / "cut"), wire, count=3, state=first)  # a round that the server forgets
    resumed, _ = run(digits_grid(tmp_path / "cut"), wire, count=4, state=first)

    assert beyond.version == 3
    assert all(np.array_equal(array, resumed.arrays[name]) for name, array in whole.arrays.items())
    assert whole.positions == resumed.positions


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flowers_strategies_average_decompressed_models(tmp_path, scheme):
    flowers = FedAvg(fraction_evaluate=0.0)
    ours, _ = run(digits_grid(tmp_path / "a"), Wire(compression=scheme), count=1)
    theirs, _ = run(digits_grid(tmp_path / "b"), Wire(compression=scheme), count=1, strategy=flowers)

    assert all(np.allclose(array, theirs.arrays[name], atol=1e-6) for name, array in ours.arrays.items())


class Steady:
    """A client whose change is always one vector; `weights` says how much it learnt in each round."""

    client = "a"

    def __init__(self, change, weights):
        self.change, self.weights = change, iter(weights)

    def run(self, arrays, *, base_version, position, ledger=None, terms=None):
        weight = next(self.weights)
        if weight is None:  # an update that starts from another version is dropped
            base_version, weight = base_version + 7, 1.0
        own = {key: value for key, value in position.items() if key == "residual"} if weight == 0 else {}
        moved = {"w": arrays["w"] + self.change, "seen": arrays["seen"] + 1}
        return Update(moved, weight, base_version, {"a": own}, sums={"units": weight, "loss": 0.0})


def test_a_dropped_update_takes_nothing_of_what_is_left_with_it(tmp_path):
    change = np.linspace(-1, 1, 40, dtype=np.float32)
    wire = Wire(compression="top", top_share=0.25)

    def learnt(name, weights):
        app = client_app(lambda context: Steady(change, [weights.pop(0)]), lambda client: Residual(tmp_path / name))
        state = ServerState(0, {"w": np.zeros(40, np.float32), "seen": np.array(0)})
        after, _ = run(InProcessGrid(app, {10: {}}), wire, count=len(weights), state=state)
        return after.arrays

    straight = learnt("straight", [1.0] * 5)
    stumbling = learnt("stumbling", [1.0, None, 1.0, 0.0, 1.0, None, 1.0, 1.0])

    assert np.array_equal(straight["w"], stumbling["w"])
    assert stumbling["seen"] == 5


def test_a_reply_without_anything_learnt_carries_no_model(tmp_path):
    change = np.ones(50_000, np.float32)
    app = client_app(lambda context: Steady(change, [0.0]))
    state = ServerState(0, {"w": np.zeros(50_000, np.float32), "seen": np.array(0)})
    after, (report,) = run(InProcessGrid(app, {10: {}}), Wire(), count=1, state=state)

    assert report.clients == 1
    assert report.bytes_down > 200_000
    assert report.bytes_up < 2_000
    assert not after.arrays["w"].any()


class Ahead:
    """A resident client between two messages: it takes up to `most` steps ahead after each reply."""

    def __init__(self, trainer, most):
        self.trainer, self.most, self.client = trainer, most, trainer.client
        self.taken = []

    def run(self, *arguments, **named):
        self.taken.append(self.trainer.steps_ahead)
        update = self.trainer.run(*arguments, **named)
        for _ in range(self.most):
            self.trainer.step_ahead()
        return update


@pytest.mark.parametrize("scheme", ["none", *SCHEMES])
def test_steps_ahead_count_whatever_the_wire_keeps_in_a_position(tmp_path, scheme):
    def learnt(most):
        clients = {}
        for at, name in enumerate("ab"):
            rows = {column: array[at:200:2] for column, array in Digits().train_rows().items()}
            training = Training.plain(batch_size=16, steps=6, learning_rate=0.2, overlap_steps=3)
            source = TableSource(rows, seed=0, client=name)
            clients[name] = Ahead(LocalUpdate(Digits(), source, training, client=name, seed=0), most)
        app = client_app(
            lambda context: clients[context.node_config["client"]], lambda name: Residual(tmp_path / f"{most}{name}")
        )
        grid = InProcessGrid(app, {10: {"client": "a"}, 11: {"client": "b"}})
        after, _ = run(grid, Wire(compression=scheme), count=4)
        return after.arrays, clients["a"].taken

    (none, _), (one, first), (three, whole) = learnt(0), learnt(1), learnt(3)

    assert (first, whole) == ([0, 1, 1, 1], [0, 3, 3, 3])
    assert all(np.array_equal(array, three[name]) for name, array in one.items()), "times must decide no bit"
    assert not all(np.array_equal(array, none[name]) for name, array in one.items()), "steps ahead were dropped"
