"""A SuperNode for one client, and the client's trainer, kept running for as long as the client is."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import nullcontext
from threading import Event
from typing import TYPE_CHECKING, Self

from fedmb.access.server_clock import following
from fedmb.errors import AccessDenied, FedmbError, Unreachable
from fedmb.federation.node_note import forget_node, noted_node
from fedmb.launch import commands
from fedmb.launch.child import Child
from fedmb.launch.kept_running import KeptRunning
from fedmb.launch.warm import FORKED, caller
from fedmb.settings import to_toml
from fedmb.settings.toml import value_text
from fedmb.telemetry.run_directory import locked, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from fedmb.federation.client_settings import ClientSettings
    from fedmb.launch.endpoint import Server
    from fedmb.launch.standing import Standing

log = logging.getLogger(__name__)

SHORT_LIFE_SECONDS = 10.0  # a SuperNode that was started wrongly ends sooner: it takes 2 to 4 s to connect
SHORT_LIVES = 3  # in a row, before starting it again is given up; one may be a server that is another now
AGAIN_SECONDS = 0.2  # before it is started again; each new server waits for its clients' SuperNodes
LOOK_SECONDS = 0.5  # between two looks at whether the process that messages' are forked from was lost
HANDED_OVER_SECONDS = 2.0  # for a reply that a message's process had handed over to reach the server
PROBE_SECONDS = 5.0  # between two looks at whether the server answers; the SuperNode says nothing while it does not
HEARD_SECONDS = 1.0  # a server looks for replies as often: with a key the next SuperNode is the same node, as if online
FORGOTTEN_SECONDS = 65.0  # until Flower misses a node that nobody said goodbye for; its key lets no other in before
KILLED = 128  # what a keeper's exit code is above where a signal ended the program
WARM = "warm"  # folder in Flower's directory where the process waits that messages' are forked from
PARTS = ("node", "trainer")  # what may be started again


class Node:
    """One client's SuperNode.

    Args:
        settings: the client's own; written to its state directory, where each message's process reads them.
        server: what it connects to.
        port: of its own programs, on loopback.
        standing: told how it goes; its parts are `PARTS`.

    Raises:
        AlreadyOwned: another live client has the state directory.
    """

    def __init__(self, settings: ClientSettings, server: Server, *, port: int, standing: Standing) -> None:
        directory = settings.directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = locked(directory / "owner.lock", directory, kind="a client's directory")
        home = directory / "flower"
        home.mkdir(exist_ok=True)
        file = directory / "client.toml"
        write_atomically(file, to_toml(settings.model_copy(update={"state": directory})))
        node_config = home / "node.toml"
        named = {"settings": file} | ({"trainer": directory / "trainer"} if settings.resident else {})
        lines = "".join(f"{name} = {value_text(path)}\n" for name, path in named.items())
        write_atomically(node_config, lines)
        commands.put_programs(home)
        program = commands.starter(home, "flower-supernode")
        self._command = commands.supernode(server, port=port, node_config=node_config, program=program)
        self._environment = commands.environment(home, home / WARM if settings.resident else None)
        self._directory = directory
        self._server = server
        self._standing = standing
        trainer = KeptRunning(
            "trainer", commands.trainer(file), self._environment, on_restart=lambda: standing.restarted("trainer")
        )
        self._trainer = trainer if settings.resident else None
        self._lost = Event()
        self._warm = self._waiting(home) if settings.resident else None

    def supervise(self, stop: Event) -> None:
        """Run the SuperNode, and the client's trainer beside it, until `stop` is set; what ends is started again.

        A SuperNode waits for a server that went away and ends when another one, that does not know it, takes its
        place. So it is started again for every run of `fedmb server`. One that was killed could say no goodbye; that is
        said before the next is started, so that no round waits for it. One that has lost a message's process is killed:
        Flower's waits for the answer, for a minute or, if that process was just sending it, for ever.

        Raises:
            AccessDenied: the server does not let this client in, or the client does not trust the server.
            FedmbError: it ended at once several times in a row, so starting it again would not help.
        """
        with self._trainer or nullcontext(), self._warm or nullcontext():
            self._supervise_node(stop)

    def _waiting(self, home: Path) -> KeptRunning:
        """What Flower's process for each message is forked from, and where Flower finds it."""
        folder = home / WARM
        folder.mkdir(exist_ok=True)
        for name, lasting in FORKED.items():
            caller(folder / name, folder, commands.starter(home, name), lasting=lasting)
        return KeptRunning("warm", commands.warm(folder), commands.environment(home), on_restart=self._lost.set)

    def _supervise_node(self, stop: Event) -> None:
        short_lives, patient_until = 0, 0.0
        while not stop.is_set():
            ahead = self._server.wait_until_let_in(stop, self._standing.beat)
            if stop.is_set():
                return
            if ahead:
                log.warning("clock is off, signing by the server's ahead_seconds=%.0f; set it by NTP", ahead)
            self._say_goodbye(stop, ahead)
            started = time.monotonic()
            environment = {**self._environment, **following(ahead)}
            with Child(self._command, environment=environment, output=sys.stderr) as child:
                self._standing.at_work()
                code = self._watched_end(child, stop)
                if stop.is_set():
                    for one in filter(None, (self._trainer, self._warm)):
                        one.ask_to_stop()  # all at once: each has its grace period
            if code is None or code <= KILLED:
                forget_node(self._directory)
            if code is None:
                return
            now = time.monotonic()
            if code > KILLED:
                patient_until = now + FORGOTTEN_SECONDS
            is_short = now - started < SHORT_LIFE_SECONDS and now > patient_until
            short_lives = short_lives + 1 if is_short and self._probe() else 0  # or the server went, not it
            if short_lives == SHORT_LIVES:
                raise FedmbError(
                    f"a SuperNode must keep running, it ended at once {SHORT_LIVES} times, last with code {code}; read "
                    "what it says above"
                )
            log.warning("node ended code=%d again_seconds=%g", code, AGAIN_SECONDS)
            self._standing.amiss(f"the SuperNode ended with code {code}")
            self._standing.restarted("node")
            stop.wait(AGAIN_SECONDS)

    def _say_goodbye(self, stop: Event, ahead: float) -> None:
        """For the node that was there before, here or in an earlier life of this client, if it was killed."""
        if (former := noted_node(self._directory)) is not None:
            was_listed = self._server.leave(former, ahead)
            forget_node(self._directory)
            if was_listed:
                log.info("killed node taken off the server's list node=%d", former)
                stop.wait(HEARD_SECONDS)

    def _watched_end(self, child: Child, stop: Event) -> int | None:
        """The SuperNode's exit code; None once we are to stop. Asks now and then whether the server answers."""
        asked = time.monotonic()
        self._lost.clear()
        while (code := child.wait(stop, seconds=LOOK_SECONDS)) is None and not stop.is_set():
            self._standing.beat()
            if self._lost.is_set() and not stop.wait(HANDED_OVER_SECONDS):
                log.warning("node killed, it may have lost the process of a message")
                child.kill()
            if time.monotonic() - asked >= PROBE_SECONDS:
                self._probe()
                asked = time.monotonic()
        return code

    def _probe(self) -> bool:
        """Whether the server answers and lets this client in."""
        try:
            self._server.knock()
        except (Unreachable, AccessDenied) as error:
            self._standing.amiss(str(error))
            return False
        self._standing.at_work()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()
