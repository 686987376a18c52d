"""By whose clock a node signs: the server's, where this machine's is wrong.

Flower lets a SuperNode in whose clock is at most 5 s fast and 305 s slow, one on loopback too; any other ends without a
word of why. Nothing else in a federation asks a client what time it is. So a client reads the server's clock from the
`Date` of its answers, over TLS those of a server that it trusts, and its SuperNode signs by that clock.

Source: flwr/superlink/routers/fleet/node_auth.py and flwr/supernode/node_auth_http_interceptor.py of Flower 1.41.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

AHEAD = "FLOWER_SERVER_AHEAD_SECONDS"  # environment variable of a SuperNode
BORNE_SECONDS = 2.0  # of difference that nobody needs to know of; a Date has whole seconds
MOST_SECONDS = 86_400.0  # that are made good: a server must not collect signatures of a far future


def seconds_ahead(date: str | None, now: dt.datetime) -> float:
    """How far the clock that wrote an HTTP `Date` is ahead of ours, as far as that matters and is made good.

    Args:
        date: the header; None where there was none.
        now: our time when it came, with a zone.
    """
    try:
        told = parsedate_to_datetime(date or "")
    except ValueError:
        return 0.0
    if told.tzinfo is None:
        return 0.0
    ahead = (told - now).total_seconds()
    return ahead if BORNE_SECONDS < abs(ahead) <= MOST_SECONDS else 0.0


def following(ahead: float) -> dict[str, str]:
    """Environment of a SuperNode that is to sign by a clock so many seconds ahead of ours."""
    return {AHEAD: str(ahead)} if ahead else {}


def follow() -> None:
    """Let SuperNodes of this process sign as the environment says; where a later Flower signs elsewhere, say so."""
    ahead = float(os.environ.get(AHEAD, "0"))
    if not ahead:
        return
    try:
        from flwr.supernode import node_auth_http_interceptor as signer

        own = vars(signer)["now"]
    except (ImportError, KeyError):
        log.warning("this Flower signs by this machine's clock alone; set it by NTP")
        return
    vars(signer)["now"] = lambda: own() + dt.timedelta(seconds=ahead)
