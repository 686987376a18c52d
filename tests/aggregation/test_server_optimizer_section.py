import pytest
from pydantic import ValidationError

from fedmb.aggregation.directions import Adagrad, Adam, Momentum, Yogi
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.aggregation.server_optimizer_section import ServerOptimization


@pytest.mark.parametrize(
    ("told", "direction", "rate"),
    [
        ({"name": "fedavgm"}, Momentum(0.9), 1.0),
        ({"name": "fedavgm", "momentum": 0.5, "rate": 0.7}, Momentum(0.5), 0.7),
        ({"name": "fedadam", "betas": (0.8, 0.95), "tau": 0.1}, Adam((0.8, 0.95), 0.1), 0.1),
        ({"name": "fedyogi", "rate": 0.01}, Yogi(), 0.01),
        ({"name": "fedadagrad", "tau": 0.01}, Adagrad(0.01), 0.1),
    ],
)
def test_a_name_chooses_the_optimiser(told, direction, rate):
    found = ServerOptimization(**told).chosen({"w"})

    assert isinstance(found, Stepping)
    assert (found.direction, found.rate, found.parameters) == (direction, rate, {"w"})


def test_none_is_none_and_torchs_are_for_whoever_knows_torch():
    assert ServerOptimization().chosen() is None
    assert ServerOptimization(name="torch.optim:Adam", rate=0.1).chosen() is None


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"rate": 0.1}, "rate is not read by none, got 0.1; leave it out"),
        ({"name": "fedavgm", "tau": 0.1}, "tau is not read by fedavgm, got 0.1"),
        ({"name": "fedadagrad", "betas": (0.1, 0.2)}, "betas is not read by fedadagrad"),
        ({"name": "fedadam", "options": {"eps": 1.0}}, "options is not read by fedadam"),
        ({"name": "torch.optim:Adam"}, "must be told its rate, got none for torch.optim:Adam; set rate"),
        ({"name": "torch.optim:SGD", "rate": 0.1, "momentum": 0.5}, "momentum is not read by torch.optim:SGD"),
        ({"name": "fedavgm", "rate": float("inf")}, "rate must be above 0 and finite"),
    ],
)
def test_what_would_do_nothing_is_refused(told, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ServerOptimization(**told)
