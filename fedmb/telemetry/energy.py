"""Joules and grams of CO2, each figure labelled measured, modelled or absent; nothing is guessed.

A meter is read before and after; the difference is what the machine used in between, all its processes together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Label = Literal["measured", "modelled", "absent"]

POWERCAP = Path("/sys/class/powercap")
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Energy:
    """A quantity of energy with how it is known."""

    joules: float | None
    """None exactly when `label` is "absent"."""
    label: Label

    def __add__(self, other: Energy) -> Energy:
        """Both together: absent if one of them is, since an unknown part hides the total; else modelled if one is."""
        if self.joules is None or other.joules is None:
            return Energy(None, "absent")
        label: Label = "modelled" if "modelled" in {self.label, other.label} else "measured"
        return Energy(self.joules + other.joules, label)

    def carbon_grams(self, grams_per_kwh: float) -> float | None:
        """Grams of CO2 equivalent at a grid factor that the user knows; None where the energy is absent.

        Raises:
            SettingsError: the factor is negative.
        """
        if grams_per_kwh < 0:
            raise SettingsError(f"a grid factor must not be negative, got {grams_per_kwh}; look up your grid's g/kWh")
        return None if self.joules is None else self.joules / _JOULES_PER_KWH * grams_per_kwh


class Meter(Protocol):
    """Something that counts joules."""

    def used(self) -> Energy:
        """Energy since the meter was made."""
        ...


class NoMeter:
    """Where nothing can be measured and nobody gave a power to model with."""

    def used(self) -> Energy:
        """Absent."""
        return Energy(None, "absent")


class ModelledPower:
    """A constant power that the user vouches for, times the clock.

    Args:
        watts: mean power of the device while it trains.
        clock: monotonic seconds.

    Raises:
        SettingsError: the power is not positive.
    """

    def __init__(self, watts: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not watts > 0:
            raise SettingsError(f"a modelled power must be above 0 W, got {watts}; leave it out for none")
        self._watts = watts
        self._clock = clock
        self._start = clock()

    def used(self) -> Energy:
        """Watts times seconds, labelled modelled."""
        return Energy(self._watts * (self._clock() - self._start), "modelled")


class Rapl:
    """Intel's and AMD's energy counters of whole processor packages, from `/sys/class/powercap`.

    A counter wraps at `max_energy_range_uj`, within minutes on a large server, so read more often than that: `used`
    adds up what went by since the reading before.

    Args:
        root: the powercap directory.

    Raises:
        SettingsError: there is no readable counter; since 2020 kernels let only root read them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if ":" not in zone.name.split(":", 1)[1]]
        try:
            self._last = [_microjoules(zone / "energy_uj") for zone in self._zones]
            self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        except OSError as error:
            raise SettingsError(
                f"RAPL counters must be readable, got: {error}; give the process read access"
            ) from error
        if not self._zones:
            raise SettingsError(f"RAPL needs a package zone intel-rapl:N, {root} has none; use another meter")
        self._total = 0

    def used(self) -> Energy:
        """Joules of all packages since the meter was made, labelled measured."""
        for number, zone in enumerate(self._zones):
            now = _microjoules(zone / "energy_uj")
            self._total += (now - self._last[number]) % (self._ranges[number] + 1)
            self._last[number] = now
        return Energy(self._total / 1e6, "measured")


class Nvml:
    """NVIDIA's total-energy counters of GPUs (Volta and newer), through the `nvidia-ml-py` package.

    Args:
        devices: GPU numbers; all by default.

    Raises:
        SettingsError: the package or the driver is missing, or a GPU has no counter.
    """

    def __init__(self, devices: Sequence[int] | None = None) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise SettingsError("NVML needs the package nvidia-ml-py; pip install 'fedmb[energy]'") from error
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            chosen = range(pynvml.nvmlDeviceGetCount()) if devices is None else devices
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in chosen]
            self._start = self._millijoules()
        except pynvml.NVMLError as error:
            raise SettingsError(f"NVML must give a total energy counter, got: {error}; use another meter") from error

    def used(self) -> Energy:
        """Joules of the GPUs since the meter was made, labelled measured."""
        return Energy((self._millijoules() - self._start) / 1e3, "measured")

    def _millijoules(self) -> int:
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles)


class Together:
    """Several meters as one, such as processor and GPUs."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    def used(self) -> Energy:
        """The sum."""
        total = self._meters[0].used()
        for meter in self._meters[1:]:
            total += meter.used()
        return total


def available_meter(watts: float | None = None) -> Meter:
    """Whatever this machine can measure; a model of `watts` where it can measure nothing; else none."""
    meters: list[Meter] = []
    for kind in (Rapl, Nvml):
        try:
            meters.append(kind())
        except SettingsError:
            continue
    if meters:
        return meters[0] if len(meters) == 1 else Together(meters)
    return NoMeter() if watts is None else ModelledPower(watts)


def _microjoules(path: Path) -> int:
    return int(path.read_text())


def meter_for(by: str, *, watts: float | None) -> Meter:
    """What counts joules on this machine.

    Args:
        by: what reads them, for the error.
        watts: power to model them with where nothing can be read.

    Raises:
        SettingsError: there is no meter and no power to model one with.
    """
    meter = available_meter(watts)
    if meter.used().joules is None:
        raise SettingsError(
            f"{by} reads energy, this machine has no meter that can be read; set training.watts to model one, or leave "
            "it out",
            key="training.watts",
        )
    return meter
