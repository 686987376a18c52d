import pytest
from torch import nn

from fedmb.errors import SettingsError
from fedmb.sizing.sizing_section import Sizing
from fedmb.training.norm import FrozenNorm, GhostNorm
from fedmb.training.norm_choice import check_cuts, check_norm, norm_momentum, with_norm


def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.2))


@pytest.mark.parametrize(
    ("norm", "group", "kind"),
    [
        ("as_built", None, nn.BatchNorm1d),
        ("ghost", 4, GhostNorm),
        ("group", 2, nn.GroupNorm),
        ("layer", None, nn.GroupNorm),
        ("frozen", None, FrozenNorm),
    ],
)
def test_a_name_replaces_the_layer(norm, group, kind):
    assert type(with_norm(normed(), norm, group, "all")[1]) is kind


@pytest.mark.parametrize(
    ("norm", "group", "travels", "sentence"),
    [
        ("ghost", 4, "all", "norm ghost is about batch norm, got a model without one; set norm to as_built"),
        ("group", 2, "all", "norm group is about"),
        ("layer", None, "all", "norm layer is about"),
        ("frozen", None, "all", "norm frozen is about"),
        ("as_built", None, "fedbn", "norm_travels fedbn is about batch norm.*set norm_travels to all"),
        ("as_built", None, "silobn", "norm_travels silobn is about"),
    ],
)
def test_a_model_without_batch_norm_is_refused(norm, group, travels, sentence):
    with pytest.raises(SettingsError, match=sentence):
        with_norm(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), norm, group, travels)


def test_what_is_not_about_batch_norm_takes_any_model():
    model = nn.Linear(2, 2)

    assert with_norm(model, "as_built", None, "all") is model


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.SyncBatchNorm(4), GhostNorm(4, group=3)])
def test_a_layer_that_would_see_parts_of_a_batch_is_refused(layer):
    with pytest.raises(SettingsError, match=r"'1', which would see parts.*and micro_size 8; set training.norm"):
        check_cuts(nn.Sequential(nn.Linear(4, 4), layer), multiple=8, cut_by="micro_size 8")


@pytest.mark.parametrize("layer", [FrozenNorm(4), GhostNorm(4, group=4), nn.GroupNorm(2, 4), nn.LayerNorm(4)])
def test_a_layer_that_sees_no_cut_is_not(layer):
    check_cuts(nn.Sequential(layer), multiple=8, cut_by="micro_size 8")


def test_where_nothing_is_cut_every_layer_may_stay():
    check_cuts(normed(), multiple=1, cut_by=None)


def test_a_full_batch_need_not_be_whole_groups():
    check_norm("ghost", 8, "all", sizing=Sizing(kind="full"), micro_size=16)


@pytest.mark.parametrize(
    ("norm", "group", "travels", "micro_size", "sentence"),
    [
        ("ghost", None, "all", None, "goes with norm ghost or group, got norm ghost and norm_group None"),
        ("layer", 4, "all", None, "got norm layer and norm_group 4"),
        ("ghost", 8, "all", None, "whole ghost groups of 8 rows, got sizing.multiple 4"),
        ("ghost", 4, "all", 6, "micro_size must hold whole ghost groups of 4 rows, got 6"),
        ("group", 4, "fedbn", None, "got norm group, which leaves none"),
        ("layer", None, "silobn", None, "got norm layer, which leaves none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(norm, group, travels, micro_size, sentence):
    with pytest.raises(SettingsError, match=sentence):
        check_norm(norm, group, travels, sizing=Sizing(size=32, multiple=4), micro_size=micro_size)


def test_the_momentum_is_that_of_a_layer_that_learns():
    assert norm_momentum(normed()) == 0.2
    assert norm_momentum(nn.Sequential(FrozenNorm(4), nn.GroupNorm(2, 4))) is None
