"""The model that round 1 starts from, where the server has no torch to build one: its clients are asked for it.

server -> client: a query with the run's seed and the way to train
client -> server: the arrays that a server with torch would have begun with, to the bit, and which of them are trained

The initial model follows from task, settings and seed alone, so honest clients answer alike. Taken is what most of them
answer, once no other answer can have as many: one client among several cannot choose where a run begins.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict

from fedmb import __version__
from fedmb.arrays.bfloat16 import is_finite
from fedmb.arrays.flat import Layout
from fedmb.errors import FedmbError, NotEnoughData, ShapeError
from fedmb.federation.cohort import reasons_in
from fedmb.federation.exchange import Exchange
from fedmb.federation.model_record import flat_from_record, flat_to_record
from fedmb.federation.record_fields import check_version, refusing, text_in, whole_in
from fedmb.federation.record_names import ARRAYS, CONFIG, FAILED, LAYOUT, PARAMETERS, SEED, TRAINING, UPDATE, VERSION
from fedmb.training.task_digest import parameters_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from threading import Event

    from flwr.serverapp import Grid

    from fedmb.federation.exchange import Arrival
    from fedmb.federation.wire import Carrying
    from fedmb.update import Arrays

log = logging.getLogger(__name__)

CLIENT = "fedmb-client"
TRIES = 3  # clients that start while they are asked may be lost to the first


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a client is asked to build a model from."""

    seed: int
    """Seed of the run."""
    training: Mapping[str, Any] | None
    """The server's `[training]`, which may put other layers into the model; None leaves it to each client."""


class Begun(NamedTuple):
    """What a run begins with."""

    arrays: Arrays
    """The model."""
    parameters: frozenset[str]
    """Names of the arrays that are trained; the others are running statistics and counters."""


@dataclass(frozen=True, slots=True)
class _Answer:
    client: str
    begun: Begun
    digest: str


def initial_model(
    grid: Grid, beginning: Beginning, *, deadline_seconds: float, stop: Event | None = None
) -> Begun | None:
    """What the connected clients begin with; None when `stop` was set first.

    Args:
        grid: Flower's grid, with the clients connected.
        beginning: what they build it from.
        deadline_seconds: how long answers are waited for, each of three times.
        stop: set from outside to ask no more.

    Raises:
        NotEnoughData: no client gave a usable answer.
    """
    exchange = Exchange(grid, deadline_seconds)  # one for all tries: a late answer is as good as another
    votes, reasons = dict[int, _Answer](), dict[str, str]()
    for _ in range(TRIES):
        if stop is not None and stop.is_set():
            return None
        _ask(exchange, grid, beginning)
        _count(exchange, deadline_seconds, grid, votes, reasons)
        if votes:
            return _agreed(list(votes.values()))
    raise NotEnoughData(
        f"a server without torch begins with a model of its clients, none gave one: {reasons_in(reasons)}; mend that, "
        "or install torch beside the server"
    )


def answer_to(message: Message, begin: Callable[[Beginning], Begun], *, client: str) -> Message:
    """A client's answer to the query; a failure becomes an error reply with its sentence.

    Args:
        message: what the server sent.
        begin: builds the model.
        client: name of the client.
    """
    try:
        arrays, parameters = begin(_read(message))
    except FedmbError as error:
        log.warning("no initial model client=%s reason=%s", client, error)
        return Message(Error(FAILED, f"client {client}: {error}"), reply_to=message)
    record, layout = flat_to_record(arrays)
    trained = json.dumps(sorted(parameters))
    about = ConfigRecord({VERSION: __version__, CLIENT: client, LAYOUT: layout.text, PARAMETERS: trained})
    log.info("initial model sent client=%s arrays=%d", client, len(arrays))
    return Message(RecordDict({ARRAYS: record, UPDATE: about}), reply_to=message)


def _read(message: Carrying) -> Beginning:
    with refusing("a query for the initial model", (CONFIG,)):
        config = message.content.config_records[CONFIG]
        check_version(text_in(config, VERSION))
        return Beginning(whole_in(config, SEED), json.loads(text_in(config, TRAINING)))


def _ask(exchange: Exchange, grid: Grid, beginning: Beginning) -> None:
    """Ask all that are connected, but for those that may still be at work."""
    config = ConfigRecord({VERSION: __version__, SEED: beginning.seed, TRAINING: json.dumps(beginning.training)})
    free = sorted({*grid.get_node_ids()} - exchange.busy_nodes())
    query = MessageType.QUERY
    exchange.push(
        [Message(RecordDict({CONFIG: config}), dst_node_id=node, message_type=query, group_id="0") for node in free]
    )


def _count(exchange: Exchange, seconds: float, grid: Grid, votes: dict[int, _Answer], reasons: dict[str, str]) -> None:
    """Put usable answers into `votes`, by node, until more would change nothing; why others are none into `reasons`."""
    heard: set[int] = set()
    try:
        for together in exchange.arrivals(seconds):
            for arrival in together:
                heard.add(arrival.node)
                try:
                    votes[arrival.node] = _answer(arrival)
                except FedmbError as error:
                    log.warning("initial model refused node=%d reason=%s", arrival.node, error)
                    reasons[f"node {arrival.node}"] = str(error)
            if _is_decided(list(votes.values()), missing=len({*grid.get_node_ids()} - heard)):
                return
    finally:
        exchange.close()


def _answer(arrival: Arrival) -> _Answer:
    """A usable answer.

    Raises:
        NotEnoughData: the client answered with an error.
        ShapeError, VersionMismatch: it is not a whole, finite model of this fedmb.
    """
    message = arrival.message
    if message is None:
        raise ShapeError(f"an initial model must be one of Flower's messages, got {arrival.damage}; look at the client")
    if message.has_error():
        raise NotEnoughData(message.error.reason or f"the client failed with code {message.error.code}")
    with refusing("an initial model", (ARRAYS, UPDATE)):
        about = message.content.config_records[UPDATE]
        check_version(text_in(about, VERSION))
        arrays = flat_from_record(message.content.array_records[ARRAYS], Layout.from_text(text_in(about, LAYOUT)))
        client = text_in(about, CLIENT)
        parameters = frozenset[str](json.loads(text_in(about, PARAMETERS)))
    if not arrays:
        raise ShapeError(f"an initial model must have arrays, client {client!r} sent none; look at its task")
    for name, array in arrays.items():
        if not is_finite(array):
            raise ShapeError(f"an initial model must be finite, {name!r} of client {client!r} is not; look at its task")
    if unknown := sorted(map(str, parameters - arrays.keys())):
        raise ShapeError(
            f"what is trained must be the model's arrays, client {client!r} names {unknown[0][:80]!r} too; look at its "
            "task"
        )
    digest = hashlib.sha256(arrays.layout.text.encode() + parameters_digest(parameters).encode())
    for kind in sorted(arrays.buffers):
        digest.update(arrays.buffers[kind].tobytes())
    return _Answer(client, Begun(arrays, parameters), digest.hexdigest())


def _is_decided(found: list[_Answer], *, missing: int) -> bool:
    """Whether no answer that is still missing could change which model most clients gave."""
    counts = [count for _, count in Counter(one.digest for one in found).most_common(2)]
    return bool(counts) and counts[0] > (counts[1] if len(counts) > 1 else 0) + missing


def _agreed(answers: list[_Answer]) -> Begun:
    """The model that most clients gave; of several, that of the first client by name."""
    votes = Counter(one.digest for one in answers)
    chosen = min(answers, key=lambda one: (-votes[one.digest], one.client))
    if others := sorted(one.client for one in answers if one.digest != chosen.digest):
        log.warning(
            "initial models differ clients=%s from=%s; they run another task, torch or setting",
            ", ".join(others),
            chosen.client,
        )
    log.info("initial model taken clients=%d of=%d digest=%s", votes[chosen.digest], len(answers), chosen.digest[:16])
    return chosen.begun
