"""A resident trainer answers like a process that was started for the message."""

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict
from programs import until

from fedmb import __version__
from fedmb.aggregation.privacy_account import epsilon_of
from fedmb.federation.client import FAILED, outcome_of
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import train
from fedmb.federation.record_bytes import from_bytes, to_bytes
from fedmb.federation.record_names import ARRAYS, CONFIG, METRICS, UPDATE
from fedmb.federation.resident import Handed, KeptTraining, Resident
from fedmb.federation.trainer_line import LINE_VERSION, Say, called, listening
from fedmb.federation.wire import arrays_to_record, train_config
from fedmb.replay.ring import Ring
from fedmb.replay.wire_format import json_of
from fedmb.training.client_privacy import ClientPrivacy
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.task import load_task

TABLE = "table:task?share=0&of=4"
DIGITS = "fedmb.tasks.digits:Digits"
TOLD = Training.plain(batch_size=8, steps=3, learning_rate=0.5).model_dump()


def asked(version=0, positions=None, seed=5, **told):
    arrays = arrays_to_record(initial_arrays(load_task(DIGITS), version))
    training = {**TOLD, **told}
    return RecordDict({ARRAYS: arrays, CONFIG: train_config(version, positions or {}, seed=seed, training=training)})


def alone(settings, content):
    return outcome_of(Handed(content), lambda instruction: train(settings, instruction), client=settings.name)


def position_in(found):
    return json.loads(found[UPDATE]["position"])


def same(one, other):
    """Equal but for what a clock tells."""
    timed = {"seconds", "wait_seconds"}
    return all(one[name] == other[name] for name in (ARRAYS, UPDATE)) and all(
        one[METRICS][name] == value for name, value in other[METRICS].items() if name not in timed
    )


class Running:
    """A resident trainer in a thread, and an app's calls to it."""

    def __init__(self, directory, settings):
        self.directory, self.went_on_as = directory, []
        self.learner = KeptTraining(settings)
        self.hello = {"version": LINE_VERSION, "fedmb": __version__, "code": "/nowhere"}
        self.client = settings.name

    def serve(self, door):
        found = Resident(door, self.learner, client=self.client, program=Path(__file__)).serve()
        self.went_on_as.append(found)

    def answer(self, content, **hello):
        with called(self.directory) as line:
            line.tell(Say.HELLO, self.hello | hello)
            line.say(Say.LEARN, *to_bytes(content))
            return line.hear(120)


@contextmanager
def resident(tmp_path, settings):
    running = Running(tmp_path / "trainer", settings)
    with listening(running.directory) as door:
        thread = threading.Thread(target=running.serve, args=(door,))
        thread.start()
        try:
            yield running
        finally:
            running.answer(asked(), code="/elsewhere")  # which it must start afresh for
            thread.join()
    assert running.went_on_as == [Path(__file__)]


@pytest.fixture
def settings(tmp_path):
    return ClientSettings(name="ward", source=TABLE, state=tmp_path)


def test_every_message_gets_the_bits_of_a_process_of_its_own(tmp_path, settings):
    positions, same_bits = {}, []
    with resident(tmp_path, settings) as running:
        for version in range(3):
            content = asked(version, positions)
            found = from_bytes(running.answer(content).payload)
            same_bits.append(same(found, alone(settings, content)))
            positions = {"ward": position_in(found)}

    assert same_bits == [True] * 3


def test_a_source_is_sought_to_where_each_message_says(tmp_path, settings):
    with resident(tmp_path, settings) as running:
        first, again = (from_bytes(running.answer(asked()).payload) for _ in range(2))

    assert same(first, again)


def test_another_way_to_train_makes_it_anew(tmp_path, settings):
    with resident(tmp_path, settings) as running:
        running.answer(asked())
        kept = running.learner._kept
        running.answer(asked())
        assert running.learner._kept is kept
        found = from_bytes(running.answer(asked(steps=2, seed=6)).payload)

    assert kept is not running.learner._kept
    assert same(found, alone(settings, asked(steps=2, seed=6)))


def test_a_failure_is_told_and_the_next_message_learnt(tmp_path, settings):
    with resident(tmp_path, settings) as running:
        failed = running.answer(RecordDict({"config": ConfigRecord({})}))
        learnt = running.answer(asked())

    assert failed.kind is Say.FAILED
    assert json_of(failed.payload)["code"] == FAILED
    assert "client ward: an instruction must carry" in json_of(failed.payload)["reason"]
    assert learnt.kind is Say.LEARNT


@pytest.mark.parametrize("unit", ["update", "example"])
def test_a_private_clients_account_outlives_messages_and_a_spent_budget_is_told(tmp_path, unit):
    noise, passes = (0.5, 2) if unit == "update" else (1.0, 1)  # three batches of 8 are of one pass
    privacy = ClientPrivacy(unit=unit, clip_norm=1, epsilon=epsilon_of(((noise, 1.0, passes),), 1e-5) + 1e-9)
    settings = ClientSettings(name="ward", source=TABLE, state=tmp_path, privacy=privacy)
    messages = [asked(version, {"ward": {"source": {"epoch": 0, "cursor": 24 * version}}}) for version in range(2)]
    with resident(tmp_path, settings) as running:
        told = [from_bytes(running.answer(content).payload) for content in messages]
        refused = running.answer(messages[1])

    assert told[-1][METRICS]["epsilon"] == pytest.approx(privacy.epsilon)
    assert refused.kind is Say.FAILED
    assert "client ward: privacy budget: this round would make epsilon" in json_of(refused.payload)["reason"]
    assert "privacy budget" in alone(settings, messages[1]).reason


def test_an_app_that_is_refused_finds_the_ring_free(tmp_path):
    log = tmp_path / "log"
    settings = ClientSettings(
        name="meter", source=f"file:{log}?topic=rows", state=tmp_path, streaming={"patience_seconds": 0.01}
    )
    with resident(tmp_path, settings) as running:
        running.answer(asked())
        assert running.learner._kept is not None
        with called(running.directory) as line:
            line.tell(Say.HELLO, running.hello)
        until(lambda: running.learner._kept is None, 60, lambda: "the source closed")
        Ring.mapped(tmp_path / "replay.ring", load_task(DIGITS).schema, 32768).close()


def test_callers_of_another_version_make_it_start_afresh(tmp_path, settings):
    running = Running(tmp_path / "trainer", settings)
    with listening(running.directory) as door:
        thread = threading.Thread(target=running.serve, args=(door,))
        thread.start()
        answer = running.answer(asked(), fedmb="0.0.1")
        thread.join()

    assert answer.kind is Say.AGAIN
    assert json_of(answer.payload)["reason"] == f"fedmb is {__version__} here and 0.0.1 there"


def test_an_app_with_a_trainer_of_its_own_gets_that_one(tmp_path, settings):
    own = tmp_path / "app" / "clients" / Path(__file__).name
    own.parent.mkdir(parents=True)
    own.write_text("# another one\n")
    running = Running(tmp_path / "trainer", settings)
    with listening(running.directory) as door:
        thread = threading.Thread(target=running.serve, args=(door,))
        thread.start()
        answer = running.answer(asked(), code=str(tmp_path / "app"))
        thread.join()

    assert json_of(answer.payload)["reason"] == "the app brings a trainer of its own"
    assert running.went_on_as == [own]


def test_steps_are_taken_ahead_until_somebody_calls(tmp_path, settings):
    with resident(tmp_path, settings) as running:
        first = from_bytes(running.answer(asked(overlap_steps=3)).payload)
        second = from_bytes(running.answer(asked(1, {"ward": position_in(first)}, overlap_steps=3)).payload)

    assert second[METRICS]["steps"] == 3
    assert position_in(second)["trainer"]["steps"] == 6


def test_a_ring_is_not_run_ahead_and_the_log_says_so(tmp_path, caplog):
    settings = ClientSettings(
        name="meter", source=f"ring:{tmp_path}/r.ring", state=tmp_path, streaming={"patience_seconds": 0.01}
    )
    with resident(tmp_path, settings) as running:
        running.answer(asked(overlap_steps=2))

    assert "no steps ahead client=meter reason=a ring keeps rows" in caplog.text
