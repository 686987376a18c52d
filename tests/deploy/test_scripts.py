"""The scripts that containers run: health checks, numbers dealt out to replicas, a ledger that is looked at."""

import math
import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedmb.federation import checkpoint
from fedmb.federation.checkpoint import ServerState
from fedmb.ledger import Ledger, StreamPartition
from fedmb.telemetry.metrics_server import MetricsServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
HERE = StreamPartition("log", "digits", 0)


def bash(script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(script), *arguments], env=os.environ | environment, check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", ["healthy", "client_of_many", "make_keys", "kafka.sh"])
def test_a_script_is_bash_that_may_be_run(script):
    assert os.access(DEPLOY / script, os.X_OK)
    assert not subprocess.run(["bash", "-n", str(DEPLOY / script)], check=False).returncode


@pytest.mark.parametrize(("path", "trouble"), [("/healthz", ""), ("/healthz", "it is stuck"), ("/readyz", "")])
def test_health_is_what_the_port_answers(path, trouble, tmp_path):
    server = MetricsServer(tuple, unhealthy=lambda: trouble, unready=lambda: trouble)
    port = server.address.rpartition(":")[2]
    script = tmp_path / "healthy"
    script.write_text((DEPLOY / "healthy").read_text().replace("9464", port))
    with closing(server):
        done = bash(script, path)

    assert (done.returncode == 0) is (trouble == "")
    assert trouble in done.stderr


def test_nobody_on_the_port_is_no_health(tmp_path):
    script = tmp_path / "healthy"
    script.write_text((DEPLOY / "healthy").read_text().replace("9464", "1"))

    assert bash(script).returncode != 0


def test_replicas_take_the_numbers_that_nobody_has(tmp_path):
    (tmp_path / "fedmb").write_text('#!/bin/bash\necho "$@"\ncat\n')
    (tmp_path / "fedmb").chmod(0o755)
    script = tmp_path / "client_of_many"
    script.write_text((DEPLOY / "client_of_many").read_text().replace("/var/lib/fedmb", str(tmp_path)))
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    own = os.environ | {"PATH": path, "MOST_CLIENTS": "2"}
    told = []
    replicas = []
    for _ in range(2):
        replica = subprocess.Popen(
            ["bash", str(script), "--x"], env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        replicas.append(replica)
        told.append(replica.stdout.readline())
    third = bash(script, PATH=path, MOST_CLIENTS="2")
    for replica in replicas:
        replica.communicate()

    assert ["--name client-1" in told[0], "--name client-2" in told[1]] == [True, True]
    assert "share=1&of=2" in told[1]
    assert told[0].rstrip().endswith("--x")
    assert (third.returncode, "raise MOST_CLIENTS" in third.stderr) == (3, True)
    assert "--name client-1" in bash(script, PATH=path, MOST_CLIENTS="2").stdout  # both are free again


def test_a_ledger_is_exact_where_rows_and_places_agree():
    sys.path.insert(0, str(DEPLOY))
    from ledger import differences

    def state(offset, row, rows, place):
        position = {"source": {"fresh": {"ledger": {str(HERE): place}}}}
        return ServerState(
            3,
            {},
            Ledger.from_json({str(HERE): [offset, row]}),
            positions={"meter": position},
            learnt={"meter": {"stream": rows, "replay": 9}, "ward": {"private": 5}},
        )

    assert differences(state(4, 3, 35, [4, 3]), 8) == []
    assert differences(state(4, 3, 34, [4, 3]), 8) == ["the ledger stands at 35 rows, 34 were learnt"]
    assert differences(state(4, 3, 35, [4, 2]), 8) == [f"{HERE} stands at [4, 3], and at another place for its client"]


def test_a_run_has_ended_when_it_has_the_rounds_that_it_was_given_and_those_that_it_is_to_have(tmp_path):
    sys.path.insert(0, str(DEPLOY))
    from ledger import ended

    assert ended(tmp_path, 0) is None
    (tmp_path / "config.toml").write_text("[rounds]\ncount = 3\n")
    assert ended(tmp_path, 0) is None
    checkpoint.save(tmp_path / "checkpoints", ServerState(3, {"w": np.zeros(1, np.float32)}))

    assert ended(tmp_path, 0).version == 3
    assert ended(tmp_path, 5) is None
    assert ended(tmp_path, math.inf) is None


def test_the_killer_asks_the_engine_for_its_own_project_and_ends_what_runs_inside(tmp_path, monkeypatch):
    import json
    from http.server import BaseHTTPRequestHandler
    from socketserver import ThreadingUnixStreamServer

    sys.path.insert(0, str(DEPLOY))
    import killer

    asked = []
    running = [
        {"Id": "7", "Names": ["/x-server-1"], "Labels": {"com.docker.compose.service": "server"}},
        {"Id": "8", "Names": ["/x-keys-1"], "Labels": {"com.docker.compose.service": "keys"}},
    ]

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(running)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body)))
            self._answer({"Id": "e1"})

        def _answer(self, content):
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self):
            return "socket"

        def log_message(self, *_):
            pass

    monkeypatch.setattr(killer, "SOCKET", str(tmp_path / "engine"))
    with ThreadingUnixStreamServer(killer.SOCKET, Engine) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        found = killer.victims("x")
        killer.kill("7")
        engine.shutdown()

    assert found == {"x-server-1": "7"}
    assert asked[0] == (
        "/v1.41/containers/7/exec",
        {"Cmd": ["sh", "-c", "kill -9 -1"], "AttachStdout": False, "AttachStderr": False},
    )
    assert asked[1][0] == "/v1.41/exec/e1/start"
