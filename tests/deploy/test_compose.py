"""The whole system in containers: it learns, loses processes, ends with an exact ledger, goes on from its volumes.

`make compose-test` runs this, with real images on a real engine; nothing is pulled. COMPOSE_TEST_SECONDS is how long
each thing is waited for; a slow machine may want more.
"""

import json
import os
import re
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from engine import Engine, bases
from kafka_broker import free_port
from stack import Stack

PATIENCE = float(os.environ.get("COMPOSE_TEST_SECONDS", "900"))
pytestmark = [pytest.mark.compose, pytest.mark.timeout(12 * PATIENCE)]

FIRST, SECOND, THIRD = 6, 10, 13
"""Rounds of the first start, of the second, and of that under fire."""
WATCHED = ("kafka", "feeder-a", "feeder-b", "daemon-a", "daemon-b", "server", "ward-a", "ward-b", "meter-a", "meter-b")
BESIDE = ("replay", "actor", "learner")
TARGETS = 12  # server, four clients and two more, two daemons and feeders, the replay service
EXACT = re.compile(r"exact: \S+ version (\d+), (.*)")


@pytest.fixture(scope="module")
def stack():
    with Engine():
        own = {
            "IMAGES": "fedmb-test",
            "ROUNDS": str(FIRST),
            "STEPS": "20",
            "DRIFT_RECORD": "100",
            "KILL_SECONDS": "20",
            "METRICS_PORT": str(free_port()),
            "SERVER_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(free_port()),
        }
        with Stack("fedmb-compose-test", bases() | own) as stack:
            yield stack


@pytest.fixture(scope="module")
def first(stack):
    """The first start: a client, a daemon and the server are killed, and the run ends all the same."""
    story = SimpleNamespace(accuracies=[], restarts={})
    stack.compose("build")
    stack.up()
    stack.until(lambda: {*map(stack.health, WATCHED)} == {"healthy"}, PATIENCE, "all healthy")
    reached(stack, 3, story)
    before = {name: stack.kill(name) for name in ("ward-a", "daemon-a")}
    after_kill(stack, before, story)
    reached(stack, round_of(stack) + 1, story)
    after_kill(stack, {"server": stack.kill("server")}, story)
    reached(stack, FIRST - 1, story)
    story.server = ended(stack)
    story.exact = ledger(stack)
    story.beside = {name: stack.health(name) for name in BESIDE}
    story.models = stack.inside("learner", "ls", "/models/checkpoints")
    return story


@pytest.fixture(scope="module")
def second(stack, first):
    """`down`, then `up` with Kafka behind TLS and a password, and two more clients."""
    stack.compose("down", "-t", "60")
    stack.variables |= {"ROUNDS": str(SECOND)}
    stack.files, stack.profiles = ["docker-compose.yml", "compose.tls.yml"], ["scale"]
    story = SimpleNamespace(accuracies=[])
    stack.up("--scale", "client=2")
    stack.up("prometheus")
    joined = [f"fedmb_server_accepted_updates_total client-{number}" for number in (1, 2)]
    stack.until(
        lambda: all(stack.figures().get(name, 0) for name in joined), PATIENCE, "two more clients are in a round"
    )
    stack.until(lambda: len(scraped(stack)) >= TARGETS, PATIENCE, "Prometheus has asked them all")
    story.scraped = scraped(stack)
    story.plainly = stack.inside("daemon-a", "fedmb", "stream", "lag", "kafka://kafka:9092/digits")
    story.server = ended(stack)
    story.exact = ledger(stack)
    return story


@pytest.fixture(scope="module")
def third(stack, second):
    """Three more rounds while processes end at random."""
    stack.compose("down", "-t", "60")
    stack.variables |= {"ROUNDS": str(THIRD)}
    stack.files, stack.profiles = ["docker-compose.yml"], ["chaos"]
    stack.up()
    story = SimpleNamespace(server=ended(stack))
    stack.until(lambda: not stack.state("ledger")["State"]["Running"], PATIENCE, "the ledger is looked at")
    story.ledger = stack.log("ledger")
    stack.compose("stop", "-t", "5", "killer")
    story.kills = stack.log("killer")
    return story


def scraped(stack):
    """What Prometheus could ask, by job and service."""
    query = f"http://127.0.0.1:{stack.variables['PROMETHEUS_PORT']}/api/v1/query?query=up%3D%3D1"
    with urlopen(query, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return {(one["metric"]["job"], one["metric"]["instance"].partition(":")[0]) for one in found}


def round_of(stack):
    return stack.figures().get("fedmb_server_round", 0)


def reached(stack, number, story):
    """Wait for a round; accuracies that are seen on the way are kept."""

    def look():
        if stack.health("server") == "ended with 0":
            return True
        figures = stack.figures()
        if (found := figures.get("fedmb_server_monitor train_accuracy")) is not None:
            story.accuracies.append((figures["fedmb_server_round"], found))
        return figures.get("fedmb_server_round", 0) >= number

    stack.until(look, PATIENCE, f"round {number}")


def after_kill(stack, before, story):
    """Wait until killed services run again and are healthy."""
    for name, starts in before.items():
        stack.until(
            lambda name=name, starts=starts: stack.state(name)["RestartCount"] > starts, PATIENCE, f"{name} again"
        )
        stack.until(lambda name=name: stack.health(name) == "healthy", PATIENCE, f"{name} healthy again")
        story.restarts[name] = stack.state(name)["RestartCount"] - starts


def ended(stack):
    """The server's log, once it has ended."""
    stack.until(lambda: stack.health("server").startswith("ended with 0"), PATIENCE, "the run ends")
    return stack.log("server")


def ledger(stack):
    """Version, and offsets by partition, of a ledger that was found exact."""
    said = stack.compose("run", "--rm", "ledger")
    found = EXACT.search(said)
    assert found, said
    return int(found[1]), dict(re.findall(r"(digits\[\d\]) @ (\d+)", found[2]))


def test_all_services_become_healthy_and_accuracy_rises_at_the_servers_metrics_endpoint(first):
    rounds = dict(first.accuracies)

    assert len(rounds) >= 4
    assert rounds[max(rounds)] > rounds[min(rounds)] + 0.1


def test_killed_containers_start_again(first):
    assert {name for name, count in first.restarts.items() if count} == {"ward-a", "daemon-a", "server"}


def test_the_run_ends_with_an_exact_ledger_of_both_partitions(first):
    version, offsets = first.exact

    assert version == FIRST
    assert offsets.keys() == {"digits[0]", "digits[1]"}
    assert all(int(offset) > 0 for offset in offsets.values())


def test_the_replay_service_has_an_actor_and_a_learner_that_stores_models(first):
    code, files = first.models

    assert set(first.beside.values()) == {"healthy"}
    assert code == 0
    assert "round-0000" in files


def test_up_again_goes_on_from_the_volumes_with_more_clients(first, second):
    version, offsets = second.exact

    assert version == SECOND
    assert f"round closed round={FIRST + 1} " in second.server
    assert "round closed round=1 " not in second.server
    assert all(int(offsets[name]) > int(before) for name, before in first.exact[1].items())


def test_prometheus_asks_every_process(second):
    assert {job for job, _ in second.scraped} == {"server", "clients", "streams", "replay"}


def test_kafka_lets_nobody_in_plainly_where_it_has_tls(second):
    code, said = second.plainly

    assert code == 12
    assert "speaks TLS" in said


def test_processes_that_end_at_random_cost_no_row(third):
    assert third.kills.count("killed container=") >= 3
    assert f"version {THIRD}, " in EXACT.search(third.ledger)[0]
