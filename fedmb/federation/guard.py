"""The only door to the aggregator: a reply is an update that fits, or it is refused with its reason.

In this order, the cheap questions first: did the client fail? Is the reply too large? Does it run this fedmb? Which
version did it start from? Who sends it, and is that client in already? Does the model in it have our names, shapes and
dtypes, and finite numbers? Are its counts counts? How far did it move the model? Do its spans start at the ledger, and
are the partitions its own?

No answer depends on who came before, except where two replies cannot both be true. Whatever else a reply makes Python
raise while it is read is a refusal too: no reply ends a round.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from fedmb.arrays.flat import FlatArrays
from fedmb.errors import FedmbError, NotEnoughData, ShapeError, StaleUpdate
from fedmb.federation.ownership import owner_of
from fedmb.federation.wire import base_version_of, bytes_in, read_update, sender
from fedmb.ledger import partitions_within
from fedmb.section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Message

    from fedmb.aggregation.compress import Wire
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.cohort import Cohort
    from fedmb.federation.senders import Senders
    from fedmb.ledger import Ledger
    from fedmb.update import Arrays, Update

log = logging.getLogger(__name__)

_BESIDE_MODEL = 16 << 20  # bytes of names, positions and figures
_LONGEST = 1e19  # float32 can square it: norms and distances of what is longer are infinite
_MAX_SUMS = 1000  # figures of an update; the largest here has some dozens
_MAX_ORIGINS = 100
_MAX_FIGURE = 100  # letters of a name
_MAX_COUNT = 2**53  # a float counts no further
_MAX_OFFSET = 2**63 - 1
_MAX_DEPTH = 64  # of a position: mixtures of blends of streams nest some six deep, and json's own limit is near 1000
_BLOCK = 1 << 16  # elements: scratch stays in the cache


class GuardLimits(Section):
    """What an update may hold at most, beside what no update may hold."""

    max_units: float = Field(default=1e9, gt=0)
    """Most units (rows, tokens, importance weights) that an update may say it learnt; they are its say in the mean."""
    max_norm: float = Field(default=math.inf, gt=0)
    """Longest change of the model, as a Euclidean norm."""
    norm_medians: float = Field(default=math.inf, gt=1)
    """Longest change in median lengths of the last rounds' changes; the first round has none to compare with."""
    reply_models: float = Field(default=4.0, ge=1)
    """Most bytes of a reply, in sizes of the model, and 16 MiB beside it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An update that may take part in the round."""

    update: Update
    ledger: Ledger
    """The round's, advanced by the update's spans."""
    norm: float
    """Length of the change that the update makes; 0 where it learnt nothing."""
    num_bytes: int
    """Bytes of the reply."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A reply that may not."""

    client: str
    """Whose it is: the client behind its node, or `node <id>`."""
    reason: str
    is_bad: bool
    """Whether it was refused for what it held; a client that failed or came late is no bad one."""
    num_bytes: int = 0
    """Bytes of the reply, as far as they can be counted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a reply is held against."""

    state: ServerState
    """Of the round."""
    bases: Mapping[int, ServerState]
    """Versions that an update may start from, the round's among them."""
    owners: Mapping[str, str]
    """Clients by the stream partitions that are theirs; see `fedmb.federation.ownership.owners_in`."""
    wire: Wire
    """How replies were asked for."""
    limits: GuardLimits
    usual_norm: float
    """Median length of the last rounds' changes; inf before there is one."""


def guard(message: Message, node: int, standing: Standing, cohort: Cohort, senders: Senders) -> Accepted | Rejected:
    """Let a reply into the round, or refuse it by name; never raises, and changes nothing.

    Args:
        message: the reply.
        node: who was asked for it.
        standing: what it is held against.
        cohort: what was let in before.
        senders: which client answers from which node.
    """
    client, num_bytes = f"node {node}", 0
    try:
        client, num_bytes = senders.blamed(node, message), bytes_in(message)
        return _admitted(message, node, num_bytes, standing, cohort, senders)
    except FedmbError as error:
        return Rejected(client, str(error), isinstance(error, ShapeError), num_bytes)
    except Exception as error:  # nobody has foreseen everything that can be sent
        log.warning("reply not understood client=%s", client, exc_info=True)
        said = f"a reply must be readable, got {type(error).__name__}: {str(error)[:200]}; see the server's log"
        return Rejected(client, said, is_bad=True, num_bytes=num_bytes)


def _admitted(
    message: Message, node: int, num_bytes: int, standing: Standing, cohort: Cohort, senders: Senders
) -> Accepted:
    """As `guard`.

    Raises:
        NotEnoughData: the client answered with an error.
        ShapeError, VersionMismatch: the reply is not a fitting update.
        StaleUpdate: it starts from another version or place, or the client or its partition is in already.
    """
    if message.has_error():
        raise NotEnoughData(message.error.reason or f"the client failed with code {message.error.code}")
    state, limits = standing.state, standing.limits
    model = FlatArrays.packed(state.arrays)
    _check_at_most("bytes of a reply", num_bytes, limits.reply_models * model.layout.num_bytes + _BESIDE_MODEL)
    version = base_version_of(message)
    base = standing.bases.get(version)
    if base is None:
        raise StaleUpdate(f"an update must start from version {_shown(standing)}, got {version}; it came late or twice")
    client = sender(message)
    senders.check(node, client)
    if client in cohort.accepted:
        raise StaleUpdate(
            f"a client counts once in a round, {client!r} is in already; give every client a name of its own"
        )
    update = read_update(message, base.arrays, standing.wire)
    _check_counts(update, limits)
    if base is not state and base.positions.get(client) != state.positions.get(client):
        raise StaleUpdate(
            f"a late update must start where its client stands, {client!r} was learnt since version {version}; drop it"
        )
    norm = _length(update.arrays, base.arrays) if update.weight > 0 else 0.0
    _check_norm(norm, standing)
    _check_owner(update, client, standing.owners)
    return Accepted(update, _advanced(update, client, cohort), norm, num_bytes)


def _shown(standing: Standing) -> str:
    oldest, newest = min(standing.bases), standing.state.version
    return str(newest) if oldest == newest else f"{oldest} to {newest}"


def _check_at_most(what: str, got: float, most: float) -> None:
    if not got <= most:  # NaN is not
        raise ShapeError(f"{what} must be at most {most:g}, got {got:g}; reject it")


def _check_counts(update: Update, limits: GuardLimits) -> None:
    """Demand that what an update counts are counts, and that everything of it can be stored and sent back."""
    _check_at_most("the number of an update's figures", len(update.sums), _MAX_SUMS)
    _check_at_most("the number of an update's origins of rows", len(update.rows), _MAX_ORIGINS)
    units = limits.max_units
    for what, count, most in (
        ("an update's weight", update.weight, units),
        ("an update's units", update.sums.get("units", 0.0), units),
        *(("an update's rows", count, _MAX_COUNT) for count in update.rows.values()),
        *(("a span's offset", max(span.stop), _MAX_OFFSET) for span in update.spans.values()),
    ):
        if not 0 <= count <= most:
            raise ShapeError(f"{what} must be 0 to {most:g}, got {count:g}; reject it")
    for name, value in update.sums.items():
        if not math.isfinite(value):
            raise ShapeError(f"the sum {name[:80]!r} must be finite, got {value}; reject the update")
    for name in (*update.sums, *update.rows):
        if not (0 < len(name) <= _MAX_FIGURE and name.isprintable()):
            raise ShapeError(f"a figure's name must be 1 to {_MAX_FIGURE} printable letters, got {name[:80]!r}")
    for position in update.positions.values():
        _check_position(position)


def _check_position(position: object) -> None:
    """Demand that a position nests no deeper than one does, and that its numbers are some."""
    level = [position]
    for _ in range(_MAX_DEPTH):
        if not level:
            return
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, float) and not math.isfinite(one):
                raise ShapeError(f"a client's position must have finite numbers, got {one}; reject the update")
        level = inner
    raise ShapeError(f"a client's position must nest at most {_MAX_DEPTH} deep, got more; reject the update")


def _check_norm(norm: float, standing: Standing) -> None:
    limits = standing.limits
    _check_at_most("the length of an update's change", norm, _LONGEST)
    if norm > limits.max_norm:
        raise ShapeError(
            f"the length of an update's change must be at most {limits.max_norm:g}, got {norm:g}; look at the client, "
            "or raise rounds.guard.max_norm"
        )
    if norm > limits.norm_medians * standing.usual_norm:
        raise ShapeError(
            f"the length of an update's change must be at most {limits.norm_medians:g} times the usual "
            f"{standing.usual_norm:g}, got {norm:g}; look at the client, or raise rounds.guard.norm_medians"
        )


def _length(after: Arrays, before: Arrays) -> float:
    """Euclidean norm of the change of all floating arrays."""
    total, scratch = 0.0, np.empty(_BLOCK)
    earlier = FlatArrays.packed(before).reals()
    for group, vector in FlatArrays.packed(after).reals().items():
        for start in range(0, vector.size, _BLOCK):
            part = vector[start : start + _BLOCK]
            change = scratch[: part.size]
            np.subtract(part, earlier[group][start : start + _BLOCK], out=change)
            total += float(change @ change)
    return math.sqrt(total)


def _check_owner(update: Update, client: str, owners: Mapping[str, str]) -> None:
    """Demand that nobody else learns what the update learnt, or says its source stands in.

    Raises:
        StaleUpdate: a partition stands in another client's position.
    """
    claimed = {*map(str, update.spans), *partitions_within(update.positions[client].get("source"))}
    for partition in sorted(claimed):
        if (owner := owners.get(partition, client)) != client:
            raise StaleUpdate(_whose(partition, owner, client))


def _advanced(update: Update, client: str, cohort: Cohort) -> Ledger:
    """The cohort's ledger after an update's spans.

    Raises:
        StaleUpdate: a span does not start where it stands; where another client learns its partition, that is named.
    """
    try:
        return cohort.ledger.advanced(update.spans)
    except StaleUpdate as error:
        for partition in sorted(update.spans):
            if (owner := owner_of(partition, cohort.positions, other_than=client)) is not None:
                raise StaleUpdate(_whose(str(partition), owner, client)) from error
        raise


def _whose(partition: str, owner: str, client: str) -> str:
    return (
        f"a partition must have one owner, {partition} is learnt by {owner!r}, got rows of it from {client!r} too; "
        f"give {client!r} a partition of its own, or let a group= deal them out"
    )
