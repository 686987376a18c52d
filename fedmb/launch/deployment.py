"""A SuperLink with one run on it: started, waited for, submitted to, followed, asked how it ended.

    with Deployment(listen, app, state, stop) as deployment:
        deployment.start()           # answers once the SuperLink is healthy, and the door before it open
        deployment.run(settings)     # until the run is over; raises what made it fail

The SuperLink always listens on loopback. With TLS, nodes come through a door (`fedmb.access.door`) on the port that
others reach, and the SuperLink has a port of its own; without, whoever can reach it is on this machine anyway.

Setting `stop` ends each wait early; leaving the block ends every process.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from fedmb.errors import FedmbError
from fedmb.federation.deployed_server import failure_from
from fedmb.launch import commands
from fedmb.launch.child import Child
from fedmb.launch.door_keeper import DoorKeeper
from fedmb.launch.endpoint import Listen, usable_port
from fedmb.launch.staging import SETTINGS_KEY, stage
from fedmb.settings.toml import value_text

if TYPE_CHECKING:
    from threading import Event

    from fedmb.access.door_limits import DoorLimits
    from fedmb.launch.standing import Standing

log = logging.getLogger(__name__)

HEALTHY_SECONDS = 60.0  # a SuperLink needs 2 to 4 s on an idle machine of two cores
COMMAND_SECONDS = 60.0  # Flower's short commands take 1 to 2 s
FINISHED_SECONDS = 10.0  # between the end of a run's log and its final status
PARTS = ("superlink", "run", "door")  # what may be started again
_LOOK_SECONDS = 0.1
_COMPLETED = "finished:completed"


class Deployment:
    """Flower's server side, in a directory of its own, gone when this is left.

    Args:
        listen: the port.
        app: the directory whose clients/ and server/ are run.
        state: where a temporary directory and the SuperLink's log go.
        stop: ends every wait when it is set.
        limits: of what nodes may send, where there is a door.
        standing: told how it goes; its parts are `PARTS`.
    """

    def __init__(
        self, listen: Listen, app: Path, state: Path, stop: Event, limits: DoorLimits, *, standing: Standing
    ) -> None:
        self.superlink_address = Listen("127.0.0.1", usable_port("127.0.0.1", 0)) if listen.tls else listen
        self.stop = stop
        self._standing = standing
        self.log_file = state / "superlink.log"
        # A directory for each launch: a second one on the same run must not change the first one's files.
        self._home = Path(tempfile.mkdtemp(prefix="flower-", dir=state))
        try:
            self._app = stage(app, self._home)
            self._environment = commands.environment(self._home)
            (self._home / "config.toml").write_text(
                commands.connection(self.superlink_address.own_address), encoding="utf-8"
            )
            self._door = (
                DoorKeeper(
                    *(listen, self.superlink_address, limits, self._home, self._environment),
                    on_restart=lambda: standing.restarted("door"),
                )
                if listen.tls
                else None
            )
        except BaseException:
            shutil.rmtree(self._home)
            raise
        self._superlink: Child | None = None

    def start(self) -> None:
        """Start the SuperLink, and the door before it, and wait until they answer.

        Raises:
            FedmbError: one ended, or does not answer in time.
        """
        place = self.superlink_address
        with self.log_file.open("ab") as output:
            command = commands.superlink(place.host, place.port)
            self._superlink = Child(command, environment=self._environment, output=output)
        if self._door is not None:
            self._door.start()
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not self._healthy() and not self.stop.wait(_LOOK_SECONDS):
            self._check_superlink()
            if time.monotonic() > deadline:
                raise FedmbError(
                    f"the SuperLink and its door must answer within {HEALTHY_SECONDS:g} s, they do not; read "
                    f"{self.log_file} and what the door says above"
                )

    def run(self, settings: Path) -> None:
        """Run the server whose settings are in this file, its log lines on stderr, until it is over.

        Raises:
            FedmbError: Flower refuses the app, the SuperLink ended, or the run failed; then it has the class and the
                sentence that the server's process ended with. Flower's own exit codes do not tell.
            OSError: the server's disk took no more.
        """
        run_config = self._home / "run-config.toml"
        run_config.write_text(f"{SETTINGS_KEY} = {value_text(settings)}\n", encoding="utf-8")
        submitted = self._answer(commands.submit(self._app, run_config))
        if submitted is None:
            return
        run_id = str(submitted["run-id"])
        self._standing.at_work()
        with Child(commands.follow(run_id), environment=self._environment, output=sys.stderr) as follower:
            while follower.poll() is None and not self._told_to_stop():
                self._check_superlink()
        deadline = time.monotonic() + FINISHED_SECONDS
        while (answer := self._answer(commands.status(run_id))) is not None:
            (run,) = answer["runs"]
            if run["status"] == _COMPLETED:
                return
            if run["status"].startswith("finished") or time.monotonic() > deadline:
                details = str(run["status-details"])
                raise failure_from(details) or FedmbError(
                    f"a run must end as {_COMPLETED}, Flower says {run['status']}: {details}; read {self.log_file}"
                )

    def _answer(self, command: list[str]) -> dict[str, Any] | None:
        """What one of Flower's short commands answers; None when we are to stop."""
        with Child(command, environment=self._environment, output=subprocess.PIPE) as child:
            deadline = time.monotonic() + COMMAND_SECONDS
            while child.poll() is None and time.monotonic() < deadline:
                if self._told_to_stop():
                    return None
            child.stop()
            text = child.finished_output()
        with suppress(ValueError):
            answer: dict[str, Any] = json.loads(text[text.index("{") :])
            if answer.get("success"):
                return answer
        self._check_superlink()
        raise FedmbError(f"`{Path(command[0]).name} {command[1]}` must succeed, it says: {text.strip()}")

    def _told_to_stop(self) -> bool:
        """Wait a moment; True once we are to stop, and then the SuperLink drains while the caller's program does."""
        self._standing.beat()
        told = self.stop.wait(_LOOK_SECONDS)
        if told and self._superlink is not None:
            self._superlink.ask_to_stop()
            if self._door is not None:
                self._door.ask_to_stop()
        return told

    def _healthy(self) -> bool:
        with (
            suppress(URLError, OSError),
            urlopen(f"http://{self.superlink_address.own_address}/health", timeout=1.0),
        ):
            return self._door is None or self._door.is_open()
        return False

    def _check_superlink(self) -> None:
        assert self._superlink is not None, "start() comes first"
        if (code := self._superlink.poll()) is not None:
            raise FedmbError(
                f"the SuperLink must run as long as the server, it ended with code {code}: {last_line(self.log_file)}; "
                f"read {self.log_file}"
            )
        if self._door is not None:
            self._door.keep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if self._door is not None:
            self._door.__exit__(kind, error, traceback)
        if self._superlink is not None:
            self._superlink.__exit__(kind, error, traceback)
        shutil.rmtree(self._home, ignore_errors=True)


def last_line(file: Path) -> str:
    """The last line of a log that says something."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was logged")
