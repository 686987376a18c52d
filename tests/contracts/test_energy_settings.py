"""What `[training]` does about energy: a meter where it is read, a refusal where nothing measures it, carbon."""

import math

import pytest
from small_regression import Curve, columns

from fedmb.batch.table import TableSource
from fedmb.errors import SettingsError
from fedmb.telemetry import energy
from fedmb.training.local_update import LocalUpdate
from fedmb.training.parameters import initial_arrays
from fedmb.training.recipe import Training

BY_ENERGY = {"kind": "energy_goodput", "max_size": 64}


def refusing():
    raise SettingsError("not here")


@pytest.fixture(autouse=True)
def _no_meter(monkeypatch):
    """A machine whose counters nobody may read."""
    monkeypatch.setattr(energy, "Rapl", refusing)
    monkeypatch.setattr(energy, "Nvml", refusing)


def client(**training):
    rows = TableSource(columns(), seed=0, client="a")
    return LocalUpdate(Curve(), rows, Training(**training), client="a", seed=0)


def trained(**training):
    return client(**training).run(initial_arrays(Curve(), 0), base_version=0, position={})


def meter_of(one):
    return one.training.build_trainer(one.task, one.model, one.source, one._pacing, one.device).measuring.meter


def test_a_meter_is_made_where_something_reads_energy():
    assert meter_of(client(watts=40)) is None
    assert meter_of(client(watts=40, joules=500.0)).used().label == "modelled"
    assert meter_of(client(watts=40, sizing=BY_ENERGY)).used().label == "modelled"


def test_a_budget_in_joules_ends_a_round_that_has_no_other():
    update = trained(steps=math.inf, joules=4.0, watts=40)

    assert update.weight > 0
    assert update.sums["joules_modelled"] >= 4.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sizing": BY_ENERGY}, "sizing.kind energy_goodput reads energy"),
        (
            {"sizing": {"kind": "energy_budget", "max_size": 64, "joules": 5.0, "samples": 90}},
            "sizing.kind energy_budget reads energy",
        ),
        ({"joules": 5.0}, "a budget of 5 J reads energy"),
    ],
)
def test_energy_that_nothing_measures_is_refused_before_a_round(settings, sentence):
    with pytest.raises(SettingsError, match=f"{sentence}.*set training.watts to model one") as refused:
        client(**settings)
    assert refused.value.key == "training.watts"


def test_carbon_is_told_where_the_user_gives_a_factor_and_something_knows_the_joules():
    sums = trained(watts=40, grams_per_kwh=360.0).sums

    assert sums["carbon_grams"] == pytest.approx(sums["joules_modelled"] / 3.6e6 * 360)
    assert "carbon_grams" not in trained(watts=40).sums
    assert "carbon_grams" not in trained(grams_per_kwh=360.0).sums
