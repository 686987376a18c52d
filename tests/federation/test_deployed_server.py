"""A server's error keeps its class on the way through Flower, which hands on its text alone."""

import pytest

from fedmb import errors
from fedmb.federation.deployed_server import ServerSettings, failure_from, named_failures
from fedmb.launch import bundle
from fedmb.settings import load


@pytest.mark.parametrize(
    "kind", [errors.NotEnoughData, errors.SettingsError, errors.CorruptCheckpoint, errors.FedmbError]
)
def test_an_error_comes_back_with_its_class_and_sentence(kind):
    with pytest.raises(RuntimeError) as caught, named_failures():
        raise kind("a: rule, got Value: 1; mend it")

    back = failure_from(f"ServerApp failed with exception: {caught.value}")

    assert type(back) is kind
    assert str(back) == "a: rule, got Value: 1; mend it"


def test_an_error_of_another_kind_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), named_failures():
        raise ZeroDivisionError

    assert failure_from("ServerApp failed with exception: ValueError: no") is None


def test_the_documented_defaults_are_the_defaults():
    assert load(ServerSettings, file=bundle() / "server" / "server.toml") == ServerSettings()
