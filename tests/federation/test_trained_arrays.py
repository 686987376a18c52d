"""A server without torch steps what its clients say is trained: to the bits of one that reads it off the model."""

from dataclasses import replace

import pytest
from normed_digits import NormedDigits

from fedmb.aggregation.rule_choice import Aggregation
from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError, ShapeError
from fedmb.federation import checkpoint
from fedmb.federation.client import client_app
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.federation.strategy_choice import strategy_from
from fedmb.federation.trained_arrays import are_stepped, known_to
from fedmb.simulation.grid import InProcessGrid
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import parameter_names, statistics_names
from fedmb.training.recipe import Training

SEED = 5
PRIVACY = {"clip_norm": 1.0, "clients": 2, "randomness": "seeded", "noise_multiplier": 0.1}
WAYS = {
    "adam": ({"optimizer": {"name": "fedadam"}}, {}),
    "nova": ({"rule": "fednova"}, {}),
    "scaffold": ({"weights": "equal", "optimizer": {"name": "fedavgm"}}, {"control_variates": True}),
    "private": ({"weights": "equal", "privacy": PRIVACY, "optimizer": {"name": "fedyogi"}}, {"norm": "layer"}),
}


class Fewer(NormedDigits):
    """The same arrays, of which the last layer's bias is no parameter."""

    def build_model(self):
        model = super().build_model()
        bias = model[-1].bias.detach()
        del model[-1].bias
        model[-1].register_buffer("bias", bias)
        return model


class Federation:
    """Two clients, and servers with and without a task on them."""

    def __init__(self, place, way, *tasks):
        told, training = WAYS[way]
        self.place = place
        self.aggregation = Aggregation(**told)
        self.training = Training.plain(batch_size=32, steps=4, learning_rate=0.1, **training)
        rows = NormedDigits().train_rows()
        self.trainers = {
            f"c{k}": LocalUpdate(
                task,
                TableSource({name: array[k::2] for name, array in rows.items()}, seed=SEED, client=f"c{k}"),
                self.training,
                client=f"c{k}",
                seed=SEED,
                directory=place / f"c{k}",
            )
            for k, task in enumerate(tasks or (NormedDigits(), NormedDigits()))
        }

    def server(self, task, name, count=2):
        run = RunDirectory(self.place / name)
        strategy = strategy_from(self.aggregation, self.training, Rounds(), task, seed=SEED, directory=self.place)
        return Server(task, Rounds(count=count), strategy, run, seed=SEED, training=self.training)

    def trained(self, task, name, count=2, sinks=()):
        app = client_app(lambda context: self.trainers[context.node_config["client"]])
        self.asked = []

        def noting(message, context):
            self.asked.append(message.metadata.message_type)
            return app(message, context)

        grid = InProcessGrid(noting, {10 + k: {"client": f"c{k}"} for k in range(2)})
        return self.server(task, name, count).train(grid, sinks=sinks)


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_in_the_bits_of_one_with_torch_and_goes_on_without_asking_again(way, tmp_path):
    with_torch = Federation(tmp_path / "with", way).trained(NormedDigits(), "run")
    without = Federation(tmp_path / "without", way)
    without.trained(None, "run", count=1)
    assert without.asked == ["query", "query", "train", "train"]
    resumed = without.trained(None, "run")
    assert without.asked == ["train", "train"]
    names = parameter_names(NormedDigits(), build=without.training.build_model)

    assert resumed.parameters == tuple(sorted(names))
    assert way == "private" or statistics_names(NormedDigits())
    assert checkpoint.to_bytes(resumed) == checkpoint.to_bytes(with_torch)


def test_it_goes_on_with_what_one_with_torch_began_before_checkpoints_said_what_is_trained(tmp_path):
    federation = Federation(tmp_path, "adam")
    whole = federation.trained(NormedDigits(), "whole")
    first = federation.trained(NormedDigits(), "run", count=1)
    (tmp_path / "old").mkdir()
    checkpoint.save(tmp_path / "old" / "checkpoints", replace(first, parameters=()))

    assert checkpoint.to_bytes(federation.trained(None, "old")) == checkpoint.to_bytes(whole)


def test_clients_that_build_another_model_than_the_checkpoint_holds_are_refused(tmp_path):
    federation = Federation(tmp_path, "adam")
    state = federation.trained(NormedDigits(), "run", count=1)
    others = {f"{name}.old": array for name, array in state.arrays.items()}
    (tmp_path / "old").mkdir()
    checkpoint.save(tmp_path / "old" / "checkpoints", replace(state, parameters=(), arrays=others))

    with pytest.raises(ShapeError, match="must carry the model's names"):
        federation.trained(None, "old")


def test_a_client_that_trains_other_arrays_is_named_and_learns_nothing(tmp_path):
    reports = []
    sink = type("Kept", (), {"report": reports.append, "close": lambda self: None})()
    federation = Federation(tmp_path, "adam", NormedDigits(), Fewer())
    federation.trained(None, "run", sinks=[sink])

    assert [report.accepted for report in reports] == [("c0",), ("c0",)]
    for report in reports:
        assert "client c1: server and client must train the same arrays, got 8@" in report.rejected["node 11"]


def test_a_private_model_whose_statistics_would_travel_is_refused_once_clients_say_so(tmp_path):
    federation = Federation(tmp_path, "private")
    federation.training = Training.plain(batch_size=32, steps=4, learning_rate=0.1)
    for trainer in federation.trainers.values():
        trainer.training = federation.training

    with pytest.raises(SettingsError, match=r"no running statistics that travel, got '1.running_mean'"):
        federation.trained(None, "run")


def test_who_steps_nothing_need_not_know_what_is_trained(tmp_path):
    federation = Federation(tmp_path, "adam")
    federation.aggregation = Aggregation()
    assert federation.trained(None, "run").parameters == ()
    assert not are_stepped(MiniBatchFedAvg())
    assert known_to(MiniBatchFedAvg()) == frozenset()
