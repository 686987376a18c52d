"""A server or a client as others see it: metrics and health on a port, readiness and signs of life for a supervisor."""

from __future__ import annotations

import logging
import os
import threading
from itertools import chain
from typing import TYPE_CHECKING, Self

from fedmb.launch.endpoint import is_loopback
from fedmb.telemetry.metrics_server import MetricsServer
from fedmb.telemetry.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from fedmb.launch.standing import Standing
    from fedmb.telemetry.watching_section import Watching

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at how things stand


class Watched:
    """Shows a standing inside a `with` block.

    Args:
        standing: what is watched.
        watching: where.
        figures: figures beside the standing's, of this moment; called from any thread.
        line: how it goes, in a few words.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    def __init__(
        self,
        standing: Standing,
        watching: Watching,
        *,
        figures: Callable[[], Iterator[Metric]],
        line: Callable[[], str],
    ) -> None:
        self._standing, self._watching, self._line = standing, watching, line
        self._supervisor = Supervisor.from_environment(os.environ)
        self._left = threading.Event()
        self._server = MetricsServer(
            lambda: chain(standing.metrics(), figures()),
            unhealthy=self._unhealthy,
            unready=standing.unready,
            host=watching.host,
            port=watching.port,
        )
        if not is_loopback(watching.host):
            log.warning("metrics open beyond this machine, not encrypted host=%s", watching.host)
        self._thread = threading.Thread(target=self._attend, name="fedmb-watched", daemon=True)

    @property
    def address(self) -> str:
        """URL of the metrics."""
        return f"http://{self._server.address}/metrics"

    def _unhealthy(self) -> str:
        return self._standing.unhealthy(self._watching.stuck_seconds)

    def _attend(self) -> None:
        """Tell a supervisor how things stand, until the block is left."""
        standing, supervisor = self._standing, self._supervisor
        is_ready = False
        while not self._left.wait(min(LOOK_SECONDS, supervisor.beat_seconds)) and not standing.is_ending:
            trouble = standing.unready()
            if not is_ready and not trouble:
                is_ready = True
                supervisor.ready(self._line())
            if not standing.is_silent:  # one that hears nothing starts a new process
                supervisor.alive()
            supervisor.status(trouble or self._line())
        supervisor.stopping("draining")
        while not self._left.wait(min(LOOK_SECONDS, supervisor.beat_seconds)):  # an open round may take its time
            supervisor.alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._server.close()
