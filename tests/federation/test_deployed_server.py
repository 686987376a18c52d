"""A server's error keeps its class on the way through Flower, which hands on its text alone."""

import errno
import math

import pytest

from fedmb import errors
from fedmb.federation.deployed_server import ServerSettings, failure_from, named_failures
from fedmb.federation.rounds import count_from
from fedmb.launch import bundle
from fedmb.settings import load, to_toml


@pytest.mark.parametrize(
    "kind", [errors.NotEnoughData, errors.SettingsError, errors.CorruptCheckpoint, errors.FedmbError]
)
def test_an_error_comes_back_with_its_class_and_sentence(kind):
    with pytest.raises(RuntimeError) as caught, named_failures():
        raise kind("a: rule, got Value: 1; mend it")

    back = failure_from(f"ServerApp failed with exception: {caught.value}")

    assert type(back) is kind
    assert str(back) == "a: rule, got Value: 1; mend it"


@pytest.mark.parametrize("name", [None, "/runs/a: b/metrics.jsonl"])
def test_a_refusal_of_the_disk_comes_back_as_one(name):
    error = OSError(errno.ENOSPC, "No space left on device", name)

    back = failure_from(f"ServerApp failed with exception: {error}")

    assert (type(back), str(back)) == (type(error), str(error))
    assert failure_from(f"ServerApp failed with exception: {OSError(errno.EBADF, 'Bad file descriptor')}") is None


def test_an_error_of_another_kind_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), named_failures():
        raise ZeroDivisionError

    assert failure_from("ServerApp failed with exception: ValueError: no") is None


def test_the_documented_defaults_are_the_defaults():
    assert load(ServerSettings, file=bundle() / "server" / "server.toml") == ServerSettings()


def test_a_run_may_have_no_last_round(tmp_path):
    wanted = load(ServerSettings, overrides=["rounds.count=forever"])
    (tmp_path / "again.toml").write_text(to_toml(wanted))

    assert wanted.rounds.is_endless
    assert wanted.rounds.last == math.inf
    assert load(ServerSettings, file=tmp_path / "again.toml") == wanted
    assert load(ServerSettings, explicit={"rounds.count": count_from("7")}).rounds.last == 7


@pytest.mark.parametrize("wrong", ["always", "0", "-3", "2.5"])
def test_another_number_of_rounds_is_refused(wrong):
    with pytest.raises(errors.SettingsError, match=r"rounds\.count must be .*, got"):
        load(ServerSettings, explicit={"rounds.count": count_from(wrong)})
