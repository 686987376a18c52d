import numpy as np
import pytest
import torch
from torch import nn

from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.tasks.digits import Digits
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training
from fedmb.training.weight_average import WeightAverage


def test_the_average_is_the_recursion_and_buffers_are_the_models():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    average = WeightAverage(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            model[0].weight.add_(step + 1.0)
            model[1].running_mean.fill_(step)
        average.after_step()
        expected = 0.9 * expected + 0.1 * model[0].weight.detach()

    assert torch.allclose(average.weights()["0.weight"], expected, rtol=1e-12)
    assert (average.weights()["1.running_mean"] == 4).all()


def test_two_steps_at_half_the_size_keep_as_much_as_one():
    model = nn.Linear(1, 1, bias=False)
    halves, whole = WeightAverage(model, 0.81), WeightAverage(model, 0.81)
    with torch.no_grad():
        model.weight.fill_(5.0)
    halves.after_step(0.9)
    halves.after_step(0.9)
    whole.after_step()

    assert torch.allclose(halves.weights()["weight"], whole.weights()["weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_that_keeps_less_than_nothing_or_more_than_all_is_refused(decay):
    with pytest.raises(SettingsError, match="0 to 1"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_a_client_sends_the_average_in_place_of_the_last_weights():
    def sent(average):
        rows = TableSource(Digits().train_rows(), seed=0, client="a")
        training = Training.plain(batch_size=32, steps=8, average=average)
        start = initial_arrays(Digits(), 0)
        update = LocalUpdate(Digits(), rows, training, client="a", seed=0).run(start, base_version=0, position={})
        return np.abs(update.arrays["0.weight"] - start["0.weight"]).sum()

    assert sent(0.0) == pytest.approx(sent(None), rel=1e-6)
    assert 0 < sent(0.9) < 0.7 * sent(None)
    assert sent(1.0) == 0
