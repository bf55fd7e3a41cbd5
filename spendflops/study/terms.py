"""What FLOPs cost on a machine: hours, kWh, kg of CO2e, each with how it was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from spendflops.accounts.figures import Figure
from spendflops.accounts.flops import Cost
from spendflops.accounts.footprint import Footprint, calculator, estimate
from spendflops.accounts.machines import Machine
from spendflops.accounts.speed import PowerLaw
from spendflops.accounts.utilisation import ASSUMED, at_peak
from spendflops.contracts import errors

BASES = ("estimate", "mlco2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """Of some programs.

    Attributes:
        hours: None where nothing says how fast the machine is, with the ``reason``.
        low, high: Hours, by the prediction interval of a law; None for a part of the peak.
        extrapolated: How far outside the FLOPs that were timed the furthest program lies; 1 inside.
        footprint: None without hours.
    """

    hours: float | None
    reason: str = ""
    low: float | None = None
    high: float | None = None
    extrapolated: float = 1.0
    footprint: Footprint | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """How FLOPs become hours, and hours kWh and kg.

    Attributes:
        machine: Where.
        utilisation: Part of the peak, where there is no ``law``.
        law: Through steps that were timed on this machine.
        basis: ``"estimate"`` or ``"mlco2"``.
        watts: Power of the machine, where it is known better.
    """

    machine: Machine
    utilisation: Figure = ASSUMED
    law: PowerLaw | None = None
    basis: str = "estimate"
    watts: float | None = None

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise errors.ConfigError(f"unknown basis {self.basis!r}{errors.suggest(self.basis, BASES)}")

    @property
    def told(self) -> str:
        """How hours are found."""
        if self.law is None:
            return f"utilisation {self.utilisation.value:g} of the peak: {self.utilisation}"
        worst = self.law.worst_left_out
        left = f"; the others predict {worst[0]} wrong by a factor of {worst[1]:.2f}" if worst else "; of one method"
        return (
            f"a power law through {self.law.points} timed programs, exponent {self.law.slope:.3f} "
            f"± {self.law.slope_se:.3f}, R2 {self.law.r2:.3f} and residuals {self.law.sd:.3f} in log space{left}"
        )

    def price(self, programs: Sequence[tuple[Cost, int]]) -> Price:
        """Of (cost of a call, calls)."""
        price = self._timed(programs) if self.law is not None else self._at_peak(programs)
        if price.hours is None:
            return price
        if self.basis == "mlco2":
            footprint = calculator(hours=price.hours, machine=self.machine)
        else:
            footprint = estimate(hours=price.hours, machine=self.machine, watts=self.watts)
        return dataclasses.replace(price, footprint=footprint)

    def _at_peak(self, programs: Sequence[tuple[Cost, int]]) -> Price:
        total = 0.0
        for cost, calls in programs:
            seconds, reason = at_peak(cost.dtypes, self.machine, self.utilisation)
            if seconds is None:
                return Price(hours=None, reason=f"{reason}; --speeds takes the time from finished runs")
            total += seconds * calls
        return Price(hours=total / 3600)

    def _timed(self, programs: Sequence[tuple[Cost, int]]) -> Price:
        assert self.law is not None
        hours = low = high = 0.0
        extrapolated = 1.0
        for cost, calls in programs:
            if not cost.total or not calls:
                continue
            found = self.law.at(cost.total)
            hours += calls / found.steps_per_second / 3600
            low += calls / found.high / 3600
            high += calls / found.low / 3600
            extrapolated = max(extrapolated, found.extrapolated)
        return Price(hours=hours, low=low, high=high, extrapolated=extrapolated)
