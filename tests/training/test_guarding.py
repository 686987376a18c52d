import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fedmb.training.guarding import Guarding


def test_nothing_is_guarded_unless_it_is_asked_for():
    assert Guarding().build() is None


def test_a_place_to_go_back_to_is_kept_only_where_spikes_go_back():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    assert Guarding(clip_norm=1.0).build_rollback(model, optimizer) is None
    assert Guarding(spike_factor=4.0).build_rollback(model, optimizer) is not None


def test_rollback_every_without_spikes_is_refused():
    with pytest.raises(ValidationError, match="got 7 and no spike_factor; set spike_factor, or remove"):
        Guarding(clip_norm=1.0, rollback_every=7)
    assert Guarding(rollback_every=100) == Guarding()  # a file may name a default
