import math

import pytest
from pydantic import ValidationError

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.settings import load, to_toml
from fedmb.sizing.policy import Progress
from fedmb.sizing.schedule import constant, steps
from fedmb.sizing.sizing_section import PARAMETERS, Sizing
from fedmb.sizing.stats import Stats

# A complete, legal table for each kind.
TABLES = {
    "fixed": {"size": 48},
    "full": {},
    "milestones": {"milestones": {0: 32, 1000: 128}},
    "ramp": {"size": 16, "stop_size": 64, "samples": 1000},
    "ada_batch": {"every_samples": 1000, "max_size": 512},
    "instead_of_decay": {"max_size": 512},
    "norm_test": {"theta": 0.5, "max_size": 512},
    "mccandlish": {"max_size": 512},
    "cabs": {"max_size": 512},
    "goodput": {"min_size": 16, "max_size": 512, "multiple": 16},
    "energy_goodput": {"max_size": 512},
    "energy_budget": {"joules": 5000.0, "samples": 100_000, "max_size": 512},
}


class Whole(Section):
    sizing: Sizing = Sizing()


def size_of(sizing, decay=None, **progress):
    policy = sizing.build(decay=decay or constant(), num_rows=100)
    return policy(Progress(**progress), Stats())


@pytest.mark.parametrize("kind", PARAMETERS)
def test_every_kind_can_be_named_and_is_bounded(kind):
    sizing = Sizing(kind=kind, **TABLES[kind])
    policy = sizing.build(decay=constant(), num_rows=100)

    assert 1 <= policy(Progress(), Stats()) <= policy.largest <= 512


@pytest.mark.parametrize("kind", PARAMETERS)
def test_every_kind_survives_its_toml(kind, tmp_path):
    whole = Whole(sizing=Sizing(kind=kind, **TABLES[kind]))
    (tmp_path / "whole.toml").write_text(to_toml(whole))

    assert load(Whole, file=tmp_path / "whole.toml") == whole


def test_kinds_answer_what_their_parameters_say():
    assert size_of(Sizing(size=48)) == 48
    assert size_of(Sizing(kind="full")) == 100
    assert size_of(Sizing(kind="milestones", milestones={0: 32, 1000: 128}), samples=1000) == 128
    assert size_of(Sizing(kind="ramp", size=16, stop_size=64, samples=1000), samples=500) == 40
    assert size_of(Sizing(kind="ada_batch", every_samples=100, max_size=512), samples=250) == 128
    assert size_of(Sizing(kind="instead_of_decay", max_size=512), steps({10: 0.25}), samples=10) == 128


def test_an_adaptive_size_is_damped_clipped_and_grouped():
    sizing = Sizing(kind="mccandlish", size=32, max_size=96, multiple=32, min_size=32)
    stats = Stats()
    stats.observe_groups([8, 8], [2.0, 2.0], 0.5)  # endless noise
    policy = sizing.build(decay=constant())

    assert policy(Progress(size=32), stats) == 64
    assert policy(Progress(size=64), stats) == 96
    assert policy.largest == 96


def test_decisions_can_be_set_apart():
    sizing = Sizing(kind="ramp", size=10, stop_size=110, samples=1000, decide_every=500)

    assert size_of(sizing, samples=400, size=10, asked_at=300) == 10
    assert size_of(sizing, samples=500, size=10, asked_at=400) == 60


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"kind": "goodput"}, "must be bounded, got no max_size; set max_size"),
        ({"kind": "ada_batch", "every_samples": 10}, "must be bounded"),
        ({"min_size": 64, "max_size": 32}, "min_size must be at most max_size, got 64 > 32"),
        ({"size": 8, "min_size": 16}, "size must be min_size to max_size, 16 to inf, got 8"),
        ({"kind": "ramp", "stop_size": 64, "samples": 10, "max_size": 48}, "stop_size must be min_size to max_size"),
        ({"kind": "milestones", "milestones": {0: 8, 9: 99}, "max_size": 64}, "milestones.9 must be"),
        ({"kind": "milestones"}, "needs milestones, got nothing"),
        ({"kind": "milestones", "milestones": {5: 8}}, "must start at 0"),
        ({"kind": "ramp", "samples": 10}, "needs stop_size, got nothing; set stop_size"),
        ({"kind": "energy_budget", "max_size": 64}, "needs joules, samples"),
        ({"theta": 0.5}, "kind fixed must not set what it does not read, got theta"),
        ({"kind": "mccandlish", "max_size": 64, "theta": 0.5}, "got theta; remove it"),
        ({"kind": "ramp", "stop_size": 64, "samples": 10, "growth": 3.0}, "got growth"),
        ({"kind": "full", "multiple": 8}, "kind full takes every row"),
        ({"size": 30, "multiple": 8}, "size must be a multiple of 8, got 30"),
        ({"kind": "goodput", "max_size": 100, "multiple": 32}, "max_size must be a multiple of 32, got 100"),
        ({"kind": "goodput", "max_size": 128, "multiple": 32, "growth": 1.5}, "growth must be at least 2"),
    ],
)
def test_contradictions_are_refused_with_rule_value_and_way_out(table, rule):
    with pytest.raises(ValidationError, match=rule) as refused:
        Sizing(**table)

    assert "; " in str(refused.value)


def test_full_is_refused_on_a_stream_and_beyond_the_bounds():
    with pytest.raises(SettingsError, match="endless stream"):
        Sizing(kind="full").build(decay=constant(), num_rows=math.inf)
    with pytest.raises(SettingsError, match="takes all 100 rows, got min_size 1 and max_size 64"):
        Sizing(kind="full", max_size=64).build(decay=constant(), num_rows=100)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(SettingsError, match=r"sizing\.kind must be 'fixed'.*got 'pollux'"):
        load(Whole, overrides=["sizing.kind=pollux"])


def test_it_can_be_switched_on_from_the_command_line():
    whole = load(Whole, overrides=["sizing.kind=goodput", "sizing.max_size=256", "sizing.min_size=16"])

    assert whole.sizing.build(decay=constant()).reads == {"noise", "seconds"}
