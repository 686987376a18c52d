"""The app's half of a resident trainer: hand a message on, and train in this process where nobody takes it.

Loads no torch and no settings: Flower starts a process for each message, and those two are most of what it costs.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from flwr.app import Error, Message

from fedmb import __version__
from fedmb.errors import AccessDenied, FedmbError
from fedmb.federation.record_bytes import from_bytes, to_bytes
from fedmb.federation.trainer_line import LINE_VERSION, Line, Say, called
from fedmb.replay.wire_format import json_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flwr.app import RecordDict

log = logging.getLogger(__name__)

PATIENCE_SECONDS = (
    30.0  # for a trainer that starts or starts again; importing torch takes 2 to 6 s, on a busy machine more
)
TRIES = 3  # a message that ends three trainers is tried here, where its error has a reader
_LOOK_SECONDS = 0.05  # between two calls to a trainer that is not there yet


def reply_through(
    trainer: Path,
    message: Message,
    alone: Callable[[], Message],
    *,
    code: Path,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Message:
    """The resident trainer's reply to `message`, or that of `alone`, which trains in this process.

    Args:
        trainer: directory where the trainer listens.
        message: what the server sent.
        alone: called when no trainer takes the message, or three of them ended over it. None of them has the
            client's source then.
        code: folder of this app, where its task is imported from.
        patience_seconds: how long a trainer that does not listen is waited for, each time.
    """
    hello = {"version": LINE_VERSION, "fedmb": __version__, "code": str(code)}
    for _ in range(TRIES):
        line = _reached(trainer, patience_seconds)
        if line is None:
            log.warning("trainer absent seconds=%g directory=%s; training in this process", patience_seconds, trainer)
            return alone()
        try:
            with line:
                outcome = _asked(line, message.content, hello)
        except (OSError, FedmbError) as error:
            log.warning("trainer lost reason=%s", error)
            continue
        if outcome is not None:
            return Message(outcome, reply_to=message)
    log.warning("trainer took no message tries=%d; training in this process", TRIES)
    return alone()


def _asked(line: Line, content: RecordDict, hello: dict[str, object]) -> RecordDict | Error | None:
    """What the trainer answers; None when it is to be asked again."""
    line.tell(Say.HELLO, hello)
    line.say(Say.LEARN, *to_bytes(content))
    answer = line.hear()
    if answer is None:
        log.warning("trainer ended before it answered")
        return None
    if answer.kind is Say.LEARNT:
        return from_bytes(answer.payload)
    about = json_of(answer.payload)
    if answer.kind is Say.FAILED:
        return Error(int(about["code"]), str(about["reason"]))
    log.info("trainer starts afresh reason=%s", about.get("reason"))
    return None


def _reached(trainer: Path, seconds: float) -> Line | None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return called(trainer)
        except AccessDenied as error:
            log.warning("trainer not trusted reason=%s", error)
            return None
        except OSError:
            if time.monotonic() > deadline:
                return None
            time.sleep(_LOOK_SECONDS)
