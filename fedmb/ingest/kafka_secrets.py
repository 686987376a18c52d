"""Passwords kept out of the log of kafka-python, which at level DEBUG shows its settings and every byte it sends."""

from __future__ import annotations

import logging

_hidden: set[str] = set()


def hide(secret: str) -> None:
    """Leave out every line of the library's log that shows `secret`, as text or inside bytes, from now on.

    Lines at INFO and above show none, and are not looked at.
    """
    import kafka  # noqa: F401  # its loggers exist once it is imported

    if not secret:
        return
    _hidden.update({secret, repr(secret)[1:-1], repr(secret.encode())[2:-1]})
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "kafka":
            logging.getLogger(name).addFilter(_shows_no_secret)  # added once, however often


def _shows_no_secret(record: logging.LogRecord) -> bool:
    if record.levelno > logging.DEBUG:
        return True
    text = record.getMessage()
    return not any(secret in text for secret in _hidden)
