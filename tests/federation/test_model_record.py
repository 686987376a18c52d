import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
)

from fedmb.arrays.bfloat16 import BFLOAT16, rounded, widened
from fedmb.arrays.flat import FlatArrays, Layout
from fedmb.errors import ShapeError
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.model_record import (
    aggregated,
    arrays_from_record,
    arrays_to_record,
    averaged_record,
    flat_from_record,
    flat_to_record,
)
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

FLOWERS = [
    *(FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi, FedProx, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan),
    QFedAvg,
]
PRIVATE = {
    DifferentialPrivacyServerSideFixedClipping: {"clipping_norm": 0.5},
    DifferentialPrivacyServerSideAdaptiveClipping: {"initial_clipping_norm": 0.5, "clipped_count_stddev": 1e-9},
}
MIXED = {
    "block.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "block.bias": rounded(np.array([1.0, -2.5, 3.0e38])),
    "norm.scale": np.array([0.5, 2.0], np.float16),
    "norm.seen": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
}


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


class Moving:
    """A client that adds its step to every number and sets the counter."""

    def __init__(self, client, step, weight, seen):
        self.client, self.step, self.weight, self.seen = client, step, weight, seen

    def run(self, arrays, *, base_version, position, ledger=None, terms=None):
        moved = {
            "w": arrays["w"] + np.float32(self.step),
            "h": (arrays["h"] + np.float16(self.step)).astype(np.float16),
            "b": rounded(widened(arrays["b"]) + np.float32(self.step)),
            "seen": np.array(self.seen),
        }
        return Update(moved, self.weight, base_version, {self.client: {}}, sums={"units": self.weight, "loss": 1.0})


def one_round(strategy, count=3):
    names = "abcdefghij"[:count]
    clients = {
        name: Moving(name, step=at + 1.0, weight=float(at % 4 + 1), seen=(1 << 60) + at)
        for at, name in enumerate(names)
    }
    app = client_app(lambda context: clients[context.node_config["client"]])
    grid = InProcessGrid(app, {10 + at: {"client": name} for at, name in enumerate(names)})
    model = {"w": np.ones(4, np.float32), "h": np.ones(2, np.float16), "b": rounded(np.ones(3)), "seen": np.array(7)}
    loop = RoundLoop(grid, strategy, Rounds(count=1, connect_seconds=1), on_round=lambda *_: None)
    return loop.run(ServerState(0, model)).arrays


@pytest.mark.parametrize("strategy", FLOWERS)
def test_flowers_strategies_see_vectors_that_may_be_averaged_and_nothing_else(strategy):
    class Watched(strategy):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            self.saw = {(name, array.shape) for reply in replies for name, array in reply.content["arrays"].items()}
            return super().aggregate_train(server_round, replies)

    own = {"client_learning_rate": 0.1, "train_loss_key": "loss"} if strategy is QFedAvg else {}
    watched = Watched(fraction_evaluate=0.0, **own)
    after = one_round(watched, count=4)

    assert watched.saw == {("float32", (9,))}
    assert after["seen"] == (1 << 60) + 3  # whole, of the heaviest client: float64 cannot even hold it
    assert {name: array.dtype for name, array in after.items()} == {
        "w": np.float32,
        "h": np.float16,
        "seen": np.int64,
        "b": BFLOAT16,
    }
    assert after["w"][0] > 1


@pytest.mark.parametrize("wrapper", PRIVATE)
def test_flowers_private_strategies_clip_and_noise_what_may_be_averaged(wrapper):
    private = wrapper(FedAvg(fraction_evaluate=0.0), noise_multiplier=1e-9, num_sampled_clients=3, **PRIVATE[wrapper])
    after = one_round(private, count=3)
    whole = one_round(FedAvg(fraction_evaluate=0.0), count=3)

    assert after["seen"] == whole["seen"]
    assert 1 < after["w"][0] < whole["w"][0]  # the longer changes were clipped


def test_sixteen_bit_floats_are_averaged_in_more_and_rounded_once():
    after = one_round(MiniBatchFedAvg(), count=3)
    mean = (1 * 2 + 2 * 3 + 3 * 4) / 6

    assert np.allclose(after["w"], mean)
    assert np.array_equal(after["h"], np.full(2, mean, np.float16))
    assert np.array_equal(widened(after["b"]), widened(rounded(np.full(3, mean))))


def test_a_flat_record_has_an_entry_a_dtype_and_gives_every_array_back():
    record, layout = flat_to_record(MIXED)
    back = flat_from_record(record, Layout.from_text(layout.text))

    assert sorted(record) == ["bfloat16", "bool", "float16", "float32", "int64"]
    assert record["bfloat16"].numpy().dtype == np.uint16  # Flower knows no bfloat16; its own reader still reads it
    assert all(same(back[name], array) for name, array in MIXED.items())
    assert flat_to_record(FlatArrays.packed(MIXED))[0] == record


def test_a_record_by_array_is_the_one_that_flower_makes():
    plain = {name: array for name, array in MIXED.items() if array.dtype != BFLOAT16}

    assert arrays_to_record(plain) == ArrayRecord({name: Array(array) for name, array in plain.items()})
    back = arrays_from_record(arrays_to_record(MIXED), MIXED)
    assert all(same(back[name], array) for name, array in MIXED.items())


def test_reading_a_record_copies_nothing():
    record, layout = flat_to_record({"w": np.arange(4.0)})
    back = flat_from_record(record, layout)

    assert not back["w"].flags.owndata
    assert not back["w"].flags.writeable


def test_what_is_averaged_comes_back_in_the_models_dtypes_with_the_counters_of_one_client():
    model = FlatArrays.packed(MIXED)
    whole = FlatArrays.packed({**MIXED, "norm.seen": np.array(99)})
    back = aggregated(model, averaged_record(model), whole)

    assert all(same(back[name], array) for name, array in MIXED.items() if name != "norm.seen")
    assert back["norm.seen"] == 99


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({}, "float32"),
        ({"float32": np.zeros(3, np.float32)}, "11"),
        ({"float32": np.zeros((11, 1), np.float32)}, "11"),
        ({"float32": np.zeros(11, np.float32), "more": np.zeros(1)}, "more"),
    ],
)
def test_a_strategy_that_breaks_the_model_is_told_so(entries, said):
    model = FlatArrays.packed(MIXED)
    record = ArrayRecord({name: Array(array) for name, array in entries.items()})

    with pytest.raises(ShapeError, match=said):
        aggregated(model, record, model)


@pytest.mark.parametrize(
    "broken",
    [
        lambda r: r.pop("float32"),
        lambda r: r.update(more=Array(np.zeros(1))),
        lambda r: r.update(float32=Array(np.zeros(5, np.float32))),
        lambda r: r.update(float32=Array(np.zeros(6))),
        lambda r: r.update(float32=Array(np.zeros((6, 1), np.float32))),
        lambda r: r.update(bfloat16=Array(np.zeros(3, np.float16))),
        lambda r: r.update({f"../{at}": Array(np.zeros(1)) for at in range(2000)}),
    ],
)
def test_a_flat_record_of_another_layout_is_refused(broken):
    record, layout = flat_to_record(MIXED)
    broken(record)

    with pytest.raises(ShapeError) as refusal:
        flat_from_record(record, layout)
    assert len(str(refusal.value)) < 1000
