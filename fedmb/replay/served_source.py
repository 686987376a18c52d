"""Mini-batches from a replay service, by URL: what actors append there, a federated client learns here.

    replay://127.0.0.1:8400/site-0?prioritizes=true
    replay://learner.example:8400/site-0?root_certificates=/etc/fedmb/ca.crt&token_file=/run/secrets/token

The service draws, by its own generator, and keeps rows, priorities and generator in its snapshots. So a client that is
killed goes on from whatever the table holds then: another run does not draw the same rows.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from fedmb.errors import SettingsError, ShapeError
from fedmb.replay.remote import RemoteTable
from fedmb.replay.remote_connection import Transport
from fedmb.replay.replay_source import ReplaySource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedmb.batch.minibatch import Schema
    from fedmb.replay.sample import Sample

REPLAY = "replay:"
KEYS = ("prioritizes", "root_certificates", "token_file", "transport", "prefetch")
_TRUTH = {"true": True, "false": False}


class RemoteDraws:
    """A `Drawable` whose draws are the service's: the generator that a caller brings is not used.

    Args:
        table: closed with this one.
    """

    def __init__(self, table: RemoteTable) -> None:
        self._table = table
        self.name = table.name

    @property
    def sample_schema(self) -> Schema:
        """Columns of a sample."""
        return self._table.sample_schema

    def sample(
        self, size: int, *, generator: np.random.Generator | None = None, timeout: float | None = None
    ) -> Sample:
        """The next batch; waits where the table's limiter does.

        Raises:
            RateLimited: no batch came in time.
            Unreachable: the service has gone, and did not come back.
        """
        return self._table.sample(size, timeout=timeout)

    def reprioritize(self, ids: NDArray[np.int64], priorities: NDArray[np.float64]) -> int:
        """Give rows new priorities."""
        return self._table.reprioritize(ids, priorities)

    def close(self) -> None:
        """Leave the service."""
        self._table.close()


def served_source(url: str, schema: Schema, *, client: str, seed: int, patience_seconds: float) -> ReplaySource:
    """The table that a `replay:` URL names, as a source.

    Args:
        url: as in the module's head; `prioritizes` gives each row's loss back as its priority.
        schema: columns that a sample must have, those that the table's reader makes included.
        client: name of the client.
        seed: seed of the run.
        patience_seconds: how long the table's limiter may let a draw wait.

    Raises:
        SettingsError: the URL breaks a rule, or the service has no such table.
        ShapeError: its samples have other columns.
        Unreachable: nobody answers there.
        AccessDenied: the service wants another token.
    """
    parts = urlsplit(url)
    table = unquote(parts.path.strip("/"))
    if not parts.netloc or not table or "/" in table or parts.fragment or "@" in parts.netloc:
        raise SettingsError(f"a served table is written replay://host:port/TABLE, got {url!r}; name both")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in said:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            raise SettingsError(
                f"a served table is told {', '.join(KEYS)}, got {key!r}; "
                + (f"did you mean {near[0]}?" if near else "drop it"),
                key=key,
            )
    remote = RemoteTable(
        parts.netloc,
        table,
        root_certificates=_path(said.get("root_certificates")),
        token_file=_path(said.get("token_file")),
        prefetch=_count(said.get("prefetch", "8")),
        transport=_transport(said.get("transport", "auto")),
    )
    try:
        if dict(remote.sample_schema) != dict(schema):
            raise ShapeError(  # noqa: TRY301  # the connection is closed on the way out
                f"samples of table {table} must have the task's columns {dict(schema)}, got "
                f"{dict(remote.sample_schema)}; change the table's columns or reader, or the task's schema"
            )
        prioritizes = _truth(said.get("prioritizes", "false"))
        return ReplaySource(
            RemoteDraws(remote), seed=seed, client=client, prioritizes=prioritizes, patience_seconds=patience_seconds
        )
    except BaseException:
        remote.close()
        raise


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _truth(text: str) -> bool:
    if text not in _TRUTH:
        raise SettingsError(f"prioritizes must be true or false, got {text!r}; choose one", key="prioritizes")
    return _TRUTH[text]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise SettingsError(f"prefetch must be a number of batches, got {text!r}; 8 fits most", key="prefetch")
    return int(text)


def _transport(text: str) -> Transport:
    for known in get_args(Transport):
        if text == known:
            found: Transport = known
            return found
    raise SettingsError(f"transport must be {', '.join(get_args(Transport))}, got {text!r}", key="transport")
