"""docker-compose.yml as a project of its own, with what is asked of its containers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from engine import docker
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = os.environ.get("COMPOSE_TEST_COMMAND", "docker-compose").split()  # or "docker compose"
LOOK_SECONDS = 1.0


class Stack:
    """The system under a name of its own, gone with all that it kept when this is left; its images stay.

    Args:
        project: its name.
        variables: instead of those in .env.
    """

    def __init__(self, project: str, variables: dict[str, str]) -> None:
        self.project = project
        self.variables = variables
        self.files = ["docker-compose.yml"]
        self.profiles: list[str] = []

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose ARGUMENTS` says."""
        chosen = [word for file in self.files for word in ("-f", str(ROOT / file))]
        chosen += [word for profile in self.profiles for word in ("--profile", profile)]
        own = {"COMPOSE_PROJECT_NAME": self.project, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        done = subprocess.run(
            [*COMPOSE, "-p", self.project, *chosen, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.variables, **own},
            check=False,
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}: {said[-6000:]}"
        return said if check else f"{said}\nended with {done.returncode}"

    def up(self, *arguments: str) -> None:
        """Start what is not running; back once what others wait for is healthy."""
        self.compose("up", "-d", *arguments)

    def state(self, service: str) -> dict:
        """What the engine says of a service's first container."""
        found = docker(
            "ps", "-aq", *self._labelled(), "--filter", f"label=com.docker.compose.service={service}"
        ).split()
        assert found, f"{service} has no container"
        (about,) = json.loads(docker("inspect", found[0]))
        return about

    def health(self, service: str) -> str:
        """healthy, starting or unhealthy while it runs; else its exit code."""
        state = self.state(service)["State"]
        return state["Health"]["Status"] if state["Running"] else f"ended with {state['ExitCode']}"

    def log(self, service: str) -> str:
        """All that a service's first container has said."""
        done = subprocess.run(
            ["docker", "logs", self.state(service)["Id"]], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.stdout.decode(errors="replace")

    def inside(self, service: str, *command: str) -> tuple[int, str]:
        """Exit code and output of a command in a service's first container."""
        done = subprocess.run(
            ["docker", "exec", self.state(service)["Id"], *command], check=False, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    def kill(self, service: str) -> int:
        """SIGKILL for all that runs in a container, whose engine starts it again; starts until now."""
        starts = self.state(service)["RestartCount"]
        self.inside(service, "sh", "-c", "kill -9 -1")
        return starts

    def figures(self) -> dict[str, float]:
        """The server's figures, by name and labels; none while nobody answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.variables['METRICS_PORT']}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except (URLError, OSError):
            return {}
        return {
            one.name + "".join(f" {value}" for value in one.labels.values()): one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }

    def until(self, condition, seconds: float, what: str):
        """What `condition` answers once that is true."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.told()}")
            time.sleep(LOOK_SECONDS)
        return found

    def told(self) -> str:
        """The ends of all logs, for whoever looks for a fault."""
        return self.compose("ps", check=False) + self.compose("logs", "--no-color", "--tail=25", check=False)

    def __enter__(self) -> Self:
        self.compose("down", "-v", "--remove-orphans", "-t", "5")  # what an end in the middle left
        return self

    def __exit__(self, *_: object) -> None:
        self.profiles = ["chaos", "scale", "monitoring"]
        self.compose("down", "-v", "--remove-orphans", "-t", "30")
        assert not docker("ps", "-aq", *self._labelled())
        assert not docker("volume", "ls", "-q", *self._labelled())

    def _labelled(self) -> list[str]:
        return ["--filter", f"label=com.docker.compose.project={self.project}"]
