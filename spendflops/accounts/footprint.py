"""Hours to kWh to kg CO2e: the simplest honest estimate, every factor with its source.

``kWh = hours x watts / 1000 x PUE`` and ``kg = kWh x g_per_kWh / 1000``, location based, without offsets, without the
making of the machine. An energy that was measured and an energy that was assumed never share a sum.
"""

from __future__ import annotations

import dataclasses
import decimal
import re
from collections.abc import Iterable
from typing import Literal

from spendflops.contracts.errors import ConfigError

WORLD_INTENSITY = 475.0
WORLD_INTENSITY_SOURCE = "world average, the default of codecarbon 3.3"
NO_PUE_SOURCE = "assumed: the machine alone, no cooling or losses"
CPU_CORE_WATTS = 10.0

# (device name as JAX prints it, watts a device, source). A TPU v2 or v3 chip is two JAX devices. Other variants of the
# same name (PCIe, NVL, GB200) have other limits: they must not match, an unknown power is better than a wrong one.
_DEVICES: tuple[tuple[str, float, str], ...] = (
    (r"b200(?!.*nvl)", 1000, "TDP of B200 HGX, vendor data sheet"),
    (r"h200(?!.*nvl)", 700, "TDP of H200 SXM, vendor data sheet"),
    (r"h100(?!.*(pcie|nvl))", 700, "TDP of H100 SXM5, vendor data sheet"),
    (r"a100(?!.*pcie)", 400, "TDP of A100 SXM4, vendor data sheet"),
    (r"v100(?!.*(pcie|fhhl))", 300, "TDP of V100 SXM2, vendor data sheet"),
    (r"tpu v4$", 170, "measured mean of a TPU v4 chip, Google Cloud documentation"),
    (r"tpu v3$", 141.5, "half of 283 W, average of a TPU v3 chip with its share of the host, Patterson et al. 2021"),
    (r"tpu v2$", 110.5, "half of 221 W, average of a TPU v2 chip with its share of the host, Patterson et al. 2021"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
    """Energy and CO2e of some hours of computing; ``None`` where a factor is unknown, never 0 instead of it.

    Attributes:
        basis: ``"estimate"`` (hours x assumed watts) or ``"measurement"`` (an energy counter was read).
        watts: Of all devices together; average power for a measurement.
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
    basis: Literal["estimate", "measurement"] = "estimate"

    @property
    def sources(self) -> tuple[str, ...]:
        """One sentence a factor."""
        watts = "unknown power" if self.watts is None else f"{self.watts:g} W"
        return (
            f"Power: {watts}, {self.watts_source}.",
            f"Carbon intensity: {self.intensity_g_per_kwh:g} g CO2e/kWh, {self.intensity_source}.",
            f"PUE: {self.pue:g}, {self.pue_source}.",
        )


def assumed_watts(device: str, *, devices: int = 1, cores: int = 1) -> tuple[float | None, str]:
    """Power to assume for devices of a name, and where the figure comes from.

    Args:
        device: ``device_kind`` of JAX, e.g. ``"cpu"``, ``"NVIDIA H200"``, ``"TPU v3"``.
        devices: How many JAX devices of an accelerator.
        cores: How many CPU cores; read only for a CPU.

    Returns:
        Watts of all devices (``None`` for an accelerator without a known figure) and the source.
    """
    name = device.strip().lower()
    if name == "cpu":
        return CPU_CORE_WATTS * cores, f"an assumption: {CPU_CORE_WATTS:g} W a CPU core x {cores}"
    for pattern, watts, source in _DEVICES:
        if re.search(pattern, name):
            return watts * devices, f"an assumption: {source}, x {devices}, at full load"
    return None, f"no published figure for {device!r} is known here; give watts"


def estimate(
    *,
    hours: float,
    device: str = "cpu",
    devices: int = 1,
    cores: int = 1,
    watts: float | None = None,
    watts_source: str = "given by the user",
    intensity: float = WORLD_INTENSITY,
    intensity_source: str = "",
    pue: float = 1.0,
    pue_source: str = "",
) -> Footprint:
    """Footprint of measured hours at an assumed power.

    Args:
        hours: Wall time.
        device: See :func:`assumed_watts`, like ``devices`` and ``cores``; read only where ``watts`` is missing.
        watts: Power of all devices together.
        intensity: Grams of CO2e a kWh.
        pue: Power usage effectiveness of the building, at least 1.

    Raises:
        ConfigError: A negative number, or a PUE below 1.
    """
    _check(hours=hours, watts=watts, intensity=intensity, pue=pue)
    if watts is None:
        watts, watts_source = assumed_watts(device, devices=devices, cores=cores)
    kwh = None if watts is None else hours * watts / 1000 * pue
    return Footprint(
        hours=hours,
        watts=watts,
        watts_source=watts_source,
        kwh=kwh,
        kg=None if kwh is None else kwh * intensity / 1000,
        **_factors(intensity, intensity_source, pue, pue_source),
    )


def measured(
    *,
    hours: float,
    kwh: float,
    counter: str,
    intensity: float = WORLD_INTENSITY,
    intensity_source: str = "",
    pue: float = 1.0,
    pue_source: str = "",
) -> Footprint:
    """Footprint of an energy that a counter measured at the device; ``counter`` names it, e.g. ``"NVML, board only"``.

    Raises:
        ConfigError: A negative number, a PUE below 1, or 0 kWh in more than a minute (a counter that does not count).
    """
    _check(hours=hours, watts=kwh, intensity=intensity, pue=pue)
    if kwh == 0 and hours > 1 / 60:
        raise ConfigError(
            f"{counter} measured 0 kWh in {hours:.3g} h",
            why="a device without an energy counter reads as zero",
            fix="use the estimate, or another counter",
        )
    return Footprint(
        hours=hours,
        watts=kwh * 1000 / hours if hours else None,
        watts_source=f"average, measured by {counter}",
        kwh=kwh * pue,
        kg=kwh * pue * intensity / 1000,
        basis="measurement",
        **_factors(intensity, intensity_source, pue, pue_source),
    )


def total(footprints: Iterable[Footprint]) -> tuple[float, float | None, float | None]:
    """Hours, kWh and kg of several; kWh and kg are ``None`` as soon as one of them is.

    Raises:
        ConfigError: Estimates and measurements in one sum.
    """
    items = list(footprints)
    bases = sorted({item.basis for item in items})
    if len(bases) > 1:
        raise ConfigError(
            "an estimated and a measured energy are added",
            why="assumed watts and a counter cover different parts of a machine",
            fix="sum each basis on its own",
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
    """The arithmetic of mlco2.github.io/impact, rounding included, to compare with papers that used it.

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


def _factors(intensity: float, intensity_source: str, pue: float, pue_source: str) -> dict:
    if not intensity_source:
        intensity_source = WORLD_INTENSITY_SOURCE if intensity == WORLD_INTENSITY else "given by the user"
    if not pue_source:
        pue_source = NO_PUE_SOURCE if pue == 1.0 else "given by the user"
    return {
        "intensity_g_per_kwh": intensity,
        "intensity_source": intensity_source,
        "pue": pue,
        "pue_source": pue_source,
    }


def _check(*, hours: float, watts: float | None, intensity: float, pue: float) -> None:
    if hours < 0 or (watts is not None and watts < 0) or intensity < 0 or pue < 1:
        raise ConfigError(
            "a footprint needs hours, power and intensity of at least 0 and a PUE of at least 1",
            why=f"got hours={hours}, power or energy={watts}, intensity={intensity}, pue={pue}",
            fix="check the units: hours, watts, grams a kWh",
        )
