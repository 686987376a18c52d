"""Telling the one who started this process how it stands, in systemd's words.

systemd (`Type=notify`), and whoever imitates it, names a datagram socket in `NOTIFY_SOCKET` and reads lines like
`READY=1` from it. With `WatchdogSec=` set it also wants `WATCHDOG=1` within `WATCHDOG_USEC` microseconds, and restarts
a process that falls silent.

Source: sd_notify(3), systemd 252.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_SEND_SECONDS = 1.0  # a supervisor that does not read must not hold the process up


class Supervisor:
    """Sends how this process stands; does nothing where nobody asked.

    Args:
        address: path of the socket, `@name` for an abstract one; empty for none.
        watchdog_seconds: the supervisor wants a sign of life within so long; inf for never.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = math.inf) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds
        self._status = ""
        self._has_failed = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Supervisor:
        """The supervisor that the environment names; a watchdog meant for another process is none."""
        microseconds, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
        is_watched = microseconds.isdecimal() and int(microseconds) > 0 and process == str(os.getpid())
        return cls(environ.get("NOTIFY_SOCKET", ""), int(microseconds) / 1e6 if is_watched else math.inf)

    @property
    def beat_seconds(self) -> float:
        """How often `alive` should be called, half of what the watchdog allows; inf where there is none."""
        return self._watchdog_seconds / 2

    def ready(self, status: str) -> None:
        """The process does its work from now on."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """A sign of life, where a watchdog waits for one."""
        if self._watchdog_seconds < math.inf:
            self._send("WATCHDOG=1")

    def status(self, status: str) -> None:
        """One line for whoever asks `systemctl status`; sent when it changes."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The process is about to end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
        except (OSError, ValueError) as error:
            if not self._has_failed:  # it may be gone for good; the work goes on, and one line says so
                logger.warning("supervisor not reached socket=%r error=%s", self._address, error)
            self._has_failed = True
