import numpy as np
import pytest
from torch import nn

from fedmb.batch.minibatch import Column
from fedmb.batch.table import TableSource
from fedmb.training.local_arrays import LocalArrays
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

GLOBAL = {"w": np.zeros(3), "norm": np.ones(2), "count": np.array(4)}


def trained(value):
    return {"w": np.full(3, value), "norm": np.full(2, value), "count": np.array(int(value))}


@pytest.fixture(params=["memory", "files"])
def fresh(request, tmp_path):
    """Makes the client's keeper as a new process would, where it has a directory."""
    one = LocalArrays({"norm", "count"})
    return (lambda: one) if request.param == "memory" else (lambda: LocalArrays({"norm", "count"}, tmp_path))


def test_what_stays_is_withheld_and_overlaid_the_next_time(fresh):
    sent = fresh().withheld(trained(7.0), GLOBAL, 1)
    back = fresh().overlaid(GLOBAL, 1)

    assert np.array_equal(sent["w"], np.full(3, 7.0))
    assert np.array_equal(sent["norm"], GLOBAL["norm"])
    assert np.array_equal(back["norm"], np.full(2, 7.0))
    assert back["count"] == 7
    assert np.array_equal(back["w"], GLOBAL["w"])


def test_before_its_first_round_a_client_has_the_global_values(fresh):
    assert fresh().overlaid(GLOBAL, 5) == GLOBAL


def test_a_server_that_resumed_from_an_older_version_finds_what_belongs_to_it(fresh):
    for version in (1, 2, 3):
        fresh().withheld(trained(float(version)), GLOBAL, version)

    assert fresh().overlaid(GLOBAL, 2)["count"] == 2
    assert fresh().overlaid(GLOBAL, 9)["count"] == 3


def test_only_the_last_versions_are_kept(tmp_path):
    keeper = LocalArrays({"norm"}, tmp_path)
    for version in range(1, 9):
        keeper.withheld(trained(float(version)), GLOBAL, version)

    assert sorted(path.name for path in tmp_path.iterdir()) == [f"local-{version}.safetensors" for version in (6, 7, 8)]


def test_without_names_everything_travels():
    keeper = LocalArrays(())

    assert keeper.withheld(GLOBAL, {}, 1) is GLOBAL
    assert keeper.overlaid(GLOBAL, 1) is GLOBAL


class Normed:
    """A batch norm and a line: the norm is the site's, the line everyone's."""

    schema = {"x": Column("float32", (3,)), "y": Column("float32")}

    def build_model(self):
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))

    def forward(self, model, rows):
        return model(rows["x"])[:, 0]

    def loss(self, outputs, rows):
        return (outputs - rows["y"]) ** 2

    def metrics(self, outputs, rows):
        return {}


def client(which, directory=None):
    random = np.random.default_rng(0)
    x = (random.standard_normal((60, 3)) * 4 + 9).astype(np.float32)
    rows = TableSource({"x": x, "y": x.sum(1)}, seed=0, client="a")
    training = Training.plain(batch_size=10, steps=6, learning_rate=0.01, norm_travels=which)
    return LocalUpdate(Normed(), rows, training, client="a", seed=0, directory=directory)


@pytest.mark.parametrize(
    ("which", "stay"),
    [
        ("all", set()),
        ("silobn", {"0.running_mean", "0.running_var", "0.num_batches_tracked"}),
        ("fedbn", {"0.weight", "0.bias", "0.running_mean", "0.running_var", "0.num_batches_tracked"}),
    ],
)
def test_a_client_sends_what_travels_and_keeps_the_rest(which, stay):
    start = initial_arrays(Normed(), 0)
    update = client(which).run(start, base_version=0, position={})
    unchanged = {name for name, array in update.arrays.items() if np.array_equal(array, start[name])}

    assert unchanged == stay


def test_a_client_that_died_between_rounds_goes_on_with_its_own_norm(tmp_path):
    def two_rounds(one, other):
        first = one.run(initial_arrays(Normed(), 0), base_version=0, position={})
        return other.run(first.arrays, base_version=1, position=first.positions["a"]).arrays

    alive = client("fedbn")
    whole = two_rounds(alive, alive)
    reborn = two_rounds(client("fedbn", tmp_path), client("fedbn", tmp_path))

    assert all(np.array_equal(whole[name], reborn[name]) for name in whole)
