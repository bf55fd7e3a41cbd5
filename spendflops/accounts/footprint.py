"""Hours to kWh to kg CO2e, in three ways that never share a sum. Every factor is in the result, with its source.

- ``estimate``: ``kWh = hours x watts / 1000 x PUE`` and ``kg = kWh x g_per_kWh / 1000``, location based, without
  offsets, without the making of the machine; from the least to the largest that published figures allow.
- ``mlco2``: the arithmetic of mlco2.github.io/impact to the digit, for papers that used it.
- ``measurement``: an energy counter was read.
"""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Iterable
from typing import Any, Literal

from spendflops.accounts.figures import Figure, given, table
from spendflops.accounts.machines import Machine
from spendflops.contracts import errors

Basis = Literal["estimate", "mlco2", "measurement"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
    """Energy and CO2e of some hours of computing; ``None`` where a factor is unknown, never 0 instead of it.

    Attributes:
        watts: Of all devices together; average power for a measurement.
        kwh, kg: With the PUE; the best guess.
        kwh_low, kwh_high, kg_low, kg_high: The least and the largest that the factors allow; None without a range.
        basis: How it was found, see above.
        machine: Where.
    """

    hours: float
    watts: float | None
    watts_source: str
    intensity_g_per_kwh: float
    intensity_source: str
    pue: float
    pue_source: str
    kwh: float | None
    kg: float | None
    basis: Basis = "estimate"
    kwh_low: float | None = None
    kwh_high: float | None = None
    kg_low: float | None = None
    kg_high: float | None = None
    machine: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """One sentence a factor."""
        watts = "unknown" if self.watts is None else f"{self.watts:.6g} W"
        return (
            f"Power: {watts}, {self.watts_source}.",
            f"Carbon intensity: {self.intensity_g_per_kwh:g} g CO2e/kWh, {self.intensity_source}.",
            f"PUE: {self.pue:g}, {self.pue_source}.",
        )


def estimate(*, hours: float, machine: Machine, watts: float | None = None) -> Footprint:
    """Footprint of hours on a machine at an assumed power.

    Args:
        hours: Wall time.
        machine: Its power, the intensity of its grid, its PUE.
        watts: Power of all devices together, where it is known better.

    Raises:
        errors.ConfigError: A negative number.
    """
    _check(hours=hours, energy=watts)
    power, intensity, pue = given(watts) if watts is not None else machine.watts, machine.intensity, machine.region.pue
    unknown = f"no published figure for {machine.accelerator.name!r} is known here; give watts"
    return Footprint(
        hours=hours,
        watts=None if power is None else power.value,
        watts_source=unknown if power is None else _told(power, "W"),
        intensity_g_per_kwh=intensity.value,
        intensity_source=_told(intensity, "g CO2e/kWh"),
        pue=pue.value,
        pue_source=_told(pue, ""),
        machine=str(machine),
        **({"kwh": None, "kg": None} if power is None else _energy(power.times(hours / 1000), intensity, pue)),
    )


def measured(*, hours: float, kwh: float, counters: str, machine: Machine) -> Footprint:
    """Footprint of an energy that counters measured at the devices; ``counters`` names them.

    Raises:
        errors.ConfigError: A negative number, or 0 kWh in more than a minute (a counter that does not count).
    """
    _check(hours=hours, energy=kwh)
    if kwh == 0 and hours > 1 / 60:
        raise errors.ConfigError(
            f"{counters} measured 0 kWh in {hours:.3g} h",
            why="a device without an energy counter reads as zero",
            fix="use the estimate, or another counter",
        )
    intensity, pue = machine.intensity, machine.region.pue
    return Footprint(
        hours=hours,
        watts=kwh * 1000 / hours if hours else None,
        watts_source=f"average, measured by {counters}",
        intensity_g_per_kwh=intensity.value,
        intensity_source=_told(intensity, "g CO2e/kWh"),
        pue=pue.value,
        pue_source=_told(pue, ""),
        basis="measurement",
        machine=str(machine),
        **_energy(Figure(value=kwh, source=counters, tag="measured"), intensity, pue),
    )


def calculator(*, hours: float, machine: Machine) -> Footprint:
    """What a paper gets that asks mlco2.github.io/impact for one chip and multiplies by their number.

    Raises:
        errors.ConfigError: A negative number; hardware or a region that is not known of the calculator.
    """
    _check(hours=hours, energy=0.0)
    watts = {row["accelerator"]: float(row["watts"]) for row in table("calculator_hardware")}
    grams = {row["region"]: row for row in table("calculator_regions")}
    name, place = machine.accelerator.name, machine.region.name
    for what, known in ((name, list(watts)), (place, list(grams))):
        if what not in known:
            raise errors.ConfigError(
                f"the calculator's figures of {what!r} are not known{errors.suggest(what, known)}",
                why="its own table of hardware and regions is what it computes with",
                fix="use the estimate",
            )
    g_per_kwh, offset = float(grams[place]["g_per_kwh"]), float(grams[place]["offset_percent"])
    one = mlco2(watts[name], hours, g_per_kwh=g_per_kwh, offset_percent=offset)
    many = machine.count
    return Footprint(
        hours=hours,
        watts=watts[name] * many,
        watts_source=f"the calculator's {watts[name]:g} W for {name}, x {many}",
        intensity_g_per_kwh=g_per_kwh,
        intensity_source=f"the calculator's for {place}, where it shows {one.kg_per_kwh:g} kg; of the result it "
        f"calls {offset:g} % offset, {one.offset_kg * many:.10g} kg",
        pue=1.0,
        pue_source="the calculator uses none",
        kwh=round(one.kwh * many, 6),
        kg=round(one.kg * many, 6),
        basis="mlco2",
        machine=f"{many}x{name}@{place}",
    )


def total(footprints: Iterable[Footprint]) -> tuple[float, float | None, float | None]:
    """Hours, kWh and kg of several; kWh and kg are ``None`` as soon as one of them is.

    Raises:
        errors.ConfigError: Several ways of finding them in one sum.
    """
    items = list(footprints)
    bases = sorted({item.basis for item in items})
    if len(bases) > 1:
        raise errors.ConfigError(
            f"footprints of different kinds are added: {' and '.join(bases)}",
            why="assumed watts, a calculator's and a counter cover different parts of a machine",
            fix="sum each kind on its own",
        )
    unknown = any(item.kg is None for item in items)
    hours = sum(item.hours for item in items)
    if unknown:
        return hours, None, None
    return hours, sum(item.kwh or 0.0 for item in items), sum(item.kg or 0.0 for item in items)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlco2:
    """What the ML CO2 calculator shows: every number is rounded before the next is computed; PUE is never used."""

    kwh: float
    kg_per_kwh: float
    kg: float
    offset_kg: float


def mlco2(watts: float, hours: float, *, g_per_kwh: float, offset_percent: float = 0.0) -> Mlco2:
    """The arithmetic of mlco2.github.io/impact, rounding included.

    Args:
        watts: Of one device; papers multiply the rounded result by the number of devices.
        g_per_kwh: Truncated to an integer, as the calculator does.
    """
    kwh = _to_fixed(watts * hours / 1000)
    kg_per_kwh = _to_fixed(int(g_per_kwh) / 1000)
    kg = _to_fixed(kwh * kg_per_kwh)
    return Mlco2(kwh=kwh, kg_per_kwh=kg_per_kwh, kg=kg, offset_kg=_to_fixed(kg * offset_percent / 100))


def _to_fixed(value: float) -> float:
    """JavaScript's ``toFixed(2)``: exact binary ties go up, where Python's ``round`` goes to the even digit."""
    return float(decimal.Decimal(value).quantize(decimal.Decimal("0.01"), rounding=decimal.ROUND_HALF_UP))


def _energy(energy: Figure, intensity: Figure, pue: Figure) -> dict[str, Any]:
    """kWh and kg of the kWh of the devices, with their ranges."""
    low, high = (energy.range[i] * pue.range[i] for i in (0, 1))
    kwh = energy.value * pue.value
    return {
        "kwh": kwh,
        "kg": kwh * intensity.value / 1000,
        "kwh_low": low,
        "kwh_high": high,
        "kg_low": low * intensity.range[0] / 1000,
        "kg_high": high * intensity.range[1] / 1000,
    }


def _told(figure: Figure, unit: str) -> str:
    """The source of a figure, and its range where it has one."""
    low, high = figure.range
    return str(figure) if low == high else f"{figure}; {low:.6g} to {high:.6g} {unit}".rstrip()


def _check(*, hours: float, energy: float | None) -> None:
    if not hours >= 0 or (energy is not None and not energy >= 0):
        raise errors.ConfigError(
            "a footprint needs hours and power of at least 0",
            why=f"got hours={hours}, power or energy={energy}",
            fix="check the units: hours, watts, kWh",
        )
