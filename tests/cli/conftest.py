"""A command sets signal handlers and log handlers of the whole process; each test puts them back."""

import logging
import signal

import pytest


@pytest.fixture(autouse=True)
def _keep_process_settings():
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root, own = logging.getLogger(), logging.getLogger("fedmb")
    handlers, level, own_level = list(root.handlers), root.level, own.level
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(capture=False)
