"""Messages between server and clients, as Flower records.

Server to client: ArrayRecord "arrays" (the global model) and ConfigRecord "config" (round, version, positions, the
run's seed, how to train and when to end).
Client to server: ArrayRecord "arrays" (the model after training), MetricRecord "metrics" (sums, with the weight as
"num-examples") and ConfigRecord "update" (client, base version, spans, position, rows). Arrays and metrics have the
names and meaning that Flower's own strategies expect, so each of them can aggregate our clients.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedmb import __version__
from fedmb.errors import FedmbError, ShapeError, VersionMismatch
from fedmb.ledger import Ledger, spans_from_json, spans_to_json
from fedmb.training.round_terms import RoundTerms
from fedmb.update import Arrays, Update, check_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flwr.app.typing import ConfigRecordValues
    from numpy.typing import NDArray

ARRAYS, CONFIG, METRICS, UPDATE = "arrays", "config", "metrics", "update"
WEIGHT = "num-examples"
POSITIONS = "fedmb-positions"
VERSION = "fedmb-version"
BASE_VERSION = "fedmb-base-version"
SEED = "fedmb-seed"
TRAINING = "fedmb-training"
LEDGER = "fedmb-ledger"
TERMS = "fedmb-terms"


class Carrying(Protocol):
    """What brings records: Flower's message, or what a resident trainer is handed of one."""

    @property
    def content(self) -> RecordDict:
        """The records."""
        ...


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a client is asked to do: train `arrays`, which are version `base_version` of the model."""

    arrays: Arrays
    base_version: int
    positions: Mapping[str, Mapping[str, Any]]
    """Where sources stand, by client name; a client that is not named starts at its beginning."""
    seed: int = 0
    """Seed of the run."""
    training: Mapping[str, Any] | None = None
    """Settings of the local training, so that a federation trains alike; None leaves them to each client."""
    ledger: Ledger = field(default_factory=Ledger)
    """How far the model has learnt the partitions that a group may move to this client, whoever read them before."""
    terms: RoundTerms = field(default_factory=RoundTerms)
    """When to end the round, and whether to take part at all."""


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Flower's form of named arrays."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def arrays_from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Named arrays from Flower's form; nothing is unpickled.

    Raises:
        ShapeError: the bytes of an array cannot be read.
    """
    arrays = {}
    for name, array in record.items():
        try:
            arrays[name] = array.numpy()
        except Exception as error:
            raise ShapeError(
                f"array {name!r} must be a readable npy block, got: {error}; reject the message"
            ) from error
    return arrays


def train_config(
    base_version: int,
    positions: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    ledger: Ledger | None = None,
    terms: RoundTerms | None = None,
) -> ConfigRecord:
    """The config that goes with version `base_version` of the model."""
    return ConfigRecord(
        {
            VERSION: __version__,
            BASE_VERSION: base_version,
            POSITIONS: positions_text(positions),
            SEED: seed,
            TRAINING: json.dumps(training),
            LEDGER: ledger_text(ledger or Ledger()),
            TERMS: (terms or RoundTerms()).to_json(),
        }
    )


def positions_text(positions: Mapping[str, Mapping[str, Any]]) -> str:
    """Positions as they stand in a config; equal ones give equal text."""
    return json.dumps(positions, sort_keys=True)


def read_instruction(message: Carrying) -> Instruction:
    """What the server asks for.

    Raises:
        VersionMismatch: the server runs another fedmb.
        ShapeError: a record is missing or of another form.
    """
    with _refusing("an instruction", (ARRAYS, CONFIG)):
        config = message.content.config_records[CONFIG]
        _check_version(_text(config, VERSION))
        return Instruction(
            arrays=arrays_from_record(message.content.array_records[ARRAYS]),
            base_version=_whole(config, BASE_VERSION),
            positions=json.loads(_text(config, POSITIONS)),
            seed=_whole(config, SEED),
            training=json.loads(_text(config, TRAINING)),
            ledger=Ledger.from_json(json.loads(_text(config, LEDGER))),
            terms=RoundTerms.from_json(_text(config, TERMS)),
        )


def ledger_text(ledger: Ledger) -> str:
    """A ledger as it stands in a config."""
    return json.dumps(ledger.to_json())


def update_to_record(update: Update, client: str) -> RecordDict:
    """A client's reply."""
    about: dict[str, ConfigRecordValues] = {
        VERSION: __version__,
        BASE_VERSION: update.base_version,
        "client": client,
        "position": json.dumps(update.positions[client], sort_keys=True),
        "spans": json.dumps(spans_to_json(update.spans)),
        "rows": json.dumps(update.rows),
    }
    return RecordDict(
        {
            ARRAYS: arrays_to_record(update.arrays),
            METRICS: MetricRecord({WEIGHT: update.weight, **update.sums}),
            UPDATE: ConfigRecord(about),
        }
    )


def read_update(message: Message, reference: Arrays) -> Update:
    """A client's update, checked against the model it must fit.

    Raises:
        VersionMismatch: the client runs another fedmb.
        ShapeError: a record is missing, of another form, or does not fit the model, or a number is not finite.
    """
    with _refusing("a reply", (ARRAYS, METRICS, UPDATE)):
        about = message.content.config_records[UPDATE]
        metrics = message.content.metric_records[METRICS]
        _check_version(_text(about, VERSION))
        update = Update(
            arrays=arrays_from_record(message.content.array_records[ARRAYS]),
            weight=_number(metrics, WEIGHT),
            base_version=_whole(about, BASE_VERSION),
            positions={_text(about, "client"): dict(json.loads(_text(about, "position")))},
            spans=spans_from_json(json.loads(_text(about, "spans"))),
            sums={name: _number(metrics, name) for name in metrics if name != WEIGHT},
            rows={str(origin): int(count) for origin, count in json.loads(_text(about, "rows")).items()},
        )
    check_arrays(update.arrays, reference)
    _check_numbers(update, reference)
    return update


def _check_numbers(update: Update, reference: Arrays) -> None:
    if not (math.isfinite(update.weight) and update.weight >= 0):
        raise ShapeError(f"an update's weight must be finite and not negative, got {update.weight}")
    for name, array in update.arrays.items():
        if array.dtype != reference[name].dtype:
            raise ShapeError(f"array {name!r} must have dtype {reference[name].dtype}, got {array.dtype}")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ShapeError(f"array {name!r} must be finite, got NaN or infinity")


def weight_of(message: Message) -> float:
    """Weight of a reply in the mean."""
    return _number(message.content.metric_records[METRICS], WEIGHT)


def sender(message: Message) -> str:
    """Name of the client that sent a reply; empty when the reply names none."""
    about = message.content.config_records.get(UPDATE) if message.has_content() else None
    return str(about.get("client", "")) if about is not None else ""


def node_of(message: Message) -> int:
    """Id of the node that sent `message`."""
    node: int = message.metadata.src_node_id
    return node


@contextmanager
def _refusing(what: str, records: tuple[str, ...]) -> Iterator[None]:
    """Turn whatever a malformed message makes Python raise into one ShapeError."""
    try:
        yield
    except FedmbError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShapeError(f"{what} must carry the records {records} in fedmb's form, got: {error!r}") from error


def _check_version(version: str) -> None:
    if version != __version__:
        raise VersionMismatch(
            f"server and client must run one fedmb, got {version} there and {__version__} here; "
            "install the server's version on the client"
        )


def _text(record: ConfigRecord, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} must be text, got {type(value).__name__}")
    return value


def _whole(record: ConfigRecord, key: str) -> int:
    value = record[key]
    if type(value) is not int:
        raise TypeError(f"{key} must be a whole number, got {type(value).__name__}")
    return value


def _number(record: MetricRecord, key: str) -> float:
    value = record[key]
    if not isinstance(value, int | float):
        raise TypeError(f"{key} must be a number, got {type(value).__name__}")
    return float(value)
