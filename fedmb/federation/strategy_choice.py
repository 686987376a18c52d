"""The strategy that settings name, and what server and clients must agree on for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedmb.aggregation.control_variates import ControlVariates
from fedmb.errors import SettingsError
from fedmb.federation.private import Private
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
    rounds: Rounds,
    task: Task | None,
    *,
    seed: int,
    directory: Path,
) -> MiniBatchFedAvg:
    """The strategy that settings name.

    Args:
        aggregation: how updates become a model.
        training: how the clients make them.
        rounds: how many of the connected nodes are asked.
        task: what they learn; its model says which arrays are parameters. None where there is no torch: then clients
            say it (`fedmb.federation.trained_arrays`).
        seed: of the run.
        directory: where updates lie that overflow memory.

    Raises:
        SettingsError: the server's optimiser does not take its options, or a private model has statistics that travel.
    """
    steps = aggregation.optimizer.name != "none" or aggregation.rule == "fednova" or training.control_variates
    parameters = _parameters(training, task) if task and (steps or aggregation.privacy.is_on) else None
    private = None
    if aggregation.privacy.is_on:
        check_no_statistics(training, _statistics(training, task) if task else ())
        private = Private(aggregation.privacy, rate=rounds.fraction_train, seed=seed, parameters=parameters)
    return MiniBatchFedAvg(
        aggregation.chosen_rule(parameters),
        optimizer=_optimizer(aggregation.optimizer, parameters),
        control=ControlVariates(parameters) if training.control_variates else None,
        equal_weights=aggregation.weights == "equal",
        private=private,
        fraction_train=rounds.fraction_train,
        over_sampling=rounds.over_sampling,
        seed=seed,
        memory_bytes=aggregation.memory_bytes,
        directory=directory,
    )


def check_no_statistics(training: Training, found: Collection[str]) -> None:
    """Refuse a private model whose running statistics would have to travel: a noised variance may fall below 0.

    Args:
        training: how clients train.
        found: names of the model's running statistics.

    Raises:
        SettingsError: there are some, and they do not stay at their site.
    """
    if found and training.norm_travels == "all" and training.norm != "frozen":
        raise SettingsError(
            f"a private model must have no running statistics that travel, got {min(found)!r}; set training.norm "
            "to group or layer, or training.norm_travels to fedbn",
            key="training.norm",
        )


def _parameters(training: Training, task: Task) -> frozenset[str]:
    from fedmb.training.parameters import parameter_names

    return parameter_names(task, build=training.build_model)


def _statistics(training: Training, task: Task) -> frozenset[str]:
    from fedmb.training.parameters import statistics_names

    return statistics_names(task, build=training.build_model)


def check_together(aggregation: Aggregation, training: Training, wire: Wire, rounds: Rounds) -> None:
    """Refuse ways to aggregate, to train, to send and to wait that do not go together.

    Raises:
        ValueError: they do not, or a class of torch's does not take its options, or there is no torch for it.
    """
    _optimizer(aggregation.optimizer)
    if aggregation.privacy.is_on:
        _check_private(training, rounds)
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


def _check_private(training: Training, rounds: Rounds) -> None:
    """Refuse what would let a client's rows decide more than its clipped change.

    Raises:
        ValueError: something does.
    """
    found = {
        "training.control_variates": training.control_variates,
        'rounds.count "forever"': rounds.is_endless,
        f"rounds.late.policy {rounds.late.policy}": rounds.late.is_counted,
        f"rounds.closing.rows {rounds.closing.rows:g}": math.isfinite(rounds.closing.rows),
        "rounds.closing.drift": rounds.closing.drift,
        f"rounds.guard.norm_medians {rounds.guard.norm_medians:g}": math.isfinite(rounds.guard.norm_medians),
        f"rounds.over_sampling {rounds.over_sampling:g}": rounds.over_sampling > 0,
        "rounds.stopping.metric train_loss": rounds.stopping.is_on and rounds.stopping.metric == "train_loss",
    }
    if wrong := [name for name, is_wrong in found.items() if is_wrong]:
        raise ValueError(
            f"a private round must depend on a client's rows through its clipped change alone, got {', '.join(wrong)}; "
            "leave it out, or aggregation.privacy"
        )


def _optimizer(chosen: ServerOptimization, parameters: Collection[str] | None = None) -> ServerOptimizer | None:
    if chosen.is_of_torch:
        if not torch_is_here():
            raise SettingsError(
                f"a server optimiser of torch's kind takes torch on the server, got {chosen.name} without; install it "
                "there, or take fedavgm, fedadam, fedyogi or fedadagrad",
                key="aggregation.optimizer.name",
            )
        from fedmb.training.torch_server_optimizer import TorchServerOptimizer

        assert chosen.rate is not None, "the section demands one"
        return TorchServerOptimizer(chosen.name, rate=chosen.rate, options=chosen.options, parameters=parameters)
    return chosen.chosen(parameters)
