"""What the guides show must be what happens."""

import contextlib
import io
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from fedmb.cli import main
from fedmb.errors import SettingsError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.client_tally import ClientTally
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.run_figures import RunFigures
from fedmb.federation.stream_watch import figures
from fedmb.ingest.kafka_options import KEYS, SETTINGS
from fedmb.ingest.pump_tally import PumpStatistics
from fedmb.launch.standing import Standing
from fedmb.ledger import StreamPartition
from fedmb.replay.service_section import ReplayServe
from fedmb.replay.stream_ring import StreamRingStatistics
from fedmb.settings import load
from fedmb.simulation.population import Simulation
from fedmb.telemetry.events import RoundReport
from fedmb.telemetry.sinks import JsonLines

GUIDES = Path(__file__).resolve().parents[1] / "docs" / "guide"
PAGES = (
    *("forever.md", "training.md", "gradient.md", "norm-layers.md", "streams.md", "online.md"),
    *(
        "watching.md",
        "reproducing.md",
        "replay.md",
        "replay-memories.md",
        "security.md",
        "wire.md",
        "robust.md",
        "rounds.md",
    ),
    "drift.md",
    "privacy.md",
)
STREAMS = (GUIDES / "streams.md").read_text()
BROKER = "127.0.0.1:9092"  # of the page
READERS = {
    Simulation: {},
    ServerSettings: {},
    ClientSettings: {"name": "ward", "source": "table:task"},
    ReplayServe: {},
}
WAIT_SECONDS = 60.0  # for what a daemon is still about; it takes one


@pytest.fixture(autouse=True)
def _generators_are_put_back():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (GUIDES / page).read_text()
    commands = "" if text == STREAMS else r"|```console\n\$ fedmb (.*?)\n(.*?)```"  # which need a broker there
    snippets = re.findall(rf"```python\n(.*?)```\n```\n(.*?)```{commands}", text, re.DOTALL)
    names = {}

    assert sum(bool(code) for code, *_ in snippets) == text.count("```python")
    for code, expected, *command in snippets:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if code:
                exec(compile(code, page, "exec"), names)  # noqa: S102  # our own page
            else:
                main(command[0].split())
        assert as_shown(printed.getvalue()) == as_shown(expected or command[1])


def as_shown(text):
    """A text without spaces at the ends of its lines, and without checksums in names of files."""
    return re.sub(r"(?<=snapshot-)(\d{6})-[0-9a-f]{8}", r"\1", re.sub(r" +$", "", text, flags=re.MULTILINE)).strip()


def fences(kind):
    """Blocks of one kind on all pages, with where they stand."""
    return [
        pytest.param(block, id=f"{path.name}-{number}")
        for path in sorted(GUIDES.glob("*.md"))
        for number, block in enumerate(re.findall(rf"```{kind}\n(.*?)```", path.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("block", fences("toml"))
def test_every_piece_of_toml_is_taken_by_a_program(block, tmp_path):
    (tmp_path / "settings.toml").write_text(block)
    refused = []
    for kind, told in READERS.items():
        try:
            load(kind, file=tmp_path / "settings.toml", explicit=told)
        except SettingsError as error:
            refused.append(str(error))

    assert len(refused) < len(READERS), refused


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (GUIDES / page).read_text()
    anchors = headings_of(page)

    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        assert (GUIDES / target).exists()
        assert not anchor or anchor in (headings_of(target) if target else anchors)


def headings_of(page):
    """Anchors of a page."""
    headings = re.findall(r"^#+ (.*)$", (GUIDES / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Shell:
    """Runs a page's commands one after another: `fedmb ...`, `fedmb ... > FILE`, `fedmb ... &` and `kill %1`."""

    def __init__(self, capsys, address, topic):
        self.capsys, self.address, self.topic = capsys, address, topic
        self.daemon = None

    def run(self, command):
        """What a command prints: data, or the error where there are none."""
        *words, last = shlex.split(command.replace(f"{BROKER}/", f"{self.address}/{self.topic}-"))
        if command == "kill %1":
            self.daemon.send_signal(signal.SIGTERM)
            return self.as_on_the_page(self.daemon.communicate(timeout=WAIT_SECONDS)[0])
        if last == "&":
            self.daemon = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True)
            return ""
        goes_to = Path(last) if words[-1] == ">" else None
        self.capsys.readouterr()
        main(words[1:-1] if goes_to else [*words[1:], last])
        out, err = self.capsys.readouterr()
        if goes_to:
            goes_to.write_text(out)
            return ""
        return self.as_on_the_page(out or err)

    def as_on_the_page(self, text):
        return text.replace(f"{self.topic}-", "").replace(self.address, BROKER)

    def close(self):
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.communicate()


@pytest.fixture
def shell(kafka, topic, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # tables are not folded
    for name in [name for name in os.environ if name.startswith("FEDMB_")]:
        monkeypatch.delenv(name)  # of the suite; fedmb takes them for its settings
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    logged = logging.root.handlers[:], logging.root.level
    shell = Shell(capsys, kafka.address, topic)
    yield shell
    shell.close()
    logging.root.handlers[:], level = logged
    logging.root.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def comparable(text):
    """A text without times, the cluster's name and the widths of a table's columns."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"[\w-]+(?=/\w+(?:\.dlq)?\[\d)", "CLUSTER", text)
    return re.sub(r"[─\s]+", " ", text).strip()


def test_every_command_of_the_page_on_streams_prints_what_it_says(shell):
    session = "".join(re.findall(r"```console\n(.*?)```", STREAMS, re.DOTALL))
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)

    assert len(commands) == session.count("$ fedmb") + 1
    for command, expected in commands:
        printed, deadline = shell.run(command), time.monotonic() + WAIT_SECONDS
        # What a person reads before the next command is time in which a daemon gets on.
        while " lag " in command and comparable(printed) != comparable(expected) and time.monotonic() < deadline:
            printed = shell.run(command)
        assert comparable(printed) == comparable(expected), command


def test_the_page_on_streams_names_every_key_of_a_kafka_url():
    table = STREAMS.partition("| keys | for |")[2].partition("\n\n")[0]
    keys = [key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.partition(" | ")[0])]

    assert sorted(keys) == sorted({*KEYS, SETTINGS, "partition", "partitions"})


def test_the_page_on_watching_names_every_figure_of_server_and_client(tmp_path):
    told = {"seconds": 1.0, "train_loss": 1.0, "scores": {}, "rows": {}, "lag": 0, "clients": 1, "accepted": ("ward",)}
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.report(RoundReport(round=1, **told))
    sink.close()
    (tmp_path / "tally.json").write_text('{"round": 1, "seconds": 1.0, "units": 1.0, "epsilon": 1.0, "ended": 1.0}')
    metrics = [
        *RunFigures(tmp_path / "metrics.jsonl", tmp_path / "checkpoints").metrics(),
        *ClientTally(tmp_path).metrics(),
        *(one for verb in ("server", "client") for one in Standing(verb, threading.Event()).metrics()),
    ]
    names = {f"{one.name}_total" if one.type == "counter" else one.name for one in metrics}

    page = (GUIDES / "watching.md").read_text()
    assert set(re.findall(r"\bfedmb_(?:server|client)_\w+", page)) == names


def test_the_page_on_streams_names_every_figure_of_a_daemon():
    by_label = {"rejected": {"DecodeError": 0}, "lag": {StreamPartition("k", "rows", 0): 0}}
    pump = PumpStatistics(**{field.name: 0 for field in fields(PumpStatistics)} | by_label)
    ring = StreamRingStatistics(**{field.name: 0 for field in fields(StreamRingStatistics)})
    names = {sample.name for family in figures(pump, ring) for sample in family.samples}

    assert set(re.findall(r"\bfedmb_(?:stream|ring)_\w+", STREAMS)) == names
