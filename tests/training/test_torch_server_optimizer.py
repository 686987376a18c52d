import numpy as np
import pytest
import torch

from fedmb.aggregation.directions import Momentum
from fedmb.aggregation.server_optimizer import Stepping
from fedmb.arrays.bfloat16 import BFLOAT16, rounded
from fedmb.errors import SettingsError
from fedmb.training.torch_server_optimizer import TorchServerOptimizer


class Hoarder(torch.optim.SGD):
    """Keeps what no checkpoint can hold."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = ["everything"]
        super().step(closure)


def model(step, dtype=np.float32):
    random = np.random.default_rng(step)
    return {
        "w": random.standard_normal((4, 3)).astype(dtype),
        "running_var": np.abs(random.standard_normal(3)).astype(dtype),
        "seen": np.array(step),
    }


def test_momentum_sgd_is_fedavgm():
    torchs = TorchServerOptimizer("torch.optim:SGD", rate=0.7, options={"momentum": 0.9}, parameters={"w"})
    ours = Stepping(Momentum(0.9), rate=0.7, parameters={"w"})
    one = other = model(99)
    for step in range(6):
        one, other = torchs.step(one, model(step)), ours.step(other, model(step))

        assert np.allclose(one["w"], other["w"], rtol=1e-6, atol=1e-6)
        assert np.array_equal(one["running_var"], model(step)["running_var"])
        assert one["seen"] == step


@pytest.mark.parametrize("name", ["Adam", "NAdam", "Adagrad", "ASGD", "Adafactor"])
def test_any_of_torchs_steps_on_the_pseudo_gradient(name):
    torchs = TorchServerOptimizer(f"torch.optim:{name}", rate=0.05, parameters={"w"})
    weight = torch.nn.Parameter(torch.from_numpy(model(99)["w"]))
    reference, at = getattr(torch.optim, name)([weight], lr=0.05), model(99)
    for step in range(4):
        weight.grad = weight.detach() - torch.from_numpy(model(step)["w"])
        reference.step()
        at = torchs.step(at, model(step))

        assert np.allclose(at["w"], weight.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_sixteen_bits_come_back_as_such():
    at = TorchServerOptimizer("torch.optim:Adam", rate=0.1).step(
        {"w": rounded(model(1)["w"])}, {"w": rounded(model(2)["w"])}
    )

    assert at["w"].dtype == BFLOAT16


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("torch.optim:SGD", {"momentun": 0.9}, "aggregation.optimizer: options of torch.optim:SGD must be some of"),
        ("torch.optim:Adam", {"betas": (0.9, 2.0)}, "aggregation.optimizer: .* must take its options"),
        ("torch.optim:LBFGS", {}, "name a first-order one"),
        ("torch.nn:Linear", {}, "must be a torch.optim.Optimizer"),
    ],
)
def test_a_class_that_cannot_step_is_refused_before_a_round(name, options, sentence):
    with pytest.raises(SettingsError, match=sentence):
        TorchServerOptimizer(name, rate=0.1, options=options)


def test_what_no_checkpoint_can_hold_is_refused_at_the_first_step():
    with pytest.raises(SettingsError, match="must keep tensors, got list 'history'"):
        TorchServerOptimizer(f"{__name__}:Hoarder", rate=0.1).step(model(99), model(0))


def test_another_optimisers_memory_is_refused():
    ours = Stepping(Momentum(0.9), rate=0.7)
    ours.step(model(99), model(0))

    with pytest.raises(SettingsError, match="keeps its server optimiser"):
        TorchServerOptimizer("torch.optim:Adam", rate=0.1).load_state_dict(ours.state_dict())
