"""The compose files and Dockerfiles, read and not run: what a start would stumble over, and what makes them safe.

`make compose-test` brings the system up. This is for every run of the suite, and needs no engine.
"""

import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from fedmb.cli.application import application
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.stream_feed import StreamFeed
from fedmb.federation.stream_run import StreamRun
from fedmb.replay.service_section import ReplayServe
from fedmb.settings import load

ROOT = Path(__file__).resolve().parents[2]
FILES = ("docker-compose.yml", "compose.tls.yml", "compose.gpu.yml")
DOCKERFILES = ("clients/Dockerfile", "server/Dockerfile", "streams/Dockerfile", "deploy/kafka.Dockerfile")
OF_COMPOSE = {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"}  # read by compose itself
TOOLS = {"keys", "killer", "ledger"}  # which end by themselves or are watched by nobody
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
CONDITIONS = {"service_healthy", "service_completed_successfully"}


def settled(text):
    """With the values that hold where nobody says another."""
    return VARIABLE.sub(lambda found: found[2] or "", text).replace("$$", "$")


@cache
def composed(name):
    return yaml.safe_load(settled((ROOT / name).read_text()))


def services(name="docker-compose.yml"):
    return composed(name)["services"]


def documented():
    """Variables of .env with their values, each with the comment that stands over it."""
    found, about = {}, ""
    for line in (ROOT / ".env").read_text().splitlines():
        if line.startswith("#") and not line.startswith("# ----"):
            about = line
        elif "=" in line:
            name, _, value = line.partition("=")
            assert about, f"{name} has no comment"
            assert name not in found, f"{name} stands twice"
            found[name] = value
        else:
            about = ""
    return found


def test_every_variable_is_in_env_with_the_value_that_holds_without_it():
    known, used = documented(), {}
    for name in FILES:
        for variable, default in VARIABLE.findall((ROOT / name).read_text()):
            used.setdefault(variable, set()).add(default)

    assert used.keys() | OF_COMPOSE == known.keys()
    assert {variable: {known[variable]} for variable in used} == used


@pytest.mark.parametrize("name", services())
def test_a_service_is_bound_and_watched(name):
    one = services()[name]

    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["restart"] == "on-failure"
    assert one["init"] is True
    assert one["mem_limit"]
    assert float(one["cpus"]) > 0
    assert one["pids_limit"] > 0
    assert one["logging"]["options"]["max-size"]
    health = one["healthcheck"]
    assert health.get("disable", False) is (name in TOOLS)
    assert name in TOOLS or {"test", "interval", "timeout", "retries", "start_period"} <= health.keys()


@pytest.mark.parametrize("name", services())
def test_what_a_service_needs_is_there(name):
    one = services()[name]
    volumes = [volume.split(":") for volume in one.get("volumes", [])]

    for needed, how in one.get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        assert needed in services()
        assert (how["condition"] == "service_healthy") is (needed not in TOOLS)
    for source, target, *_ in volumes:
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).exists()
        elif not source.startswith("/"):
            assert source in composed("docker-compose.yml")["volumes"]
    if "build" in one:
        assert (ROOT / one["build"]["dockerfile"]).is_file()


def test_every_volume_is_used():
    used = {volume.split(":")[0] for one in services().values() for volume in one.get("volumes", [])}

    assert composed("docker-compose.yml")["volumes"].keys() <= used


def test_the_authoritys_key_is_seen_by_what_makes_keys_alone_and_servers_keys_by_servers():
    mounted = {}
    for name, one in services().items():
        for volume in one.get("volumes", []):
            source, _, *how = volume.split(":")
            mounted.setdefault(source, {})[name] = how == ["ro"]

    assert mounted["authority"] == {"keys": False}
    assert mounted["server-keys"] == {"keys": False, "kafka": True, "server": True, "replay": True}
    assert [name for name, is_read_only in mounted["client-keys"].items() if not is_read_only] == ["keys"]
    assert list(mounted["/var/run/docker.sock"]) == ["killer"]


def test_ports_are_opened_on_loopback_unless_somebody_says_otherwise():
    for name, one in services().items():
        for port in one.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} opens {port}"


def test_what_compose_adds_and_changes_is_there_to_be_changed():
    for name in FILES[1:]:
        assert services(name).keys() <= services().keys()
    for name, one in services("compose.tls.yml").items():
        plain = services()[name].get("environment", {})
        assert one["environment"].keys() <= plain.keys()
        if "FEDMB_URL" in plain:
            assert one["environment"]["FEDMB_URL"].startswith(plain["FEDMB_URL"] + "&tls_ca=")


def words(one):
    """Command line of a service behind `fedmb`; None where it runs something else."""
    entry = one.get("entrypoint") or ["fedmb"]
    if entry == ["client_of_many"]:
        own = (ROOT / "deploy" / "client_of_many").read_text()
        line = re.search(r"exec fedmb (client .*?)\"\$@\"", own, re.DOTALL)[1].replace("\\\n", " ")
        return shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", line)) + one["command"]
    if entry != ["fedmb"] or "build" not in one:
        return None
    return ["stream"] * ("streams" in one["image"]) + one["command"]


COMMANDS = {name: found for name, one in services().items() if "command" in one and (found := words(one))}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_one_that_fedmb_knows_with_settings_that_it_takes(name):
    command, context, rest = application(), None, COMMANDS[name]
    while hasattr(command, "commands"):
        verb, *rest = rest
        command = command.commands[verb]
        context = command.make_context(verb, list(rest)) if not hasattr(command, "commands") else None
    given = context.params
    kind = {"server": ServerSettings, "client": ClientSettings, "feed": StreamFeed, "run": StreamRun}.get(verb)
    if kind is None:
        return
    url = services()[name].get("environment", {}).get("FEDMB_URL")
    known = {key: value for key, value in given.items() if key in kind.model_fields.keys() - {"rounds"}}
    for key in known.keys() & {"labels_before", "labels_after"}:
        known[key] = [int(one) for one in known[key].split(",")]
    known |= {"url": url} if url else {}
    known = {key: value for key, value in known.items() if value is not None}
    settings = load(kind, overrides=given["override"] or [], explicit=known)
    assert settings.model_dump()


def test_the_replay_service_reads_its_settings():
    settings = load(ReplayServe, file=ROOT / "deploy" / "replay.toml", overrides=["host=127.0.0.1"])

    assert settings.watching.port == 9464


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_builds_upon_named_bases_ends_as_nobody_and_copies_what_is_let_in(name):
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    defaults = dict(line[1].split("=", 1) for line in lines if line[0] == "ARG" and "=" in line[1])

    assert all(line[1].startswith("${") for line in lines if line[0] == "FROM")
    assert [line[1] for line in lines if line[0] == "USER"][-1] == "10001:10001"
    known = documented()
    assert {variable: known[variable] for variable in defaults} == defaults
    for line in lines:
        if line[0] == "COPY" and not line[1].startswith("--from"):
            for source in line[1:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == one or source.startswith(f"{one}/") for one in let_in), source


def test_images_of_servers_and_streams_are_the_same_steps_until_they_differ():
    texts = [(ROOT / name / "Dockerfile").read_text() for name in ("server", "streams")]
    server, streams = (text.partition("FROM ${PYTHON_IMAGE}\n")[0].splitlines()[2:] for text in texts)

    assert server == streams


def test_images_install_what_the_package_needs_but_torch():
    sys.path.insert(0, str(ROOT / "deploy"))
    from needs import needs

    found = needs(ROOT / "pyproject.toml", ["rl"])

    assert not [one for one in found if one.startswith("torch")]
    assert {"flwr>=1.41,<1.42", "gymnasium>=1.1"} <= set(found)


def test_figures_on_the_dashboard_are_those_that_processes_show():
    told = "".join((ROOT / "docs" / "guide" / name).read_text() for name in ("watching.md", "streams.md", "deploy.md"))
    board = json.loads((ROOT / "deploy" / "grafana" / "fedmb.json").read_text())
    shown = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"fedmb_\w+", target["expr"])
    }

    assert shown
    assert {name for name in shown if f"`{name}`" not in told} == set()


def test_prometheus_asks_services_that_there_are():
    asked = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in asked for each in job["static_configs"] for target in each["targets"]]
    targets += [
        f"{name}:{each['port']}" for job in asked for each in job.get("dns_sd_configs", []) for name in each["names"]
    ]

    assert len(targets) == len(set(targets)) == 11
    for target in targets:
        service, port = target.split(":")
        assert service in services()
        assert port == "9464"
