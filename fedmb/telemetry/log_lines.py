"""fedmb's own log lines on stderr, in a process whose other loggers talk too much."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(message)s"


def show_log_lines(level: int = logging.INFO) -> None:
    """Write what fedmb logs to stderr, once however often this is called.

    Flower's processes also log each HTTP request; a handler on the root logger would show those.
    """
    own = logging.getLogger("fedmb")
    own.setLevel(level)
    if not own.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(FORMAT))
        own.addHandler(handler)
        own.propagate = False
