"""A pump in a thread of its own, so that its process can be asked and told things meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmb.ingest.pump import Pump


class PumpThread:
    """A pump that runs in a thread of its own, so that its process can be asked and told things meanwhile.

    Args:
        pump: what to run.
        stop: set by whoever wants it to end, and by the thread when it ends by itself.
    """

    def __init__(self, pump: Pump, stop: threading.Event) -> None:
        self._pump = pump
        self._stop = stop
        self._error: BaseException | None = None
        # A poll that never returns must not keep a process alive that was told to end.
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self, timeout_seconds: float) -> None:
        """Wait until the pump has ended, for at most so long, and raise what ended it.

        Raises:
            TimeoutError: it has not ended in time.
            FedmbError: what `Pump.run` raised.
        """
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"the pump must end within {timeout_seconds} s")
        if self._error is not None:
            raise self._error

    @property
    def is_alive(self) -> bool:
        """True while it runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._pump.run(self._stop)
        except BaseException as error:  # noqa: BLE001  # raised again by `end`, in the thread that waits
            self._error = error
        finally:
            self._stop.set()
