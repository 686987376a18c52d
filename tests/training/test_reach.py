import pytest
import torch
from torch import nn

from fedmb.training.reach import Reach, check_reach_known
from fedmb.training.recipe import Training


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("pull", [0.0, 0.4])
def test_it_is_where_torchs_sgd_moves_a_parameter_whose_gradient_is_one(momentum, pull):
    parameter, reach = nn.Parameter(torch.zeros(1, dtype=torch.float64)), Reach()
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    for step in range(9):
        rate = optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        parameter.grad = torch.ones_like(parameter) + pull * parameter.detach()  # which moves it below 0
        optimizer.step()
        reach.step(rate, momentum=momentum, pull=pull)

        assert reach.moved == pytest.approx(-float(parameter.detach()), rel=1e-12)


def test_it_is_the_papers_norm_for_momentum():
    reach, rate, rho, steps = Reach(), 0.1, 0.9, 7
    for _ in range(steps):
        reach.step(rate, momentum=rho)

    assert reach.moved == pytest.approx(rate * (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"optimizer": "adam"}, "got optimizer adam; take optimizer sgd"),
        ({"optimizer_options": {"nesterov": True}, "momentum": 0.9}, "got optimizer_options {'nesterov': True}"),
        ({"average": 0.9}, "got average 0.9"),
        ({"guard": {"spike_factor": 4}}, "got guard.spike_factor 4"),
    ],
)
def test_what_is_not_plain_sgd_has_none(told, sentence):
    with pytest.raises(ValueError, match=f"rule fednova must know how far .* {sentence}"):
        check_reach_known(Training.plain(**told), by="aggregation.rule fednova")
