"""The strategy that settings name, and what server and clients must agree on for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.aggregation.control_variates import ControlVariates
from fedmb.errors import SettingsError
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.training.choices import torch_is_here
from fedmb.training.reach import check_reach_known

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from fedmb.aggregation.compress import Wire
    from fedmb.aggregation.rule_choice import Aggregation
    from fedmb.aggregation.server_optimizer import ServerOptimizer
    from fedmb.aggregation.server_optimizer_section import ServerOptimization
    from fedmb.federation.rounds import Rounds
    from fedmb.training.recipe import Training
    from fedmb.training.task import Task


def strategy_from(
    aggregation: Aggregation,
    training: Training,
    task: Task | None,
    *,
    fraction_train: float,
    over_sampling: float = 0.0,
    seed: int,
    directory: Path,
) -> MiniBatchFedAvg:
    """The strategy that settings name.

    Args:
        aggregation: how updates become a model.
        training: how the clients make them.
        task: what they learn; its model says which arrays are parameters. None where there is no torch.
        fraction_train: share of the connected nodes that train in a round.
        over_sampling: share of more nodes that are asked.
        seed: of the run.
        directory: where updates lie that overflow memory.

    Raises:
        SettingsError: the server's optimiser does not take its options, or nobody can tell parameters from buffers.
    """
    steps = aggregation.optimizer.name != "none" or aggregation.rule == "fednova" or training.control_variates
    parameters = _parameters(training, task) if steps else None
    return MiniBatchFedAvg(
        aggregation.chosen_rule(parameters),
        optimizer=_optimizer(aggregation.optimizer, parameters),
        control=ControlVariates(parameters) if training.control_variates else None,
        equal_weights=aggregation.weights == "equal",
        fraction_train=fraction_train,
        over_sampling=over_sampling,
        seed=seed,
        memory_bytes=aggregation.memory_bytes,
        directory=directory,
    )


def _parameters(training: Training, task: Task | None) -> frozenset[str]:
    if task is None:
        raise SettingsError(
            "what steps parameters must tell them from running statistics, which takes the task's model, got a server "
            "without torch; install torch beside it, or leave out aggregation.optimizer, fednova and control_variates",
            key="aggregation",
        )
    from fedmb.training.parameters import parameter_names

    return parameter_names(task, build=training.build_model)


def check_together(aggregation: Aggregation, training: Training, wire: Wire, rounds: Rounds) -> None:
    """Refuse ways to aggregate, to train, to send and to wait that do not go together.

    Raises:
        ValueError: they do not, or a class of torch's does not take its options.
    """
    if torch_is_here():
        _optimizer(aggregation.optimizer)
    if aggregation.rule == "fednova":
        check_reach_known(training, by="aggregation.rule fednova")
    if not training.control_variates:
        return
    found = {
        f"aggregation.rule {aggregation.rule}": aggregation.rule != "mean",
        f"aggregation.weights {aggregation.weights}": aggregation.weights != "equal",
        f"wire.compression {wire.compression}": wire.compression != "none",
        f"rounds.late.policy {rounds.late.policy}": rounds.late.is_counted,
    }
    if wrong := [name for name, is_wrong in found.items() if is_wrong]:
        raise ValueError(
            f"control variates are means over clients of what they sent, got {', '.join(wrong)}; set aggregation.rule "
            "to mean, aggregation.weights to equal, wire.compression to none and rounds.late.policy to drop"
        )


def _optimizer(chosen: ServerOptimization, parameters: Collection[str] | None = None) -> ServerOptimizer | None:
    if chosen.is_of_torch:
        from fedmb.training.torch_server_optimizer import TorchServerOptimizer

        assert chosen.rate is not None, "the section demands one"
        return TorchServerOptimizer(chosen.name, rate=chosen.rate, options=chosen.options, parameters=parameters)
    return chosen.chosen(parameters)
