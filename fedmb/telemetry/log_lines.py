"""fedmb's own log lines on stderr, in a process whose other loggers talk too much."""

from __future__ import annotations

import logging
import os
import sys

from fedmb.telemetry.json_lines import JsonLinesFormatter

FORMAT = "%(asctime)s %(message)s"
FORM = "_FEDMB_LOG"  # in the environment: "json" for processes whose starter writes JSON; no setting, so no FEDMB_


def show_log_lines(level: int = logging.INFO, *, json: bool | None = None) -> None:
    """Write what fedmb logs to stderr, once however often this is called.

    Flower's processes also log each HTTP request; a handler on the root logger would show those.

    Args:
        level: least level shown.
        json: one JSON object a line instead of words; None does as the process that started this one.
    """
    own = logging.getLogger("fedmb")
    own.setLevel(level)
    if not own.handlers:
        own.addHandler(_handler(json=os.environ.get(FORM) == "json" if json is None else json))
        own.propagate = False


def show_all_warnings(*, json: bool = False) -> None:
    """Write fedmb's lines from INFO on to stderr, and everybody else's from WARNING on; replaces other handlers.

    For a process that is all ours, where a driver's warning matters and every line must have one form.

    Args:
        json: one JSON object a line instead of words.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[_handler(json=json)], force=True)
    logging.getLogger("fedmb").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def _handler(*, json: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLinesFormatter() if json else logging.Formatter(FORMAT))
    return handler
