"""The client's half of a round: read the instruction, train, reply."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmb.errors import FedmbError
from fedmb.federation.initial_model import Beginning, Begun, answer_to
from fedmb.federation.record_names import FAILED
from fedmb.federation.residual import Residual
from fedmb.federation.wire import Instruction, read_instruction, update_to_record
from fedmb.training.task_digest import check_parameters, check_task, task_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedmb.federation.wire import Carrying
    from fedmb.training.local_update import LocalUpdate
    from fedmb.update import Update

log = logging.getLogger(__name__)


def reply_to(
    message: Message, learn: Callable[[Instruction], Update], *, client: str, residual: Residual | None = None
) -> Message:
    """Train as `message` asks and answer with the update; a failure becomes an error reply with its sentence.

    Args:
        message: what the server sent.
        learn: turns an instruction into an update.
        client: name of the client.
        residual: what the client's compression has not sent yet; needed where the server may ask for one with memory.
    """
    return Message(outcome_of(message, learn, client=client, residual=residual), reply_to=message)


def outcome_of(
    message: Carrying, learn: Callable[[Instruction], Update], *, client: str, residual: Residual | None = None
) -> RecordDict | Error:
    """What a reply to `message` says: the update, or the sentence of what failed."""
    try:
        instruction = read_instruction(message)
        update = learn(instruction)
        content = update_to_record(update, client, instruction, residual)
    except FedmbError as error:
        log.warning("training failed client=%s reason=%s", client, error)
        return Error(FAILED, f"client {client}: {error}")
    log.info(
        "round trained client=%s base_version=%d rows=%s units=%g",
        client,
        update.base_version,
        dict(update.rows),
        update.weight,
    )
    return content


def learnt(trainer: LocalUpdate, instruction: Instruction) -> Update:
    """What `trainer` learns when it follows an instruction.

    Raises:
        VersionMismatch: the server runs another task, or steps other arrays than the model trains.
        FedmbError: as `LocalUpdate.run`.
    """
    if (task := getattr(trainer, "task", None)) is not None:  # what stands in for a trainer in a simulation has none
        check_task(instruction.task, task_digest(task))
        check_parameters(instruction.parameters, trainer.trained)
    position = instruction.positions.get(trainer.client, {})
    control = {} if instruction.control is None else {"control": instruction.control}
    return trainer.run(
        instruction.arrays,
        base_version=instruction.base_version,
        position=position,
        ledger=instruction.ledger,
        terms=instruction.terms,
        **control,
    )


def client_app(
    trainer_of: Callable[[Context], LocalUpdate], residual_of: Callable[[str], Residual] | None = None
) -> ClientApp:
    """A Flower ClientApp whose training is done by whatever `trainer_of` finds for a context.

    For trainers that live as long as the app; `fedmb.federation.deployed_client` builds one for each message.

    Args:
        trainer_of: the trainer of a context.
        residual_of: what is unsent of a client, given its name; kept in memory if left out.
    """
    app = ClientApp()
    residuals: dict[str, Residual] = {}

    @app.train()
    def train(message: Message, context: Context) -> Message:
        trainer = trainer_of(context)
        name = trainer.client
        if name not in residuals:
            residuals[name] = residual_of(name) if residual_of else Residual()
        return reply_to(
            message, lambda instruction: learnt(trainer, instruction), client=name, residual=residuals[name]
        )

    @app.query()
    def begin(message: Message, context: Context) -> Message:
        from fedmb.training.parameters import first_model

        trainer = trainer_of(context)

        def built(beginning: Beginning) -> Begun:
            return Begun(*first_model(trainer.task, beginning.seed, build=trainer.training.build_model))

        return answer_to(message, built, client=trainer.client)

    return app
