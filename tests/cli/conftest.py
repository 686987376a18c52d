"""A command sets signal handlers and log handlers of the whole process; each test puts them back."""

import logging
import signal

import pytest


@pytest.fixture(autouse=True)
def _keep_process_settings():
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
