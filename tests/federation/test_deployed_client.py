"""A client of one message learns what the server says, with the rows that its site has."""

import pytest
from flwr.app import Message, RecordDict

from fedmb.errors import SettingsError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_client import train, trainer_for
from fedmb.federation.model_record import arrays_to_record
from fedmb.federation.record_names import ARRAYS, CONFIG
from fedmb.federation.wire import read_instruction, train_config
from fedmb.launch import bundle
from fedmb.replay.ring import Ring
from fedmb.settings import load
from fedmb.simulation.grid import InProcessGrid
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.task import load_task

TABLE = "table:task?share=0&of=4"
DIGITS = "fedmb.tasks.digits:Digits"
TOLD = Training.plain(batch_size=8, steps=3, learning_rate=0.5).model_dump()


def instruction(**told):
    InProcessGrid(lambda message, context: message, {2: {}})  # gives Flower's Message the identity that it demands
    arrays = arrays_to_record(initial_arrays(load_task(DIGITS), 0))
    content = RecordDict({ARRAYS: arrays, CONFIG: train_config(0, {}, **told)})
    return read_instruction(Message(content, dst_node_id=2, message_type="train"))


def test_seed_and_training_travel_with_the_instruction():
    found = instruction(seed=5, training=TOLD)

    assert found.seed == 5
    assert Training.model_validate(found.training) == Training.model_validate(TOLD)


def test_the_servers_training_wins():
    settings = ClientSettings(name="ward", source=TABLE, training=Training.plain(batch_size=32, steps=10))

    update = train(settings, instruction(seed=5, training=TOLD))

    assert update.rows == {"private": 24}


def test_without_the_servers_training_the_clients_own_holds():
    settings = ClientSettings(name="ward", source=TABLE, training=Training.plain(batch_size=4, steps=2))

    assert train(settings, instruction()).rows == {"private": 8}


def test_the_clients_micro_size_holds_in_any_case():
    settings = ClientSettings(name="ward", source=TABLE, training=Training.plain(micro_size=2))

    trainer = trainer_for(settings, seed=0, training=TOLD)

    assert (trainer.training.micro_size, trainer.training.sizing.size) == (2, 8)


def test_a_micro_size_that_the_servers_way_to_train_does_not_bear_is_refused_as_a_setting():
    settings = ClientSettings(name="ward", source=TABLE, training=Training.plain(micro_size=3))
    ghost = {**TOLD, "norm": "ghost", "norm_group": 4, "sizing": {"size": 8, "multiple": 4}}

    with pytest.raises(SettingsError, match="client's micro_size 3: micro_size must hold whole ghost groups of 4 rows"):
        trainer_for(settings, seed=0, training=ghost)


def test_code_that_the_client_does_not_name_is_not_run_for_the_server():
    settings = ClientSettings(name="ward", source=TABLE)

    with pytest.raises(SettingsError, match="runs code that it names itself, got training"):
        trainer_for(settings, seed=0, training={**TOLD, "dropout": "os:kill"})


def test_the_runs_seed_decides_the_rows():
    settings = ClientSettings(name="ward", source=TABLE)

    taken = [trainer_for(settings, seed=seed).source.take(16).columns["image"] for seed in (1, 1, 2)]

    assert (taken[0] == taken[1]).all()
    assert not (taken[0] == taken[2]).all()


def test_the_ring_is_free_once_a_message_is_answered(tmp_path):
    settings = ClientSettings(
        name="meter",
        source=f"file:{tmp_path}/log?topic=rows",
        state=tmp_path,
        streaming={"patience_seconds": 0.01},
    )

    update = train(settings, instruction(training=TOLD))

    assert update.weight == 0
    Ring.mapped(tmp_path / "replay.ring", load_task(DIGITS).schema, 32768).close()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a" * 65, "two words"])
def test_a_name_that_is_no_plain_word_is_refused(name):
    with pytest.raises(SettingsError, match="name"):
        load(ClientSettings, explicit={"name": name, "source": TABLE})


def test_a_client_keeps_its_state_under_its_name():
    assert str(ClientSettings(name="ward", source=TABLE).directory) == "state/ward"


@pytest.mark.parametrize(
    ("told", "got"),
    [
        ({"devices": 2}, "devices 2"),
        ({"source": "file:///log?topic=rows", "replay.memory": "prioritized"}, 'replay.memory "prioritized"'),
        ({"source": "file:///log?topic=rows", "privacy.unit": "example"}, "replay.share 0.5"),
        (
            {"source": "replay://127.0.0.1:8400/rows", "privacy.unit": "example", "replay.share": 0.0},
            "source replay://",
        ),
    ],
)
def test_a_private_client_is_refused_what_it_cannot_count_or_noise(told, got):
    with pytest.raises(SettingsError, match=f"hides what it can count and noise, got {got}"):
        load(ClientSettings, explicit={"name": "ward", "source": TABLE, "privacy.clip_norm": 1.0, **told})


def test_the_documented_defaults_are_the_defaults():
    documented = load(ClientSettings, file=bundle() / "clients" / "client.toml")

    assert documented == ClientSettings(name=documented.name, source=documented.source)
