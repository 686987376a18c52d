"""The client's half of a round: read the instruction, train, reply."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedmb.errors import FedmbError
from fedmb.federation.wire import read_instruction, update_to_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.training.local_update import LocalUpdate

log = logging.getLogger(__name__)

FAILED = 100  # first error code that Flower leaves to applications


def reply_to(message: Message, trainer: LocalUpdate) -> Message:
    """Train as `message` asks and answer with the update; a failure becomes an error reply with its sentence."""
    try:
        instruction = read_instruction(message)
        update = trainer.run(
            instruction.arrays,
            base_version=instruction.base_version,
            position=instruction.positions.get(trainer.client, {}),
        )
    except FedmbError as error:
        log.warning("training failed client=%s reason=%s", trainer.client, error)
        return Message(Error(FAILED, f"client {trainer.client}: {error}"), reply_to=message)
    log.info(
        "round trained client=%s base_version=%d rows=%s units=%g",
        trainer.client,
        instruction.base_version,
        dict(update.rows),
        update.weight,
    )
    return Message(update_to_record(update, trainer.client), reply_to=message)


def client_app(trainer_of: Callable[[Context], LocalUpdate]) -> ClientApp:
    """A Flower ClientApp whose training is done by whatever `trainer_of` finds for a context."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return reply_to(message, trainer_of(context))

    return app
