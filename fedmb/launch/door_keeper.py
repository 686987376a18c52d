"""The process of the nodes' door: started, looked at, started again when it dies."""

from __future__ import annotations

import logging
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from fedmb.access.door_plan import DoorPlan
from fedmb.errors import FedmbError
from fedmb.launch import commands
from fedmb.launch.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fedmb.access.door_limits import DoorLimits
    from fedmb.launch.endpoint import Listen

log = logging.getLogger(__name__)

SHORT_LIFE_SECONDS = 10.0  # a door that was told something wrong ends sooner
SHORT_LIVES = 3  # in a row, before starting it again is given up


class DoorKeeper:
    """Keeps one door open.

    Args:
        listen: the port that nodes use, with its certificate and the nodes' keys.
        superlink: the SuperLink's, on loopback.
        limits: of what nodes may send.
        home: directory for the door's plan, which names files and holds no secret.
        environment: of the process.
        on_restart: called each time that it is started again.
    """

    def __init__(
        self,
        listen: Listen,
        superlink: Listen,
        limits: DoorLimits,
        home: Path,
        environment: Mapping[str, str],
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        assert listen.certificate is not None, "a door is for TLS"
        assert listen.key is not None, "as above"
        self._listen = listen
        self._environment = environment
        self._on_restart = on_restart
        plan = DoorPlan(
            host=listen.host,
            port=listen.port,
            certificate=listen.certificate.resolve(),
            key=listen.key.resolve(),
            node_keys=listen.node_keys and listen.node_keys.resolve(),
            superlink=f"http://{superlink.own_address}",
            limits=limits,
        )
        self._plan = home / "door.json"
        self._plan.write_text(plan.model_dump_json(indent=1), encoding="utf-8")
        self._child: Child | None = None
        self._started = 0.0
        self._short_lives = 0

    def start(self) -> None:
        """Start the process; what it says goes to stderr, where refusals belong."""
        self._started = time.monotonic()
        self._child = Child(commands.door(self._plan), environment=self._environment, output=sys.stderr)

    def is_open(self) -> bool:
        """Whether somebody can connect."""
        host, _, port = self._listen.own_address.rpartition(":")
        with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
        return False

    def keep(self) -> None:
        """Start a door that ended again; nodes try again meanwhile.

        Raises:
            FedmbError: it ended at once several times in a row.
        """
        if self._child is None or (code := self._child.poll()) is None:
            return
        is_short = time.monotonic() - self._started < SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if is_short else 0
        if self._short_lives == SHORT_LIVES:
            raise FedmbError(
                f"the nodes' door must keep running, it ended at once {SHORT_LIVES} times, last with code {code}; read "
                "what it says above"
            )
        log.warning("door ended code=%d, started again", code)
        self._child.stop()
        self._on_restart()
        self.start()

    def ask_to_stop(self) -> None:
        """Let requests under way end."""
        if self._child is not None:
            self._child.ask_to_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if self._child is not None:
            self._child.__exit__(kind, error, traceback)
