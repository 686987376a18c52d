"""Our strategy takes updates as they come; Flower's own run beside it, unchanged, with a bad client and a resume."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flowers

from fedmb.aggregation.by_element import Median, TrimmedMean
from fedmb.aggregation.clipping import ClippedMean
from fedmb.aggregation.geometric_median import GeometricMedian
from fedmb.aggregation.krum import MultiKrum, krum
from fedmb.errors import NotEnoughData, ShapeError
from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import reply_to
from fedmb.federation.model_record import arrays_to_record
from fedmb.federation.rounds import RoundLoop, Rounds
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.federation.wire import train_config
from fedmb.ledger import Ledger, Position, Span, StreamPartition
from fedmb.simulation.grid import InProcessGrid
from fedmb.update import Update

CLIENTS = 8  # Bulyan needs seven that are let in to withstand one
BAD = "client-3"
RULES = [None, TrimmedMean(1), Median(), GeometricMedian(), krum(1), MultiKrum(1), ClippedMean()]


def learnt(client, instruction, *, bad=BAD, spans=None):
    """An update that follows from the client's name, the round and the model alone."""
    draws = np.random.default_rng([int(client[-1]), instruction.base_version])
    arrays = {
        name: array + draws.standard_normal(array.shape).astype(array.dtype) * np.float32(0.1)
        if array.dtype == np.float32
        else array + 1
        for name, array in sorted(instruction.arrays.items())
    }
    if client == bad:
        arrays["w"] = np.full_like(arrays["w"], np.nan)
    weight = float(10 + int(client[-1]))
    return Update(
        arrays,
        weight,
        instruction.base_version,
        {client: {"round": instruction.base_version}},
        spans=spans or {},
        sums={"units": weight, "loss": weight * draws.uniform(0.5, 1.0)},
    )


class Shuffled(InProcessGrid):
    """Replies arrive in an order of their own."""

    order = random.Random(0)

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        self.order.shuffle(replies)
        return replies


def grid_of(learn=learnt, *, mods=(), kind=InProcessGrid, count=CLIENTS):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        client = context.node_config["client"]
        return reply_to(message, partial(learn, client), client=client)

    return kind(app, {10 + k: {"client": f"client-{k}"} for k in range(count)})


def start():
    return ServerState(0, {"w": np.zeros((3, 4), np.float32), "b": np.ones(4, np.float32), "seen": np.array(7)})


def start_of(name):
    """The first state; what clips in a client multiplies all that travels in place, and so takes no integers."""
    state = start()
    return replace(state, arrays={n: a for n, a in state.arrays.items() if n != "seen"}) if name in MODS else state


def run(grid, strategy, state=None, *, count=2):
    reports = []
    loop = RoundLoop(grid, strategy, Rounds(count=count), on_round=lambda state, report: reports.append(report))
    return loop.run(state or start()), reports


def fixed(kind):
    return lambda: kind(flowers.FedAvg(), noise_multiplier=0.0, clipping_norm=5.0, num_sampled_clients=CLIENTS)


def adaptive(kind):
    return lambda: kind(flowers.FedAvg(), noise_multiplier=0.0, num_sampled_clients=CLIENTS, clipped_count_stddev=0.0)


FLOWERS = {
    "FedAvg": flowers.FedAvg,
    "FedAvgM": partial(flowers.FedAvgM, server_momentum=0.9),
    "FedAdam": flowers.FedAdam,
    "FedAdagrad": flowers.FedAdagrad,
    "FedYogi": flowers.FedYogi,
    "FedProx": partial(flowers.FedProx, proximal_mu=0.1),
    "FedMedian": flowers.FedMedian,
    "FedTrimmedAvg": flowers.FedTrimmedAvg,
    "Krum": partial(flowers.Krum, num_malicious_nodes=1),
    "MultiKrum": partial(flowers.MultiKrum, num_malicious_nodes=1, num_nodes_to_select=5),
    "Bulyan": partial(flowers.Bulyan, num_malicious_nodes=1),
    "QFedAvg": partial(flowers.QFedAvg, client_learning_rate=0.1, train_loss_key="loss"),
    "DifferentialPrivacyServerSideFixedClipping": fixed(flowers.DifferentialPrivacyServerSideFixedClipping),
    "DifferentialPrivacyClientSideFixedClipping": fixed(flowers.DifferentialPrivacyClientSideFixedClipping),
    "DifferentialPrivacyServerSideAdaptiveClipping": adaptive(flowers.DifferentialPrivacyServerSideAdaptiveClipping),
    "DifferentialPrivacyClientSideAdaptiveClipping": adaptive(flowers.DifferentialPrivacyClientSideAdaptiveClipping),
}
MODS = {
    "DifferentialPrivacyClientSideFixedClipping": [fixedclipping_mod],
    "DifferentialPrivacyClientSideAdaptiveClipping": [adaptiveclipping_mod],
}
NO_MODELS = {"FedXgbBagging", "FedXgbCyclic", "Strategy", "Result"}  # trees, which no mini-batch trains; two base types


def test_every_strategy_of_flower_that_averages_models_is_tried_here():
    assert {*flowers.__all__} - NO_MODELS == FLOWERS.keys()


@pytest.mark.parametrize("name", FLOWERS)
def test_flowers_strategies_run_unchanged_with_a_bad_client_and_a_resume(name, tmp_path):
    mods = MODS.get(name, ())
    whole, reports = run(grid_of(mods=mods), FLOWERS[name](), start_of(name))
    first, _ = run(grid_of(mods=mods), FLOWERS[name](), start_of(name), count=1)
    checkpoint.save(tmp_path, first)
    resumed, _ = run(grid_of(mods=mods), FLOWERS[name](), checkpoint.newest(tmp_path))

    assert [list(report.rejected) for report in reports] == [[BAD]] * 2
    assert [report.clients for report in reports] == [CLIENTS - 1] * 2
    assert whole.version == resumed.version == 2
    assert {n: a.dtype for n, a in whole.arrays.items()} == {n: a.dtype for n, a in start_of(name).arrays.items()}
    assert all(np.isfinite(array).all() for array in whole.arrays.values())
    assert not np.array_equal(whole.arrays["w"], first.arrays["w"])
    assert checkpoint.to_bytes(whole) == checkpoint.to_bytes(resumed)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_our_rules_stop_and_go_on_with_the_same_bits(rule, tmp_path):
    whole, reports = run(grid_of(), MiniBatchFedAvg(rule))
    first, _ = run(grid_of(), MiniBatchFedAvg(rule), count=1)
    checkpoint.save(tmp_path, first)
    resumed, _ = run(grid_of(), MiniBatchFedAvg(rule), checkpoint.newest(tmp_path))

    assert [list(report.rejected) for report in reports] == [[BAD]] * 2
    assert checkpoint.to_bytes(whole) == checkpoint.to_bytes(resumed)


def test_replies_shuffled_a_hundred_ways_give_one_model():
    for rule in RULES:
        in_order, _ = run(grid_of(), MiniBatchFedAvg(rule), count=1)
        grid, ways = grid_of(kind=Shuffled), 100 if rule is None else 10
        shuffled = {checkpoint.to_bytes(run(grid, MiniBatchFedAvg(rule), count=1)[0]) for _ in range(ways)}

        assert shuffled == {checkpoint.to_bytes(in_order)}


class Looking(MiniBatchFedAvg):
    """Sees what it has when it is to make a model."""

    def aggregate_train(self, server_round, replies):
        self.left = [len(reply.content.array_records["arrays"]) for reply in replies]
        self.taken, self.filed = self.stack.clients, self.stack.filed_bytes
        return super().aggregate_train(server_round, replies)


def test_updates_wait_in_the_strategy_and_nowhere_else():
    in_file, in_memory = Looking(memory_bytes=0), Looking()
    filed, _ = run(grid_of(), in_file, count=1)
    held, _ = run(grid_of(), in_memory, count=1)

    assert in_file.taken == in_memory.taken == tuple(f"client-{k}" for k in range(CLIENTS) if k != 3)
    assert in_file.filed > in_memory.filed == 0
    assert in_file.left == in_memory.left == [0] * (CLIENTS - 1)
    assert len(in_file.stack) == len(in_memory.stack) == 0  # nothing is kept while clients learn
    assert checkpoint.to_bytes(filed) == checkpoint.to_bytes(held)


def test_what_was_refused_for_what_it_held_counts_among_the_bad_clients():
    behind_guard, _ = run(grid_of(), MiniBatchFedAvg(TrimmedMean(1)), count=1)
    mean, _ = run(grid_of(partial(learnt, bad="client-3")), MiniBatchFedAvg(Median()), count=1)
    strategy = MiniBatchFedAvg(TrimmedMean(3))  # alone it would need seven
    few, reports = run(grid_of(count=6), strategy, count=1)

    assert not np.array_equal(behind_guard.arrays["w"], mean.arrays["w"])
    assert reports[0].clients == 5
    assert not np.array_equal(few.arrays["w"], start().arrays["w"])


def test_a_client_that_failed_is_no_bad_client_fewer():
    def learn(client, instruction):
        if client == BAD:
            raise NotEnoughData("the disk is gone")
        return learnt(client, instruction)

    state, reports = run(grid_of(learn, count=6), MiniBatchFedAvg(TrimmedMean(3)), count=1)

    assert np.array_equal(state.arrays["w"], start().arrays["w"])
    assert "at least 7 updates, got 5" in reports[0].rejected["client-0"]


@pytest.mark.parametrize(
    "strategy",
    [partial(MiniBatchFedAvg, MultiKrum(4)), partial(flowers.Bulyan, num_malicious_nodes=2)],
    ids=["ours", "flowers"],
)
def test_a_round_without_a_model_keeps_the_last_one_and_learns_its_rows_again(strategy):
    partition = StreamPartition("site", "rows", 0)
    spans = {"client-0": {partition: Span(Position(0), Position(9))}}

    def learn(client, instruction):
        return learnt(client, instruction, spans=spans.get(client))

    state, reports = run(grid_of(learn), strategy(), count=2)

    assert state.version == 2
    assert np.array_equal(state.arrays["w"], start().arrays["w"])
    assert state.ledger == Ledger()
    assert state.positions == {}
    assert [report.clients for report in reports] == [0, 0]
    assert reports[0].rejected.keys() == {f"client-{k}" for k in range(CLIENTS)}


def test_a_rule_that_never_has_enough_updates_ends_the_run_with_the_reason():
    with pytest.raises(NotEnoughData, match=r"3 rounds in a row .* needs at least 9 updates beside 1 refused, got 7"):
        run(grid_of(), MiniBatchFedAvg(MultiKrum(4)), count=9)


def test_under_flowers_own_start_replies_are_taken_when_they_are_aggregated(caplog):
    initial = arrays_to_record(start().arrays)
    honest = grid_of(partial(learnt, bad=None))
    result = MiniBatchFedAvg(Median()).start(honest, initial, num_rounds=1, train_config=train_config(0, {}), timeout=9)
    ours, _ = run(grid_of(partial(learnt, bad=None)), MiniBatchFedAvg(Median()), count=1)

    assert np.array_equal(result.arrays["w"].numpy(), ours.arrays["w"])


def test_too_few_updates_under_flowers_own_start_are_no_model():
    strategy = MiniBatchFedAvg(MultiKrum(3))
    grid = grid_of(partial(learnt, bad=None), count=4)
    messages = strategy.configure_train(
        1, arrays_to_record(start().arrays), ConfigRecord({**train_config(0, {})}), grid
    )
    replies = [*grid.send_and_receive(messages)]
    failed = Message(Error(0, "gone"), reply_to=next(iter(messages)))

    assert strategy.aggregate_train(1, [*replies, failed, replies[0]]) == (None, None)
    assert "needs at least 9 updates, got 4" in strategy.shortfall


def test_bytes_that_are_no_arrays_are_refused():
    record = arrays_to_record(start().arrays)
    record["w"].data = b"\x93NUMPY\x01\x00\x06\x00{[(1\n"
    grid, strategy = grid_of(count=1), MiniBatchFedAvg()
    (reply,) = grid.send_and_receive(
        strategy.configure_train(1, arrays_to_record(start().arrays), ConfigRecord({**train_config(0, {})}), grid)
    )
    reply.content["arrays"] = record

    with pytest.raises(ShapeError, match="'w' must be a readable npy block"):
        strategy.aggregate_train(1, [reply])
