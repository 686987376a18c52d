"""Every class with memory, how it is driven and what can be seen of it.

A world's steps are functions of their number alone: weights, gradients and rows that do not belong to the object under
test are set anew in each, so that nothing but its state can carry anything from one step to the next.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import torch
from stateful_device import WORLDS as DEVICE_WORLDS
from stateful_replay import WORLDS as REPLAY_WORLDS
from stateful_servers import WORLDS as SERVER_WORLDS
from stateful_streams import WORLDS as STREAM_WORLDS
from stateful_trainer import drive_trainer, fresh_trainer, observe_trainer
from torch import nn

from fedmb.batch.minibatch import MiniBatch
from fedmb.federation.silence import Silence
from fedmb.sizing.affine_fit import AffineFit
from fedmb.sizing.moving_average import MovingAverage
from fedmb.sizing.stats import Stats
from fedmb.telemetry.convergence import Convergence, Stopping
from fedmb.telemetry.events import RoundReport
from fedmb.training.guard import Clip, Finite, Spike
from fedmb.training.microbatch import Split
from fedmb.training.optimizer_choice import OptimizerName, optimizer_of
from fedmb.training.precision import Precision
from fedmb.training.regularize import Proximal
from fedmb.training.rollback import RollbackPoint
from fedmb.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from collections.abc import Callable

NORMS = (1.0, 1.2, 30.0, 0.9, float("inf"), 40.0, 50.0, 1.1, 60.0)  # spikes, an overflow, and two spikes in a row
SHRINKS_AT = 4


class World(NamedTuple):
    """One class under the contract."""

    fresh: Callable[[], Any]
    """The object as a new process would build it."""
    drive: Callable[[Any, int], Any]
    """One step, which depends on its number and the object's memory, and its outcome, where it has one."""
    observe: Callable[[Any], Any]
    """Everything that can be seen of the object; looking changes nothing."""
    json: Callable[[Any], Any] | None = None
    """The part of the state that is documented as JSON."""
    forgets: bool = False
    """Whether it has nothing to remember by design."""
    copies: bool = True
    """torch's optimisers hand out and keep the very tensors; whoever keeps such a state copies it."""


def everything(state: Any) -> Any:
    return state


def outcome_only(thing: Any) -> None:
    """For what shows itself in the outcome of a step."""


def numbers(step: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(step + 1).standard_normal(shape).astype(np.float32))


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@torch.no_grad()
def set_weights(parameters: Any, step: int) -> None:
    """Weights and gradients of this step."""
    for place, parameter in enumerate(parameters):
        parameter.copy_(numbers(100 * step + place, *parameter.shape))
        parameter.grad = numbers(100 * step + place + 50, *parameter.shape)


def drive_stats(stats: Stats, step: int) -> None:
    first, second = 2.0 + abs(float(numbers(step, 1))), 3.0
    stats.observe_groups([8, 8], [first, second], (first + second) / 2 - 0.5)
    stats.observe_clients([4, 12], [first, second], (first + 3 * second) / 4 - 0.4, [10.0, 12.0 + step])
    stats.observe_step(8 + step, 0.1 / 3 + step / 700, None if step % 3 == 0 else 1 / (step + 1))
    stats.observe_loss(float("nan") if step == 5 else 1 / (step + 3), 8)


def observe_stats(stats: Stats) -> dict[str, Any]:
    names = ("trace", "gradient_square", "noise", "tau_square", "dissimilarity", "loss", "overhead", "row_cost")
    counters = ("steps", "rows", "seconds", "joules", "measurements", "set_aside", "seconds_line", "joules_line")
    return {name: getattr(stats, name) for name in names + counters}


def drive_guard(guard: Any, step: int) -> Any:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([NORMS[step]])
    return guard([parameter]), parameter.grad


def drive_precision(precision: Precision, step: int) -> None:
    weight = nn.Parameter(numbers(step, 4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    precision.scaled((weight * (1e38 if step in {2, 3} else 1.0)).sum()).backward()
    precision.unscale(optimizer)
    if step == 6:
        precision.skip()
    else:
        precision.step(optimizer)


def fresh_point() -> RollbackPoint:
    model = small_model()
    set_weights(model.parameters(), 77)
    return RollbackPoint(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), every=3)


def drive_point(point: RollbackPoint, step: int) -> None:
    parameters = list(point._model.parameters())
    set_weights(parameters, step)
    point._model[1].running_mean.copy_(numbers(step, 2))
    point._model[1].num_batches_tracked.fill_(step)
    for parameter in parameters:
        point._optimizer.state[parameter]["momentum_buffer"] = parameter.grad.clone()
    if step in {1, 4, 7}:
        point.restore()
    else:
        point.after_step()


def fresh_average() -> WeightAverage:
    model = small_model()
    set_weights(model.parameters(), 77)
    return WeightAverage(model, 0.9)


def drive_average(average: WeightAverage, step: int) -> None:
    set_weights(average._model.parameters(), step)
    average.after_step(0.5 if step == 3 else None)


def drive_split(split: Split, step: int) -> list[int]:
    """Rows of each part, on a machine whose memory shrinks from 30 rows to 12."""

    def backward(part: MiniBatch) -> int:
        if len(part) > (30 if step < SHRINKS_AT else 12):
            raise MemoryError
        return len(part)

    batch = MiniBatch({"x": np.zeros((40, 8 if step % 3 else 5), np.float32)})
    return split.run(batch, backward, nn.Linear(8, 1))


def fresh_proximal() -> Proximal:
    weights = [nn.Parameter(numbers(1, 3)), nn.Parameter(numbers(2, 2, 2))]
    return Proximal(0.3, weights)


def drive_proximal(proximal: Proximal, step: int) -> None:
    set_weights(proximal._parameters, step)
    if step in {2, 5}:
        proximal.begin_round()
        set_weights(proximal._parameters, step + 30)
    proximal.add_to_gradients()


def observe_proximal(proximal: Proximal) -> Any:
    return [parameter.grad for parameter in proximal._parameters], proximal.penalty()


def drive_convergence(convergence: Convergence, step: int) -> None:
    accuracy = (0.5, 0.6, 0.6, float("nan"), 0.7, 0.65, 0.6, 0.69, 0.71)[step]
    convergence.observe(
        RoundReport(
            round=step + 1, seconds=1.0, train_loss=1.0, scores={"accuracy": accuracy}, rows={}, lag=None, clients=1
        )
    )


def fresh_optimizer(name: OptimizerName) -> torch.optim.Optimizer:
    weights = [nn.Parameter(numbers(1, 3, 2)), nn.Parameter(numbers(2, 3))]
    momentum = 0.9 if name in {"sgd", "rmsprop", "lars"} else 0.0
    return optimizer_of(name, weights, learning_rate=0.1, momentum=momentum, weight_decay=0.01)


def drive_optimizer(optimizer: torch.optim.Optimizer, step: int) -> None:
    set_weights(optimizer.param_groups[0]["params"], step)
    optimizer.step()


def drive_silence(silence: Silence, step: int) -> None:
    quiet = {name for name in "abc" if (step * ord(name)) % 5 < 3} - set(silence.resting(step + 1))
    silence.observe(step + 1, silent=quiet, heard=set("abc") - quiet - set(silence.resting(step + 1)))


def observe_silence(silence: Silence) -> list[tuple[str, ...]]:
    return [silence.resting(number) for number in range(1, 20)]


def trainer_world(**switches: Any) -> World:
    return World(
        functools.partial(fresh_trainer, **switches),
        drive_trainer,
        observe_trainer,
        lambda state: {name: state[name] for name in ("clock", "source")},
    )


WORLDS = {
    "MovingAverage": World(
        lambda: MovingAverage(3.0),
        lambda one, step: one.observe(1 / (step + 3), step + 1),
        lambda one: one.value,
        everything,
    ),
    "AffineFit": World(
        lambda: AffineFit(3.0),
        lambda one, step: one.observe(8 + step % 4, 1 / (step + 3) + 0.1 * (step % 4)),
        lambda one: one.line,
        everything,
    ),
    "Stats": World(lambda: Stats(half_life_rows=40, half_life_steps=3), drive_stats, observe_stats, everything),
    "Clip": World(lambda: Clip(1.0), drive_guard, outcome_only, everything, forgets=True),
    "Finite": World(Finite, drive_guard, outcome_only, everything, forgets=True),
    "Spike": World(lambda: Spike(4.0, 4, patience=2), drive_guard, outcome_only, everything),
    "Both": World(lambda: Clip(1.0) & Finite() & Spike(4.0, 4, patience=2), drive_guard, outcome_only, everything),
    "Precision-fp32": World(Precision, drive_precision, lambda one: one.scale, everything, forgets=True),
    "Precision-bf16": World(
        lambda: Precision("bf16"), drive_precision, lambda one: one.scale, everything, forgets=True
    ),
    "Precision-fp16": World(
        lambda: Precision("fp16", growth_interval=2), drive_precision, lambda one: one.scale, everything
    ),
    "RollbackPoint": World(
        fresh_point, drive_point, lambda point: (point._model.state_dict(), point._optimizer.state_dict())
    ),
    "WeightAverage": World(
        fresh_average,
        drive_average,
        lambda average: [average.weights()[name] for name, _ in average._model.named_parameters()],
    ),
    "Split.auto": World(Split.auto, drive_split, outcome_only, everything),
    "Split.fixed": World(lambda: Split.fixed(7), drive_split, outcome_only, everything, forgets=True),
    "Proximal": World(fresh_proximal, drive_proximal, observe_proximal),
    "Convergence": World(
        lambda: Convergence(Stopping(target=0.95, patience=3)), drive_convergence, lambda one: one.reason, everything
    ),
    "Silence": World(lambda: Silence(longest=4), drive_silence, observe_silence, everything),
    "Trainer": trainer_world(),
    "Trainer-fp16": trainer_world(precision="fp16"),
    "Trainer-spikes": trainer_world(spikes=True),
} | {
    f"optimizer-{name}": World(
        functools.partial(fresh_optimizer, name),
        drive_optimizer,
        lambda one: one.param_groups[0]["params"],
        copies=False,
    )
    for name in get_args(OptimizerName)
}
WORLDS |= {name: World(*parts, everything) for name, parts in STREAM_WORLDS.items()}
WORLDS |= {name: World(*parts) for name, parts in (REPLAY_WORLDS | DEVICE_WORLDS | SERVER_WORLDS).items()}
