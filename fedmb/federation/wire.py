"""Messages between server and clients, as Flower records.

Server to client: ArrayRecord "arrays" (the global model) and ConfigRecord "config" (round, version, positions, the
run's seed, how to train and when to end).
Client to server: ArrayRecord "arrays" (the model after training), MetricRecord "metrics" (sums, with the weight as
"num-examples") and ConfigRecord "update" (client, base version, spans, position, rows). Metrics have the names and
meaning that Flower's own strategies expect.

Under our rounds both models are flat records with a layout beside them, the reply's may be compressed, and strategies
are handed what may be averaged (`fedmb.federation.model_record`). A server that names no layout, such as a strategy's
own `start`, is answered in the form it asked in: an entry for each array, which Flower's strategies can average as
they come.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedmb import __version__
from fedmb.aggregation.compress import Wire
from fedmb.arrays.bfloat16 import is_finite
from fedmb.arrays.flat import FlatArrays, Layout
from fedmb.errors import ShapeError
from fedmb.federation.control_record import read_control
from fedmb.federation.model_record import arrays_from_record, arrays_to_record, flat_from_record
from fedmb.federation.record_fields import check_version, number_in, refusing, text_in, whole_in
from fedmb.federation.record_names import (
    ARRAYS,
    BASE_VERSION,
    CONFIG,
    FORM,
    LAYOUT,
    LEDGER,
    METRICS,
    PARAMETERS,
    POSITIONS,
    SEED,
    TASK,
    TERMS,
    TRAINING,
    UPDATE,
    VERSION,
    WEIGHT,
    WIRE,
)
from fedmb.federation.reply_record import NONE, arrays_of_reply, reply_record
from fedmb.federation.residual import Residual
from fedmb.ledger import Ledger, spans_from_json, spans_to_json
from fedmb.training.round_terms import RoundTerms
from fedmb.training.task_digest import parameters_digest
from fedmb.update import Arrays, Update, check_arrays

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flwr.app.typing import ConfigRecordValues

    from fedmb.aggregation.control_variates import Variate


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
    wire: Wire | None = None
    """How the reply's model travels; None for an entry an array, as Flower's own servers expect it."""
    task: str = ""
    """The server's task, as `fedmb.training.task_digest` names it; empty where the server has none."""
    parameters: str = ""
    """The arrays that the server steps, as `fedmb.training.task_digest` tells them; empty where it steps none."""
    control: Variate | None = None
    """The mean of all clients' control variates, where they train with them."""


def train_config(
    base_version: int,
    positions: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    ledger: Ledger | None = None,
    terms: RoundTerms | None = None,
    task: str = "",
    parameters: Collection[str] = (),
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
            **({TASK: task} if task else {}),  # Flower cannot count the bytes of an empty text
            **({PARAMETERS: parameters_digest(parameters)} if parameters else {}),
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
    with refusing("an instruction", (ARRAYS, CONFIG)):
        config = message.content.config_records[CONFIG]
        check_version(text_in(config, VERSION))
        record = message.content.array_records[ARRAYS]
        is_flat = LAYOUT in config
        return Instruction(
            arrays=flat_from_record(record, Layout.from_text(text_in(config, LAYOUT)))
            if is_flat
            else arrays_from_record(record),
            base_version=whole_in(config, BASE_VERSION),
            positions=json.loads(text_in(config, POSITIONS)),
            seed=whole_in(config, SEED),
            training=json.loads(text_in(config, TRAINING)),
            ledger=Ledger.from_json(json.loads(text_in(config, LEDGER))),
            terms=RoundTerms.from_json(text_in(config, TERMS)),
            wire=Wire.model_validate_json(text_in(config, WIRE)) if is_flat else None,
            task=text_in(config, TASK) if TASK in config else "",
            parameters=text_in(config, PARAMETERS) if PARAMETERS in config else "",
            control=read_control(message.content, config),
        )


def ledger_text(ledger: Ledger) -> str:
    """A ledger as it stands in a config."""
    return json.dumps(ledger.to_json())


def update_to_record(
    update: Update, client: str, instruction: Instruction | None = None, residual: Residual | None = None
) -> RecordDict:
    """A client's reply, in the form that its instruction asks for; by array where there is none.

    Args:
        update: what was learnt.
        client: name of the client.
        instruction: what it was learnt from.
        residual: what the client's compression has not sent yet; nothing, and kept nowhere, if left out.

    Raises:
        OSError: what compression leaves cannot be stored.
    """
    about: dict[str, ConfigRecordValues] = {
        VERSION: __version__,
        BASE_VERSION: update.base_version,
        "client": client,
        "spans": json.dumps(spans_to_json(update.spans)),
        "rows": json.dumps(update.rows),
    }
    position = dict(update.positions[client])
    if instruction is None or instruction.wire is None:
        record = arrays_to_record(update.arrays)
    else:
        record, layout, form, added = reply_record(
            update,
            instruction.arrays,
            instruction.wire,
            client=client,
            seed=instruction.seed,
            residual=residual or Residual(),
            position=instruction.positions.get(client, {}),
        )
        about |= {LAYOUT: layout.text, FORM: form}
        position |= added
    about["position"] = json.dumps(position, sort_keys=True)
    return RecordDict(
        {
            ARRAYS: record,
            METRICS: MetricRecord({WEIGHT: update.weight, **update.sums}),
            UPDATE: ConfigRecord(about),
        }
    )


def base_version_of(message: Message) -> int:
    """Version of the model that a reply started from, for whoever must know before it is read.

    Raises:
        VersionMismatch: the client runs another fedmb.
        ShapeError: it says none.
    """
    with refusing("a reply", (ARRAYS, METRICS, UPDATE)):
        about = message.content.config_records[UPDATE]
        check_version(text_in(about, VERSION))
        return whole_in(about, BASE_VERSION)


def read_update(message: Message, reference: Arrays, wire: Wire | None = None) -> Update:
    """A client's update, checked against the model it must fit, and decompressed.

    Args:
        message: the reply.
        reference: the model that was sent.
        wire: how the server asked for replies.

    Raises:
        VersionMismatch: the client runs another fedmb.
        ShapeError: a record is missing, of another form, or does not fit the model, or a number is not finite.
    """
    with refusing("a reply", (ARRAYS, METRICS, UPDATE)):
        about = message.content.config_records[UPDATE]
        metrics = message.content.metric_records[METRICS]
        check_version(text_in(about, VERSION))
        weight = number_in(metrics, WEIGHT)
        update = Update(
            arrays=_model_in(message.content.array_records[ARRAYS], about, weight, reference, wire or Wire()),
            weight=weight,
            base_version=whole_in(about, BASE_VERSION),
            positions={text_in(about, "client"): dict(json.loads(text_in(about, "position")))},
            spans=spans_from_json(json.loads(text_in(about, "spans"))),
            sums={name: number_in(metrics, name) for name in metrics if name != WEIGHT},
            rows={str(origin): int(count) for origin, count in json.loads(text_in(about, "rows")).items()},
        )
    check_arrays(update.arrays, reference)
    _check_numbers(update, reference)
    return update


def _model_in(record: ArrayRecord, about: ConfigRecord, weight: float, reference: Arrays, wire: Wire) -> Arrays:
    if LAYOUT not in about:
        return arrays_from_record(record, reference)
    flat = FlatArrays.packed(reference)
    layout, form = text_in(about, LAYOUT), text_in(about, FORM)
    if layout != flat.layout.text:
        flat.layout.check(Layout.from_text(layout))
    if form == NONE and weight != 0:
        raise ShapeError(f"an update without a model must have weight 0, got {weight}; reject it")
    return arrays_of_reply(record, form, flat, wire)


def bytes_in(message: Message) -> int:
    """Bytes of a message's records, as Flower counts them; 0 for an error."""
    if not message.has_content():
        return 0
    return sum(record.count_bytes() for record in message.content.values())


def _check_numbers(update: Update, reference: Arrays) -> None:
    if not (math.isfinite(update.weight) and update.weight >= 0):
        raise ShapeError(f"an update's weight must be finite and not negative, got {update.weight}")
    for name, array in update.arrays.items():
        if array.dtype != reference[name].dtype:
            raise ShapeError(f"array {name!r} must have dtype {reference[name].dtype}, got {array.dtype}")
        if not is_finite(array):
            raise ShapeError(f"array {name!r} must be finite, got NaN or infinity")


def weight_of(message: Message) -> float:
    """Weight of a reply in the mean."""
    return number_in(message.content.metric_records[METRICS], WEIGHT)


def sender(message: Message) -> str:
    """Name of the client that sent a reply; empty when the reply names none."""
    about = message.content.config_records.get(UPDATE) if message.has_content() else None
    return str(about.get("client", "")) if about is not None else ""


def node_of(message: Message) -> int:
    """Id of the node that sent `message`."""
    node: int = message.metadata.src_node_id
    return node
