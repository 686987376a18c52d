"""What is known of optimisers without torch."""

from typing import get_args

import pytest

from fedmb.training.choices import BETAS, WITH_MOMENTUM, OptimizerName
from fedmb.training.optimizer_check import betas_of
from fedmb.training.optimizer_choice import default_of


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_what_is_known_of_an_optimiser_without_torch_is_what_its_class_says(name):
    options = [default_of(name, argument) for argument in ("momentum", "betas")]

    assert (options[0] is not None) == (name in WITH_MOMENTUM)
    assert options[1] == BETAS.get(name)
    assert default_of(name, "weight_decay") is not None, "all have one, so nothing is asked"


@pytest.mark.parametrize(
    ("name", "options", "betas"),
    [
        ("adam", {}, (0.9, 0.999)),
        ("lamb", {}, (0.9, 0.999)),
        ("adamw", {"betas": (0.8, 0.9)}, (0.8, 0.9)),
        ("torch.optim:RAdam", {}, (0.9, 0.999)),
        ("sgd", {}, None),
        ("adagrad", {}, None),
        ("torch.optim:Adafactor", {}, None),
    ],
)
def test_betas_are_those_of_the_options_or_of_the_class(name, options, betas):
    assert betas_of(name, options) == betas
