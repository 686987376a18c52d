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


@pytest.fixture(autouse=True)
def _without_what_this_suite_is_told(monkeypatch):
    """A command refuses FEDMB_ variables that are none of its settings."""
    for name in ("FEDMB_KAFKA", "FEDMB_REGISTRY", "FEDMB_KILLS"):
        monkeypatch.delenv(name, raising=False)
