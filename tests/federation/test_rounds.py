import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedTrimmedAvg, Krum

from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData
from fedmb.federation.checkpoint import ServerState
from fedmb.federation.client import client_app
from fedmb.federation.model_record import arrays_from_record, arrays_to_record
from fedmb.federation.rounds import RoundLoop, Rounds, Watch
from fedmb.federation.server import scorer
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.federation.wire import train_config
from fedmb.ledger import Ledger, Position, Span, StreamPartition
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.telemetry.convergence import Stopping
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.update import Update


def digits_grid(count=3, steps=10, only=None):
    task = Digits()
    rows = task.train_rows()
    trainers = {}
    for k in range(count):
        part = {name: array[k::count] for name, array in rows.items()}
        source = TableSource(part, seed=0, client=f"c{k}")
        training = Training.plain(batch_size=32, steps=steps, learning_rate=0.2)
        trainers[f"c{k}"] = LocalUpdate(task, source, training, client=f"c{k}", seed=0)
    app = client_app(lambda context: trainers[context.node_config["client"]])
    return InProcessGrid(app, {10 + k: {"client": f"c{k}"} for k in range(count)})


def run(grid, strategy=None, state=None, count=3):
    reports = []
    loop = RoundLoop(
        grid,
        strategy or MiniBatchFedAvg(),
        Rounds(count=count, connect_seconds=1),
        on_round=lambda state, report: reports.append(report),
    )
    return loop.run(state or ServerState(0, initial_arrays(Digits(), 0))), reports


def accuracy(state):
    return scorer(Digits(), {"": Digits().test_rows()})(state)["accuracy"]


class Scripted:
    """A client that answers with a given update, or raises."""

    def __init__(self, client, answer):
        self.client = client
        self.answer = answer

    def run(self, arrays, *, base_version, position, ledger=None, terms=None):
        outcome = self.answer(arrays, base_version, position)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def scripted_grid(**answers):
    trainers = {name: Scripted(name, answer) for name, answer in answers.items()}
    app = client_app(lambda context: trainers[context.node_config["client"]])
    return InProcessGrid(app, {10 + k: {"client": name} for k, name in enumerate(answers)})


def honest(client, value=1.0, weight=1.0, spans=None):
    def answer(arrays, base_version, position):
        moved = {name: array + np.float32(value) for name, array in arrays.items()}
        seen = position.get("seen", 0) + 1
        return Update(
            moved,
            weight,
            base_version,
            {client: {"seen": seen}},
            spans=spans or {},
            sums={"units": weight, "loss": 2.0},
        )

    return answer


def small_state():
    return ServerState(0, {"w": np.zeros(4, np.float32)})


def test_rounds_learn_digits():
    state, reports = run(digits_grid(), count=8)

    assert state.version == 8
    assert accuracy(state) > 0.85
    assert reports[-1].train_loss < reports[0].train_loss
    assert sum(reports[0].rows.values()) == 3 * 10 * 32  # 479 rows at 32 make fifteen batches, the first of them full
    assert state.positions.keys() == {"c0", "c1", "c2"}


def test_stopping_after_any_round_and_going_on_gives_the_same_bits():
    whole, _ = run(digits_grid(), count=4)
    for cut in range(1, 4):
        first, _ = run(digits_grid(), count=cut)
        resumed, _ = run(digits_grid(), state=first, count=4)

        assert all(np.array_equal(whole.arrays[name], resumed.arrays[name]) for name in whole.arrays)
        assert whole.positions == resumed.positions


@pytest.mark.parametrize("strategy", [FedAvg, FedAdam, FedMedian, FedTrimmedAvg, Krum])
def test_flowers_own_strategies_run_unchanged_under_our_rounds(strategy):
    state, _ = run(digits_grid(), strategy=strategy(fraction_evaluate=0.0), count=3)

    assert state.version == 3
    assert all(state.arrays[name].dtype == np.float32 for name in state.arrays)
    assert not np.array_equal(state.arrays["0.weight"], initial_arrays(Digits(), 0)["0.weight"])


def test_our_average_equals_flowers_fedavg():
    ours, _ = run(digits_grid(), count=2)
    theirs, _ = run(digits_grid(), strategy=FedAvg(fraction_evaluate=0.0), count=2)

    assert all(np.allclose(ours.arrays[name], theirs.arrays[name], atol=1e-6) for name in ours.arrays)


def test_our_strategy_runs_under_flowers_own_start():
    initial = arrays_to_record(initial_arrays(Digits(), 0))
    result = MiniBatchFedAvg().start(digits_grid(), initial, num_rounds=1, train_config=train_config(0, {}), timeout=10)
    ours, _ = run(digits_grid(), count=1)

    assert all(np.array_equal(array, ours.arrays[name]) for name, array in arrays_from_record(result.arrays).items())


def test_an_unmodified_flower_app_runs_on_the_grid():
    app = ClientApp()

    @app.train()
    def train(message, context):
        arrays = message.content["arrays"].to_numpy_ndarrays()
        content = {
            "arrays": ArrayRecord([array + context.node_config["partition-id"] for array in arrays]),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    grid = InProcessGrid(app, {2: {"partition-id": 0}, 3: {"partition-id": 4}})
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=2, train_config=ConfigRecord())

    assert np.array_equal(result.arrays.to_numpy_ndarrays()[0], np.full(3, 4.0))


def test_a_client_that_fails_is_named_and_the_round_goes_on():
    grid = scripted_grid(a=honest("a"), b=lambda *_: NotEnoughData("the disk of b is gone"))
    state, reports = run(grid, state=small_state(), count=1)

    assert np.array_equal(state.arrays["w"], np.ones(4))
    assert "the disk of b is gone" in str(reports[0].rejected)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda a, v, p: Update({"w": np.full(4, np.nan, np.float32)}, 1.0, v, {"b": {}}), "finite"),
        (lambda a, v, p: Update({"w": np.zeros(1, np.float32)}, 1.0, v, {"b": {}}), "shape"),
        (lambda a, v, p: Update({"w": np.zeros(4)}, 1.0, v, {"b": {}}), "dtype"),
        (lambda a, v, p: Update({"v": np.zeros(4, np.float32)}, 1.0, v, {"b": {}}), "names"),
        (lambda a, v, p: Update({"w": np.zeros(4, np.float32)}, -1.0, v, {"b": {}}), "weight"),
        (lambda a, v, p: Update({"w": np.zeros(4, np.float32)}, float("nan"), v, {"b": {}}), "weight"),
        (lambda a, v, p: Update({"w": np.zeros(4, np.float32)}, 1.0, v - 1, {"b": {}}), "version"),
    ],
)
def test_a_bad_update_is_named_and_leaves_no_trace(bad, reason):
    state, reports = run(scripted_grid(a=honest("a"), b=bad), state=small_state(), count=1)

    assert np.array_equal(state.arrays["w"], np.ones(4))
    assert list(reports[0].rejected) == ["b"]
    assert reason in reports[0].rejected["b"]
    assert "b" not in state.positions


def test_a_span_that_does_not_start_at_the_ledger_is_dropped():
    partition = StreamPartition("site", "digits", 0)
    late = {partition: Span(Position(3), Position(9))}
    fresh = {partition: Span(Position(5), Position(9))}
    start = ServerState(0, {"w": np.zeros(4, np.float32)}, Ledger({partition: Position(5)}))
    dropped, reports = run(scripted_grid(a=honest("a"), b=honest("b", spans=late)), state=start, count=1)
    taken, _ = run(scripted_grid(a=honest("a"), b=honest("b", spans=fresh)), state=start, count=1)

    assert dropped.ledger == start.ledger
    assert "ledger" in reports[0].rejected["b"]
    assert taken.ledger[partition] == Position(9)


def test_two_clients_of_one_name_do_not_both_count():
    trainers = iter([Scripted("a", honest("a")), Scripted("a", honest("a", value=5))])
    app = client_app(lambda context: next(trainers))
    state, reports = run(InProcessGrid(app, {10: {}, 11: {}}), state=small_state(), count=1)

    assert np.array_equal(state.arrays["w"], np.ones(4))
    assert "'a' answers from node 10, got it from node 11" in reports[0].rejected["node 11"]


def test_clients_with_nothing_new_leave_the_model_and_do_not_stall_it():
    grid = scripted_grid(a=honest("a", weight=0.0), b=honest("b", weight=0.0))
    state, reports = run(grid, state=small_state(), count=2)

    assert state.version == 2
    assert np.array_equal(state.arrays["w"], np.zeros(4))
    assert reports[0].clients == 2


def test_three_rounds_without_any_reply_stop_the_run():
    with pytest.raises(NotEnoughData, match="3 rounds in a row"):
        run(scripted_grid(a=lambda *_: NotEnoughData("gone")), state=small_state(), count=9)


def test_too_few_clients_stop_the_run_with_a_way_out():
    loop = RoundLoop(
        scripted_grid(a=honest("a")),
        MiniBatchFedAvg(),
        Rounds(count=1, min_clients=2, connect_seconds=0.01),
        on_round=lambda *_: None,
    )

    with pytest.raises(NotEnoughData, match=r"2 connected clients, got 1 .*rounds\.min_clients"):
        loop.run(small_state())


def test_known_clients_are_sent_only_their_own_position():
    seen = []

    def remembering(client):
        answer = honest(client)

        def run(arrays, base_version, position):
            seen.append((client, base_version, dict(position)))
            return answer(arrays, base_version, position)

        return run

    run(scripted_grid(a=remembering("a"), b=remembering("b")), state=small_state(), count=3)

    assert seen[-2:] == [("a", 2, {"seen": 2}), ("b", 2, {"seen": 2})]


def test_reply_order_never_changes_a_bit():
    class Shuffled(InProcessGrid):
        def pull_messages(self, message_ids):
            return reversed(list(super().pull_messages(message_ids)))

    answers = {name: honest(name, value=v) for name, v in (("a", 0.1), ("b", 0.7), ("c", 1e-5))}
    trainers = {name: Scripted(name, answer) for name, answer in answers.items()}
    nodes = {10 + k: {"client": name} for k, name in enumerate(answers)}
    app = client_app(lambda context: trainers[context.node_config["client"]])
    forward, _ = run(InProcessGrid(app, nodes), state=small_state(), count=3)
    backward, _ = run(Shuffled(app, nodes), state=small_state(), count=3)

    assert np.array_equal(forward.arrays["w"], backward.arrays["w"])


def test_a_run_that_arrived_stops_says_why_and_stays_stopped_when_resumed():
    def loop(state):
        reports = []
        one = RoundLoop(
            scripted_grid(a=honest("a")),
            MiniBatchFedAvg(),
            Rounds(count=50, stopping=Stopping(metric="height", target=2.5)),
            on_round=lambda state, report: reports.append(report),
            watch=Watch(score=lambda state: {"height": float(state.arrays["w"][0])}),
        )
        return one, one.run(state), reports

    first, state, reports = loop(small_state())
    again, same, none = loop(state)

    assert state.version == len(reports) == 3
    assert first.convergence.reason == again.convergence.reason == "height 3 reached the target 2.5"
    assert (same.version, none) == (3, [])
