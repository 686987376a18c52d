"""Ends calls that never return: first by an exception in the thread that made them, then with the process.

A client library can fall into an endless loop (kafka-python 3.0.12 does after some damaged records), and a reader
that hangs looks healthy from outside.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TypeVar

from fedmb.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS_PER_LIMIT = 10  # the watchdog looks so often within a call's limit
SETTLE_SECONDS = 0.001  # between looks whether an exception on its way has been sent

T = TypeVar("T")
_log = logging.getLogger(__name__)


class CallStalled(BaseException):  # like KeyboardInterrupt: a library's `except Exception` must not eat it
    """Raised inside a call that took too long; leaves `Watchdog.call` as TimeoutError."""


class _Watch:
    """A call under way."""

    def __init__(self, limit_seconds: float) -> None:
        self.thread = threading.get_ident()
        self.limit_seconds = limit_seconds
        self.due = time.monotonic() + limit_seconds
        self.is_condemned = False
        self.is_settled = False


class Watchdog:
    """Watches the calls of one thread at a time, from a thread of its own that the first call starts.

    Args:
        name: of what is watched, for the log.
        shortest_seconds: least limit of a call; the watchdog looks ten times within it.
        grace_seconds: how long a call may ignore its end before the process is ended; its limit again, if left out.
    """

    def __init__(self, name: str, shortest_seconds: float, *, grace_seconds: float | None = None) -> None:
        self.stalls = 0
        """Calls that had to be ended."""
        self._name = name
        self._pause = shortest_seconds / LOOKS_PER_LIMIT
        self._grace = grace_seconds
        self._watch: _Watch | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], T], limit_seconds: float) -> T:
        """What `function` answers.

        Raises:
            TimeoutError: it did not return in time and was ended; what it worked on is in no known state. A call
                that not even this ends, ends the process with `ExitCode.STALLED` after the grace.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fedmb-watchdog", daemon=True)
            self._thread.start()
        watch = _Watch(limit_seconds)
        try:
            try:
                self._watch = watch
                return function()
            finally:
                self._watch = None
                # The exception may have been sent to a call that returned just now; it must arrive in here.
                if watch.is_condemned:
                    while not watch.is_settled:
                        time.sleep(SETTLE_SECONDS)
                    time.sleep(0)
        except CallStalled as stalled:
            self._watch = None
            raise TimeoutError(f"{self._name} must answer within {limit_seconds:g} s, got no answer") from stalled

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._pause):
            watch = self._watch
            if watch is None or time.monotonic() < watch.due:
                continue
            if watch.is_condemned:
                self._end(watch)
                continue
            # First say so, then look again: whichever of the two threads comes second sees what the other did.
            watch.is_condemned = True
            if self._watch is watch:
                self.stalls += 1
                _log.error("call stalled name=%s seconds=%.1f", self._name, watch.limit_seconds)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(watch.thread), ctypes.py_object(CallStalled))
            watch.due = time.monotonic() + (watch.limit_seconds if self._grace is None else self._grace)
            watch.is_settled = True

    def _end(self, watch: _Watch) -> None:
        frame = sys._current_frames().get(watch.thread)  # noqa: SLF001  # the only way to another thread's stack
        stack = "".join(traceback.format_stack(frame))
        _log.critical("call stalled for good, process ends name=%s stack:\n%s", self._name, stack)
        logging.shutdown()
        os._exit(ExitCode.STALLED)
