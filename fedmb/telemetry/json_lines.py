"""Log records as JSON, one object a line, for machines that collect logs.

    log.info("batch stored topic=%s rows=%d", "meter", 64)
    {"time": "...Z", "level": "INFO", "logger": "fedmb.x", "event": "batch stored",
     "fields": {"topic": "meter", "rows": 64}}                                                  # in one line

Keys are read from the format string, not from the finished text, so that a value which looks like `key=value` stays a
value: nothing that a record of a stream says can put a field into a log.
"""

from __future__ import annotations

import json
import logging
import math
import re
from datetime import UTC, datetime
from typing import Any

_KEY = re.compile(r"(?:^|\s)([A-Za-z_][A-Za-z0-9_.]*(?:/[a-z]+)?)=")  # such as rows/s
_SPECIFIER = re.compile(r"%[-#0 +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[a-zA-Z]|%%")
_WHOLE = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class JsonLinesFormatter(logging.Formatter):
    """Makes one JSON object of a log record: time (UTC), level, logger, event, fields, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        event, fields = event_and_fields(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
            "fields": fields,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, allow_nan=False, default=str)


def event_and_fields(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The words of a log record before its first `key=`, and a value for each key."""
    template = record.msg if isinstance(record.msg, str) else str(record.msg)
    if not isinstance(record.args, tuple) or not record.args:
        return _parsed(record.getMessage())
    try:
        head, pieces = _cut(template)
        arguments = list(record.args)
        event, fields = _parsed(_filled(head, arguments))
        for key, text in pieces:
            fields[key] = _value(text, arguments)
    except (TypeError, ValueError, IndexError):  # a format string and arguments that do not fit
        return f"{template} {record.args!r}", {}
    return event, fields


def _cut(template: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first key, and each key with what stands behind it."""
    found = list(_KEY.finditer(template))
    if not found:
        return template, []
    stops = [match.start() for match in found[1:]] + [len(template)]
    pieces = [(match[1], template[match.end() : stop]) for match, stop in zip(found, stops, strict=True)]
    return template[: found[0].start()], pieces


def _filled(template: str, arguments: list[object]) -> str:
    """`template` with as many arguments as it takes, which are taken off the list."""
    wanted = sum(1 + found[0].count("*") for found in _SPECIFIER.finditer(template) if found[0] != "%%")
    taken = tuple(arguments.pop(0) for _ in range(wanted))
    return template % taken


def _value(template: str, arguments: list[object]) -> object:
    """A field's value: a number or truth stays one where the format string shows it plainly."""
    if _SPECIFIER.fullmatch(template) and template != "%%" and "*" not in template:
        first = arguments[0]
        if isinstance(first, bool | int) or (isinstance(first, float) and math.isfinite(first)):
            return arguments.pop(0)
        return _filled(template, arguments)
    return _number(_filled(template, arguments)) if "%" not in template else _filled(template, arguments)


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Event and fields of a text without arguments."""
    head, pieces = _cut(text)
    return head.strip(), {key: _number(value) for key, value in pieces}


def _number(text: str) -> object:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) and math.isfinite(float(text)) else text
