import copy
from typing import get_args

import pytest
import torch
from torch import nn

from fedmb.errors import SettingsError
from fedmb.training.optimizer_choice import OptimizerName, check_values, groups_for, optimizer_of
from fedmb.training.optimizers import Lars

NAMES = get_args(OptimizerName)


class Halves(torch.optim.Optimizer):
    """A user's own: it halves what it is given, and its step takes no closure."""

    def __init__(self, params, lr, share=0.5):
        super().__init__(params, {"lr": lr, "share": share})

    def step(self):
        pass


def layers(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((5, 3), (4,), (2, 2, 2))]


def give_gradients(parameters, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_resuming_from_state_is_bitwise(name):
    straight = layers(dtype=torch.float32)
    optimizer = optimizer_of(name, straight, learning_rate=0.05, weight_decay=0.01)
    for seed in range(3):
        give_gradients(straight, seed)
        optimizer.step()
    resumed = [nn.Parameter(parameter.detach().clone()) for parameter in straight]
    state = copy.deepcopy(optimizer.state_dict())
    second = optimizer_of(name, resumed, learning_rate=0.9)
    second.load_state_dict(state)
    for seed in range(3, 6):
        for parameters, each in ((straight, optimizer), (resumed, second)):
            give_gradients(parameters, seed)
            each.step()

    assert all(torch.equal(one, other) for one, other in zip(straight, resumed, strict=True))


@pytest.mark.parametrize(("name", "plain"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_fused_kernels_take_the_steps_of_plain_ones(name, plain):
    fused, reference = layers(), layers()
    optimizer = optimizer_of(name, fused, learning_rate=0.05)
    other = plain(reference, lr=0.05, foreach=False)
    for seed in range(4):
        give_gradients(fused, seed)
        give_gradients(reference, seed)
        optimizer.step()
        other.step()

    assert optimizer.param_groups[0]["fused"] is True
    assert all(torch.allclose(one, two, rtol=1e-12) for one, two in zip(fused, reference, strict=True))


def test_a_word_does_not_need_a_class_and_a_class_not_a_word():
    optimizer = optimizer_of("torch.optim:NAdam", layers(), learning_rate=0.2, weight_decay=0.1)

    assert type(optimizer) is torch.optim.NAdam
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.2, 0.1)
    assert optimizer_of(f"{__name__}:Halves", layers(), learning_rate=0.2).defaults["share"] == 0.5


def test_what_the_settings_say_counts_and_not_the_classs_own_default():
    assert optimizer_of("torch.optim:AdamW", layers(), learning_rate=0.1).defaults["weight_decay"] == 0
    assert optimizer_of("lars", layers(), learning_rate=0.1).defaults["momentum"] == 0


def test_options_reach_the_constructor():
    assert optimizer_of("adam", layers(), learning_rate=0.1, options={"betas": (0.8, 0.9)}).defaults["betas"] == (
        0.8,
        0.9,
    )
    assert optimizer_of("lars", layers(), learning_rate=0.1, options={"eta": 0.02}).defaults["eta"] == 0.02
    assert optimizer_of("sgd", layers(), learning_rate=0.1, momentum=0.9, options={"nesterov": True}).defaults[
        "nesterov"
    ]
    assert not optimizer_of("adam", layers(), learning_rate=0.1, options={"foreach": True}).defaults["fused"]


def test_only_lars_and_lamb_are_made_over_weights_and_biases_apart():
    model = nn.Linear(3, 2)

    assert [len(groups_for(name, model, weight_decay=0.1)) for name in ("sgd", "lars", "lamb")] == [2, 2, 2]
    assert isinstance(groups_for("sgd", model, weight_decay=0.1)[0], nn.Parameter)
    assert [group["adapt"] for group in groups_for("lamb", model, weight_decay=0.1)] == [True, False]


@pytest.mark.parametrize(
    ("name", "settings", "sentence", "key"),
    [
        ("sdg", {}, "or module:Class, got 'sdg'; for example", "training.optimizer"),
        ("torch.optim:Nadam", {}, "must be importable, got 'torch.optim:Nadam'", "training.optimizer"),
        ("torch.optim:LBFGS", {}, "without asking for the loss again, got torch.optim:LBFGS", "training.optimizer"),
        ("collections:OrderedDict", {}, "must be a torch.optim.Optimizer", "training.optimizer"),
        ("adam", {"momentum": 0.9}, "adam has no momentum of this kind, got 0.9", "training.momentum"),
        ("torch.optim:NAdam", {"momentum": 0.9}, "no momentum of this kind", "training.momentum"),
        ("torch.optim:Rprop", {"weight_decay": 0.1}, "no weight decay, got 0.1", "training.weight_decay"),
        ("adam", {"options": {"lr": 0.1}}, "set training.learning_rate.rate", "training.optimizer_options"),
        ("lars", {"options": {"beta": 0.1}}, "some of eta, got 'beta'", "training.optimizer_options"),
    ],
)
def test_what_a_class_does_not_take_is_refused(name, settings, sentence, key):
    with pytest.raises(SettingsError, match=sentence) as refused:
        optimizer_of(name, layers(), learning_rate=0.1, **settings)
    assert refused.value.key == key


def test_a_value_that_a_class_does_not_take_is_refused_before_there_is_a_model():
    with pytest.raises(SettingsError, match=r"adam must take its options.*Invalid beta parameter"):
        check_values("adam", momentum=0.0, options={"betas": (0.9, 1.5)})
    with pytest.raises(SettingsError, match="eta must not be negative"):
        check_values("lars", momentum=0.0, options={"eta": -1.0})
    check_values("sgd", momentum=0.9, options={"nesterov": True})
    assert Lars(layers(), 0.1).defaults["momentum"] == 0.9
