import numpy as np
import pytest
from stacks import models

from fedmb.aggregation.control_variates import ControlVariates
from fedmb.aggregation.stack import Stack
from fedmb.errors import SettingsError

BEFORE = models(1, seed=77)[0]


def stacked(arrays, reaches, first=0):
    stack = Stack()
    for number, (model, reach) in enumerate(zip(arrays, reaches, strict=True), first):
        stack.put(f"client-{number}", model, 1.0, reach=reach)
    return stack


def own(models_after, reaches, mean, before=BEFORE, name="w"):
    """What each client's variate becomes less what it was, as the paper writes it."""
    return [(before[name] - one[name]) / reach - mean for one, reach in zip(models_after, reaches, strict=True)]


def test_the_sum_follows_what_clients_keep():
    control, kept, mean = ControlVariates({"w"}), np.zeros((4, 7, 3)), 0.0
    for step, (who, count) in enumerate([(0, 4), (1, 2), (0, 3), (2, 2)]):
        arrays, reaches = models(count, seed=step), [0.1 * (k + 1) for k in range(count)]
        for number, change in enumerate(own(arrays, reaches, mean), who):
            kept[number] += change
        control.learn(stacked(arrays, reaches, who), BEFORE)
        mean = kept.mean(axis=0)

        assert np.allclose(control.mean()["w"], mean, atol=1e-4)
    assert control.mean().keys() == {"w"}


def test_only_clients_that_took_part_count():
    control = ControlVariates({"w"})
    arrays = models(2)
    control.learn(stacked(arrays[:1], [0.5]), BEFORE)

    assert np.allclose(control.mean()["w"], own(arrays[:1], [0.5], 0.0)[0], atol=1e-5)
    assert control.generation == 0


def test_whole_numbers_have_none():
    control = ControlVariates()
    control.learn(stacked(models(2), [0.1, 0.1]), BEFORE)

    assert control.mean().keys() == {"w", "b"}


def test_a_client_that_lost_its_own_lets_all_begin_anew():
    control = ControlVariates({"w"})
    control.learn(stacked(models(2), [0.1, 0.1]), BEFORE)
    control.learn(stacked(models(2), [0.1, 0.1]), BEFORE, ["client-1"])

    assert control.mean() == {}
    assert control.generation == 1
    assert ControlVariates().mean() == {}


def test_something_elses_memory_is_refused():
    with pytest.raises(SettingsError, match="keeps its control variates, got 'm/w' in its checkpoint"):
        ControlVariates().load_state_dict({"m/w": np.zeros(3)})
