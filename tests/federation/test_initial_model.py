"""Clients build the model that a run begins with, and most of them decide which it is."""

import threading

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedmb.batch.table import TableSource
from fedmb.errors import NotEnoughData, SettingsError
from fedmb.federation.client import client_app
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import begun
from fedmb.federation.initial_model import Beginning, Begun, answer_to, initial_model
from fedmb.federation.rounds import Rounds
from fedmb.federation.server import Server
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.simulation.grid import InProcessGrid
from fedmb.tasks.digits import Digits
from fedmb.telemetry.run_directory import RunDirectory
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

SEED = 7
HONEST = initial_arrays(Digits(), SEED)
OTHER = initial_arrays(Digits(), SEED + 1)
BROKEN = HONEST | {"0.bias": np.full(128, np.nan, np.float32)}
NAMES = frozenset(HONEST)


def asked(*models, stop=None, untrained=("", "", "")):
    """What a server takes of clients that answer so, in this order; an exception is raised.

    Each says that all arrays but one are trained.
    """
    app = ClientApp()

    @app.query()
    def begin(message, context):
        number = context.node_config["number"]
        model = models[number]

        def build(beginning):
            if isinstance(model, Exception):
                raise model
            return Begun(model, frozenset(NAMES if isinstance(model, dict) else ()) - {untrained[number]})

        return answer_to(message, build, client=f"c{number}")

    grid = InProcessGrid(app, {10 + number: {"number": number} for number in range(len(models))})
    return initial_model(grid, Beginning(SEED, None), deadline_seconds=1, stop=stop)


def is_same(one, other):
    one, other = (each.arrays if isinstance(each, Begun) else each for each in (one, other))
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_what_clients_agree_on_is_taken_to_the_bit():
    assert is_same(asked(HONEST, HONEST), HONEST)


@pytest.mark.parametrize("odd", [OTHER, BROKEN, {}, SettingsError("it has no task")])
def test_one_client_of_three_does_not_choose_where_a_run_begins(odd):
    assert is_same(asked(odd, HONEST, HONEST), HONEST)


def test_most_clients_decide_which_arrays_are_trained_too(caplog):
    found = asked(HONEST, HONEST, HONEST, untrained=("0.bias", "", ""))

    assert found.parameters == NAMES
    assert "initial models differ clients=c0 from=c1" in caplog.text


def test_what_is_trained_must_be_in_the_model():
    app = ClientApp()
    odd = Begun(HONEST, NAMES | {"elsewhere"})
    app.query()(lambda message, context: answer_to(message, lambda beginning: odd, client="odd"))

    with pytest.raises(NotEnoughData, match="must be the model's arrays, client 'odd' names 'elsewhere' too"):
        initial_model(InProcessGrid(app, {10: {}}), Beginning(SEED, None), deadline_seconds=1)


def test_of_two_that_differ_the_first_by_name_is_taken():
    assert is_same(asked(OTHER, HONEST), OTHER)


def test_a_run_that_nobody_can_begin_says_why():
    with pytest.raises(NotEnoughData, match=r"it has no task.*install torch"):
        asked(SettingsError("it has no task"))


def test_a_client_that_does_not_know_the_question_is_named():
    grid = InProcessGrid(ClientApp(), {10: {}})

    with pytest.raises(NotEnoughData, match="node 10"):
        initial_model(grid, Beginning(SEED, None), deadline_seconds=1)


def test_an_answer_without_records_is_refused():
    app = ClientApp()
    app.query()(lambda message, context: Message(RecordDict(), reply_to=message))

    with pytest.raises(NotEnoughData, match="an initial model must carry the records"):
        initial_model(InProcessGrid(app, {10: {}}), Beginning(SEED, None), deadline_seconds=1)


def test_an_answer_that_comes_late_counts_as_any_other():
    class Slow(InProcessGrid):
        pulls = 0

        def pull_messages(self, message_ids):
            self.pulls += 1
            return [] if self.pulls < 8 else super().pull_messages(message_ids)

    app = ClientApp()
    app.query()(lambda message, context: answer_to(message, lambda beginning: Begun(HONEST, NAMES), client="slow"))

    found = initial_model(Slow(app, {10: {}}), Beginning(SEED, None), deadline_seconds=0.3)

    assert is_same(found, HONEST)


def test_nobody_is_asked_once_the_run_is_to_stop():
    stop = threading.Event()
    stop.set()

    assert asked(HONEST, stop=stop) is None


def test_a_client_builds_what_the_server_would_have_built():
    settings = ClientSettings(name="ward", source="table:task", training=Training(steps=1, micro_size=4))
    training = Training(steps=20)

    built = begun(settings, Beginning(SEED, training.model_dump()))

    assert is_same(built, initial_arrays(Digits(), SEED, build=training.build_model))
    assert built.parameters == NAMES
    assert is_same(begun(settings, Beginning(SEED, None)), HONEST)


def test_a_run_without_torch_on_the_server_ends_in_the_bits_of_one_with(tmp_path):
    ends = []
    for number, task in enumerate((None, Digits())):
        rows, training = Digits().train_rows(), Training.plain(batch_size=32, steps=5)
        trainers = {
            f"c{k}": LocalUpdate(
                Digits(),
                TableSource({name: array[k::2] for name, array in rows.items()}, seed=SEED, client=f"c{k}"),
                training,
                client=f"c{k}",
                seed=SEED,
            )
            for k in range(2)
        }
        app = client_app(lambda context, trainers=trainers: trainers[context.node_config["client"]])
        grid = InProcessGrid(app, {10 + k: {"client": f"c{k}"} for k in range(2)})
        run = RunDirectory.create(tmp_path / str(number), config="", seed=SEED)
        server = Server(task, Rounds(count=2), MiniBatchFedAvg(), run, seed=SEED, training=training)
        reports = []
        sink = type("Kept", (), {"report": reports.append, "close": lambda self: None})()
        ends.append(server.train(grid, sinks=[sink]))
        run.close()
        assert reports[-1].monitor["train_accuracy"] > reports[0].monitor["train_accuracy"] > 0
    assert is_same(*(end.arrays for end in ends))
