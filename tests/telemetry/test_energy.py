import sys
from types import SimpleNamespace

import pytest

from fedmb.errors import SettingsError
from fedmb.telemetry.energy import Energy, ModelledPower, NoMeter, Nvml, Rapl, Together, available_meter

RANGE = 262_143_328_850  # what an Intel server reports


def zone(root, name, microjoules):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")


def test_joules_of_all_packages_are_added_and_inner_zones_are_not_counted_twice(tmp_path):
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    zone(tmp_path, "intel-rapl:1", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", 700)
    meter = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", 3_000_000)
    zone(tmp_path, "intel-rapl:1", 5_500_000)
    zone(tmp_path, "intel-rapl:0:0", 900_000_000)

    assert meter.used() == Energy(2.5, "measured")


def test_a_counter_that_wrapped_goes_on(tmp_path):
    zone(tmp_path, "intel-rapl:0", RANGE - 500_000)
    meter = Rapl(tmp_path)
    zone(tmp_path, "intel-rapl:0", 499_999)
    first = meter.used()
    zone(tmp_path, "intel-rapl:0", 1_499_999)

    assert first.joules == pytest.approx(1.0)
    assert meter.used().joules == pytest.approx(2.0)


def test_no_counter_is_said_and_not_replaced_by_a_guess(tmp_path):
    with pytest.raises(SettingsError, match="none"):
        Rapl(tmp_path)


def test_a_modelled_power_is_labelled_as_such():
    now = iter([10.0, 14.0])

    assert ModelledPower(50.0, clock=lambda: next(now)).used() == Energy(200.0, "modelled")


def test_absent_energy_has_no_carbon():
    assert NoMeter().used().carbon_grams(400.0) is None


def test_carbon_needs_a_factor_from_the_user():
    assert Energy(3.6e6, "measured").carbon_grams(380.0) == 380.0
    with pytest.raises(SettingsError, match="negative"):
        Energy(1.0, "measured").carbon_grams(-1.0)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Energy(1.0, "measured"), Energy(2.0, "measured"), Energy(3.0, "measured")),
        (Energy(1.0, "measured"), Energy(2.0, "modelled"), Energy(3.0, "modelled")),
        (Energy(1.0, "measured"), Energy(None, "absent"), Energy(None, "absent")),
        (Energy(None, "absent"), Energy(None, "absent"), Energy(None, "absent")),
    ],
)
def test_a_sum_is_labelled_by_its_weakest_part(one, other, both):
    assert one + other == both


def test_several_meters_are_one():
    now = iter([0.0, 0.0, 2.0, 2.0])
    clock = lambda: next(now)  # noqa: E731

    assert Together([ModelledPower(10.0, clock), ModelledPower(1.0, clock)]).used() == Energy(22.0, "modelled")


def test_this_machine_gives_a_figure_or_says_that_it_is_absent():
    energy = available_meter().used()

    assert (energy.joules is None) == (energy.label == "absent")


class DriverError(Exception):
    """What the driver's library raises."""


def driver(counters, *, broken=False):
    """A named double of NVIDIA's library, which this machine has no driver for: counters in millijoules."""

    def energy(handle):
        if broken:
            raise DriverError("Not Supported")
        return next(counters[handle])

    return SimpleNamespace(
        NVMLError=DriverError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(counters),
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_joules_of_all_gpus_are_added(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver([iter([1000, 4000]), iter([500, 1500])]))

    assert Nvml().used() == Energy(4.0, "measured")


def test_only_the_chosen_gpus_count(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver([iter([1000, 4000]), iter([500, 1500])]))

    assert Nvml(devices=[1]).used() == Energy(1.0, "measured")


def test_a_gpu_without_a_counter_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver([iter([])], broken=True))

    with pytest.raises(SettingsError, match="Not Supported"):
        Nvml()


def test_without_nvidias_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with pytest.raises(SettingsError, match=r"fedmb\[energy\]"):
        Nvml()
