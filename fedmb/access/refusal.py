"""What a door says to whom it does not let in: a status, and a sentence that a person can act on."""

from __future__ import annotations

import json
from enum import StrEnum


class Reason(StrEnum):
    """Why somebody is not let in."""

    PATH = "path"
    NO_KEY = "no-key"
    UNKNOWN_KEY = "unknown-key"
    SIGNATURE = "signature"
    CLOCK = "clock"
    REPLAY = "replay"
    EARLY = "early"
    SIZE = "size"
    SLOW = "slow"
    SUPERLINK = "superlink"


STATUS = {
    Reason.PATH: 404,
    Reason.NO_KEY: 401,
    Reason.UNKNOWN_KEY: 401,
    Reason.SIGNATURE: 401,
    Reason.CLOCK: 401,
    Reason.REPLAY: 401,
    Reason.EARLY: 503,  # a SuperNode tries again after 502 and 503, with a new signature
    Reason.SIZE: 413,
    Reason.SLOW: 408,
    Reason.SUPERLINK: 502,
}
_MOST_BYTES = 65_536  # of an answer that a stranger may have sent


class Refused(Exception):  # noqa: N818  # what happened to a request, not a failure of ours
    """A request that the door does not pass on.

    Args:
        reason: of what kind.
        sentence: rule, value and way out, in one line.
    """

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence

    @property
    def status(self) -> int:
        """Of the answer by HTTP."""
        return STATUS[self.reason]

    @property
    def body(self) -> bytes:
        """JSON in the form of Flower's own errors, so that a bare SuperNode prints the sentence too."""
        return json.dumps({"code": 0, "detail": self.sentence, "extra": "", "reason": self.reason}).encode()


def refused_by(body: bytes) -> Refused | None:
    """The refusal that a door wrote; None for an answer of another kind."""
    try:
        told = json.loads(body[:_MOST_BYTES])
        return Refused(Reason(told["reason"]), str(told["detail"]))
    except (ValueError, KeyError, TypeError):
        return None
