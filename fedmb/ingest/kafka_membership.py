"""Keeps a member in its group while its owner is busy with what it has read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_SECONDS = 0.5  # a rebalance waits for every member, so it waits no longer than this for a busy one


class KeepAlive:
    """Calls `tick` twice a second from a thread of its own.

    Args:
        tick: fetches when nobody else did; must not wait.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="fedmb-membership", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self._tick()
