"""A SuperLink with one run on it: started, waited for, submitted to, followed, asked how it ended.

    with Deployment(listen, app, run, drain, limits, standing=standing) as deployment:
        deployment.start()       # answers once the SuperLink is healthy, and the door before it open
        deployment.run()         # until the run is over; raises what made it fail, or `Lost` where a process died

The SuperLink always listens on loopback. With TLS, nodes come through a door (`fedmb.access.door`) on the port that
others reach, and the SuperLink has a port of its own; without, whoever can reach it is on this machine anyway.

`drain.over` ends each wait early; leaving the block ends every process. After `Lost` both may be called again
(`fedmb.launch.survival`).
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from fedmb.access.control import run_status, start_run, stop_run
from fedmb.access.run_log import RunLog
from fedmb.errors import FedmbError
from fedmb.federation.deployed_server import failure_from
from fedmb.launch import commands
from fedmb.launch.child import Child
from fedmb.launch.door_keeper import DoorKeeper
from fedmb.launch.endpoint import Listen, usable_port
from fedmb.launch.keeper import GRACE_SECONDS
from fedmb.launch.server_process import ServerProcess
from fedmb.launch.staging import SETTINGS_KEY, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.access.control import RunStatus
    from fedmb.access.door_limits import DoorLimits
    from fedmb.federation.drain import Drain
    from fedmb.launch.standing import Standing
    from fedmb.telemetry.run_directory import RunDirectory

T = TypeVar("T")
log = logging.getLogger(__name__)

HEALTHY_SECONDS = 60.0  # a SuperLink needs 2 to 4 s on an idle machine of two cores
LAST_WORDS_SECONDS = 0.6  # the SuperLink passes words on twice a second
FINISHED_SECONDS = 10.0  # between the end of a run's log and its final status
BEGIN_SECONDS = 180.0  # between a run's submission and its first moment at work; torch is imported between
ENDING_SECONDS = GRACE_SECONDS + 1.0  # a SuperLink that died is known to have after its keeper ended the rest
PARTS = ("superlink", "run", "door")  # what may be started again
_LOOK_SECONDS = 0.1
_COMPLETED = "finished:completed"
_UNHEARD = "No heartbeat received"  # what Flower says of a run whose process vanished


class Lost(FedmbError):  # noqa: N818  # the condition's name, as in fedmb.errors
    """A process ended, or vanished, that nobody had told to; what it did may be done again.

    Args:
        message: which, how, and where to read on.
        part: "superlink" or "run".
    """

    def __init__(self, message: str, *, part: str) -> None:
        super().__init__(message)
        self.part = part


class Deployment:
    """Flower's server side, in a directory of its own, gone when this is left.

    Args:
        listen: the port.
        app: the directory whose clients/ and server/ are run.
        run: the run; a temporary directory and the SuperLink's log go into its state.
        drain: ends every wait when it is over; told whether the server's process may have a round open.
        limits: of what nodes may send, where there is a door.
        standing: told how it goes; its parts are `PARTS`.
    """

    def __init__(
        self, listen: Listen, app: Path, run: RunDirectory, drain: Drain, limits: DoorLimits, *, standing: Standing
    ) -> None:
        self.superlink_address = Listen("127.0.0.1", usable_port("127.0.0.1", 0)) if listen.tls else listen
        self.log_file = run.state / "superlink.log"
        self._run, self._drain, self._standing = run, drain, standing
        # A directory for each launch: a second one on the same run must not change the first one's files.
        self._home = Path(tempfile.mkdtemp(prefix="flower-", dir=run.state))
        try:
            self._app = stage(app, self._home)
            commands.put_programs(self._home)
            self._environment = commands.environment(self._home)
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

    @property
    def has_superlink(self) -> bool:
        """Whether the SuperLink runs."""
        return self._superlink is not None and self._superlink.poll() is None

    def start(self) -> None:
        """Start the SuperLink, and the door before it at the first time, and wait until they answer.

        Raises:
            Lost: the SuperLink ended.
            FedmbError: they do not answer in time, or the door cannot be kept open.
        """
        place, is_first = self.superlink_address, self._superlink is None
        self.stop_superlink()
        with self.log_file.open("ab") as output:
            program = commands.starter(self._home, "flower-superlink")
            command = commands.superlink(place.host, place.port, program)
            self._superlink = Child(command, environment=self._environment, output=output)
        if self._door is not None and is_first:
            self._door.start()
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not self._healthy() and not self._told_to_stop():
            self._check_superlink()
            if time.monotonic() > deadline:
                raise FedmbError(
                    f"the SuperLink and its door must answer within {HEALTHY_SECONDS:g} s, they do not; read "
                    f"{self.log_file} and what the door says above"
                )

    def stop_superlink(self) -> None:
        """End the SuperLink and every process of its runs."""
        if self._superlink is not None:
            self._superlink.stop()

    def run(self) -> None:
        """Run the server on the run directory's settings, its log lines on stderr, until it is over.

        Raises:
            Lost: the server's process or the SuperLink ended by itself.
            FedmbError: Flower refuses the app, or the run failed; then it has the class and the sentence that the
                server's process ended with. Flower's own exit codes do not tell.
            OSError: the server's disk took no more.
        """
        with ServerProcess(self._run.lock) as process:
            run_id = self._submitted()
            try:
                self._follow(run_id, process)
            except Lost as lost:
                self._drain.has_begun = False
                process.kill()
                if lost.part == "run":
                    with suppress(OSError, HTTPException, FedmbError):  # it may have ended, and clients be asked anew
                        stop_run(self.superlink_address.own_address, run_id)
                raise

    def _follow(self, run_id: int, process: ServerProcess) -> None:
        """Until the run has ended as it should."""
        submitted, heard = time.monotonic(), 0.0
        while True:
            with RunLog(self.superlink_address.own_address, run_id, sys.stderr, after=heard) as said:
                while not (said.is_over or process.is_gone or self._told_to_stop()):
                    self._check_superlink()
                    self._note_begin(process, submitted)
                said.wait(0.0 if self._drain.over.is_set() else LAST_WORDS_SECONDS)
                heard = said.latest
            if self._drain.over.is_set():
                return
            is_gone = process.is_gone
            if is_gone and self._drain.has_drained:
                return
            # A process that ends by itself has told Flower how, before it ends.
            if self._has_completed(run_id, 0.0 if is_gone else FINISHED_SECONDS) or self._drain.over.is_set():
                return
            if is_gone:
                raise Lost("the server's process ended without a word; read what it says above", part="run")

    def _note_begin(self, process: ServerProcess, submitted: float) -> None:
        if process.has_begun:
            if not self._drain.has_begun:
                self._drain.has_begun = True
                self._standing.at_work()
        elif time.monotonic() - submitted > BEGIN_SECONDS:
            raise Lost(
                f"the server's process must begin within {BEGIN_SECONDS:g} s, it did not; read {self.log_file}",
                part="superlink",  # which starts it
            )

    def _has_completed(self, run_id: int, seconds: float) -> bool:
        """Whether the run has ended as it should; asked again for so long while it goes on.

        Raises:
            Lost: Flower has given it up.
            FedmbError, OSError: it failed, as `run`.
        """
        deadline = time.monotonic() + seconds
        while True:
            status, details = self._status(run_id)
            if status == _COMPLETED:
                return True
            if status.startswith("finished"):
                if _UNHEARD in details:
                    raise Lost(f"Flower gave the run up: {details}; read {self.log_file}", part="run")
                self._check_superlink(ENDING_SECONDS)  # which may be why
                raise failure_from(details) or FedmbError(
                    f"a run must end as {_COMPLETED}, Flower says {status}: {details}; read {self.log_file}"
                )
            if time.monotonic() > deadline or self._told_to_stop():
                return False

    def _status(self, run_id: int) -> RunStatus:
        return self._asked("say how a run stands", lambda address: run_status(address, run_id))

    def _submitted(self) -> int:
        """Flower's id of a new run of the app."""
        words = {SETTINGS_KEY: str(self._run.config)}
        return self._asked("start a run", lambda address: start_run(address, self._app, words))

    def _asked(self, duty: str, ask: Callable[[str], T]) -> T:
        """The SuperLink's answer; why there is none is looked for before that is said."""
        try:
            return ask(self.superlink_address.own_address)
        except (OSError, HTTPException) as error:
            self._check_superlink(ENDING_SECONDS)
            raise FedmbError(f"the SuperLink must {duty}, it does not ({error!r}); read {self.log_file}") from error

    def _told_to_stop(self) -> bool:
        """Wait a moment; True once we are to stop, and then the SuperLink drains while the caller's program does."""
        self._standing.beat()
        told = self._drain.over.wait(_LOOK_SECONDS)
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

    def _check_superlink(self, seconds: float = 0.0) -> None:
        """Raise `Lost` if the SuperLink has ended, or does within so long; keep the door open."""
        assert self._superlink is not None, "start() comes first"
        code = self._superlink.wait(self._drain.over, seconds=seconds) if seconds else self._superlink.poll()
        if code is not None:
            raise Lost(
                f"the SuperLink must run as long as the server, it ended with code {code}: {last_line(self.log_file)}; "
                f"read {self.log_file}",
                part="superlink",
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
