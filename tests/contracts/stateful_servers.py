"""What a server remembers beside its model, driven step by step: optimisers, control variates, a strategy of both."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import torch
from torch import nn

from fedmb.aggregation.control_variates import ControlVariates
from fedmb.aggregation.directions import Adagrad, Adam, Momentum, Yogi
from fedmb.aggregation.privacy import Privacy, PrivateMean
from fedmb.aggregation.privacy_account import PrivacyAccount
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.aggregation.stack import Stack
from fedmb.federation.private import Private
from fedmb.federation.strategy import MiniBatchFedAvg
from fedmb.training.control_variate import Correction
from fedmb.training.torch_server_optimizer import TorchServerOptimizer

PARAMETERS = {"w", "b"}
LOSES_AT = 5


def model(*key):
    random = np.random.default_rng(key)
    return {
        "w": random.standard_normal((2, 3)).astype(np.float32),
        "b": random.standard_normal(3).astype(np.float32),
        "running_var": np.abs(random.standard_normal(3)).astype(np.float32),
        "seen": np.array(key[0]),
    }


def stack_of(step, into):
    for number in range(step % 3 + 1):
        into.put(f"client-{number}", model(step, number), 1.0, reach=0.1 * (number + 1))
    return into


def drive_optimizer(optimizer, step):
    return optimizer.step(model(step, 98), model(step, 99))


def drive_control(control, step):
    stack = stack_of(step, Stack())
    control.learn(stack, model(step, 98), ["client-0"] if step == LOSES_AT else [])
    stack.close()
    return control.mean(), control.generation


def drive_strategy(strategy, step):
    """A round's end, without Flower's messages."""
    strategy.stack.close()
    stack_of(step, strategy.stack)
    before = model(step, 98)
    combined = strategy.optimizer.step(before, strategy.rule.combine(strategy.stack, before))
    strategy.control.learn(strategy.stack, before)
    return combined


def fresh_correction():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    return Correction(parameters, [torch.zeros(2), torch.zeros(3)])


def drive_correction(correction, step):
    """A round of its own; within one it does not change."""
    if step % 3 == 0:
        draws = np.random.default_rng(step)
        added = [torch.from_numpy(draws.standard_normal(size).astype(np.float32)) for size in (2, 3)]
        correction.load_state_dict({"correction": added})
    for parameter in correction._parameters:
        parameter.grad = None
    correction.add_to_gradients()
    return [parameter.grad.clone() for parameter in correction._parameters]


PRIVACY = Privacy(clip_norm=2.0, clients=20, noise_multiplier=0.7, quantile=0.4, randomness="seeded")


def fresh_mean():
    return PrivateMean(2.0, noise_multiplier=0.7, clients=20, noise=np.ones, quantile=0.4)


def drive_mean(mean, step):
    stack = stack_of(step, Stack())
    return mean.combine(stack, model(step, 98))


def drive_account(account, step):
    account.count()
    return account.releases


def drive_private(private, step):
    private.picked(step, 3)
    private.account.count()
    return drive_mean(private.mean, step)


def seen(thing):
    return dict(thing.state_dict())


WORLDS = {
    f"server-{type(direction).__name__.lower()}": (
        functools.partial(Stepping, direction, rate=0.3, parameters=PARAMETERS),
        drive_optimizer,
        seen,
    )
    for direction in (Momentum(), Adam(), Yogi(), Adagrad())
}
WORLDS |= {
    f"server-torch-{name}": (
        functools.partial(TorchServerOptimizer, f"torch.optim:{name}", rate=0.3, parameters=PARAMETERS),
        drive_optimizer,
        seen,
    )
    for name in ("Adam", "NAdam", "ASGD", "Adagrad")
}
WORLDS |= {
    "control-variates": (functools.partial(ControlVariates, PARAMETERS), drive_control, seen),
    "control-correction": (fresh_correction, drive_correction, seen),
    "strategy": (
        lambda: MiniBatchFedAvg(
            optimizer=Stepping(Adam(), rate=0.3, parameters=PARAMETERS), control=ControlVariates(PARAMETERS)
        ),
        drive_strategy,
        seen,
    ),
}
WORLDS |= {
    "private-mean": (fresh_mean, drive_mean, seen),
    "privacy-account": (lambda: PrivacyAccount(noise_multiplier=0.7, rate=0.5, delta=1e-5), drive_account, seen),
}
if importlib.util.find_spec("dp_accounting"):
    WORLDS["private"] = (lambda: Private(PRIVACY, seed=3), drive_private, seen)
