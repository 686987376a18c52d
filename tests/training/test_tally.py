import numpy as np
import pytest
import torch

from fedmb.errors import ShapeError
from fedmb.training.tally import Seen, Tally, check_per_example


def test_sums_are_those_of_all_examples_however_they_arrive():
    random = np.random.default_rng(0)
    parts = [random.standard_normal(count).astype(np.float32) for count in random.integers(1, 9, 300)]
    tally = Tally()
    for part in parts:
        tally.add([Seen({"loss": torch.from_numpy(part)}, None)])

    assert tally.sums()["loss"] == pytest.approx(np.concatenate(parts).sum(dtype=np.float64), rel=1e-12)
    assert tally.sums() == tally.sums()


def test_each_example_weighs_its_units():
    tally = Tally()
    tally.add([Seen({"loss": torch.tensor([1.0, 10.0]), "hit": torch.tensor([1.0, 0.0])}, torch.tensor([2.0, 0.5]))])

    assert tally.sums() == {"loss": 7.0, "hit": 2.0}


def test_a_million_small_losses_are_not_lost_in_single_precision():
    tally = Tally()
    for _ in range(1000):
        tally.add([Seen({"loss": torch.full((1000,), 0.1)}, None)])

    assert tally.sums()["loss"] == pytest.approx(1e5, rel=1e-7)


def test_nothing_seen_has_no_sums():
    assert Tally().sums() == {}


def test_a_mean_in_place_of_losses_is_refused():
    with pytest.raises(ShapeError, match="reduction='none'"):
        check_per_example(torch.tensor(1.0), 4)
