"""Ends processes of the system at random, by SIGKILL, until it is stopped: the profile chaos of docker-compose.yml.

Told by the environment: PROJECT, KILL_SECONDS (mean time between two kills) and KILL_SEED. Speaks to the engine over
its socket: whoever may do that is root on the machine, so this profile is for machines of your own.

It ends the processes inside a container and not the container: an engine does not start again what it was told to kill.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import urllib.parse

SOCKET = "/var/run/docker.sock"
API = "/v1.41"  # of Docker 20.10 and all that came after
KILLED = ("kafka", "feeder-", "daemon-", "server", "ward-", "meter-", "client", "replay", "learner", "actor")
EVERYTHING = ["sh", "-c", "kill -9 -1"]  # but the first process, which ends with the last one below it


class Engine(http.client.HTTPConnection):
    """The engine's API."""

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)

    def ask(self, method: str, path: str, body: object = None) -> object:
        """What it answers, from JSON; RuntimeError where it refuses."""
        content = None if body is None else json.dumps(body)
        self.request(method, API + path, content, {"Content-Type": "application/json"})
        answer = self.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"the engine refuses {method} {path}: {text.strip()}")
        try:
            return json.loads(text)
        except ValueError:  # what a process wrote, or nothing
            return None


def victims(project: str) -> dict[str, str]:
    """Ids of the running containers that may be hit, by name."""
    wanted = {"label": [f"com.docker.compose.project={project}"], "status": ["running"]}
    query = urllib.parse.quote(json.dumps(wanted))
    found = Engine("localhost", timeout=30).ask("GET", f"/containers/json?filters={query}")
    return {
        one["Names"][0].lstrip("/"): one["Id"]
        for one in found
        if one["Labels"]["com.docker.compose.service"].startswith(KILLED)
    }


def kill(container: str) -> None:
    """End all that runs in a container."""
    command = {"Cmd": EVERYTHING, "AttachStdout": False, "AttachStderr": False}
    made = Engine("localhost", timeout=30).ask("POST", f"/containers/{container}/exec", command)
    Engine("localhost", timeout=30).ask("POST", f"/exec/{made['Id']}/start", {"Detach": True})


def main() -> int:
    """Kill until SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    project, seconds = os.environ["PROJECT"], float(os.environ["KILL_SECONDS"])
    dice = random.Random(os.environ.get("KILL_SEED"))
    kills = 0
    print(f"killing mean_seconds={seconds:g} seed={os.environ.get('KILL_SEED')}", flush=True)
    while not stop.wait(dice.expovariate(1 / seconds)):
        if not (found := victims(project)):
            continue
        name = dice.choice(sorted(found))
        try:
            kill(found[name])
        except RuntimeError as error:  # it ended meanwhile
            print(f"missed container={name} reason={error}", flush=True)
            continue
        kills += 1
        print(f"killed container={name} kills={kills}", flush=True)
    print(f"killed {kills} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
