"""Budgets: "spend 3e18 FLOPs" is how a run starts; its number of steps follows.

``3e18``, ``3 EFLOP``, ``250000 steps``, ``100 epochs``. Hours, kWh and kg of CO2e on a machine that is named,
``2h@1xH200``, ``5 kWh@8xH100@35%``, ``5kgCO2@8xA100@europe-west4``, are turned into FLOPs with printed factors and are
FLOPs from then on. A budget is resolved once, when the run directory is made, and stored; a resumed run never computes
it again.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Any

from spendflops.accounts import machines, utilisation
from spendflops.accounts.figures import Figure
from spendflops.accounts.machines import Machine
from spendflops.contracts import errors

_UNITS = {
    "utilisation": "of the peak",
    "peak": "FLOP/s",
    "watts": "W",
    "pue": "x the energy of the machine",
    "intensity": "g CO2e/kWh",
}
_AMOUNT = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]{1,3})?)\s*(h|kWh|kg\s*CO2e?)\s*@(.*)")
_SHARE = re.compile(r"(.*)@\s*([0-9.]+)\s*%\s*")
_BARE = re.compile(r"\s*[0-9.]+(?:[eE][+-]?[0-9]{1,3})?\s*(?:h|hours?|kWh|kg\s*CO2e?)\s*")
LARGEST = 1e100
"""A number above it is a slip: all computers together have made some 1e30 FLOPs."""
PREFIXES = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """Hours, kWh or kg of CO2e as FLOPs.

    Attributes:
        text: What was given.
        machine: Where it is spent.
        flops: What it pays for.
        hours: How long that takes.
        factors: Name -> the figure that was used: ``utilisation``, ``peak``, and for energy ``watts``, ``pue``,
            ``intensity``.
        dtype: Whose peak.
    """

    text: str
    machine: Machine
    flops: int
    hours: float
    factors: dict[str, Figure]
    dtype: str

    def __str__(self) -> str:
        told = [
            f"{name.replace('peak', f'peak of {self.dtype}')} {figure.value:.6g} {_UNITS[name]}: {figure}"
            for name, figure in self.factors.items()
        ]
        return f"{self.text} is {self.flops:.4g} FLOPs, {self.hours:.4g} h on {self.machine} ({'; '.join(told)})"

    def to_json(self) -> dict[str, Any]:
        """What a run keeps of it."""
        plain = {name: dataclasses.asdict(figure) for name, figure in self.factors.items()}
        named = {"text": self.text, "machine": str(self.machine), "dtype": self.dtype}
        return {**named, "flops": self.flops, "hours": self.hours, "factors": plain}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of training.

    Attributes:
        amount: Exact.
        unit: ``"flops"``, ``"steps"`` or ``"epochs"``.
        converted: How hours, kWh or kg became these FLOPs; None for a budget that was given in its unit.
    """

    amount: Fraction
    unit: str
    converted: Conversion | None = None

    def steps(self, *, flops_per_step: int, examples_per_step: int, examples: int | None) -> int:
        """Whole optimiser steps that the budget pays for.

        Args:
            flops_per_step: Model FLOPs of one step, all devices.
            examples_per_step: The batch size.
            examples: Size of the data set, where known.

        Raises:
            errors.ConfigError: Epochs of a data set whose size is unknown.
        """
        if self.unit == "flops":
            return int(self.amount // flops_per_step)
        if self.unit == "steps":
            return int(self.amount)
        if examples is None:
            raise errors.ConfigError(
                "a budget in epochs needs the size of the data set",
                why="this data set does not state it",
                fix="give the budget in FLOPs or steps",
            )
        return int(self.amount * examples // examples_per_step)

    def part(self, share: float) -> Budget:
        """The budget of a stage that gets ``share`` of it."""
        amount = self.amount * Fraction(share).limit_denominator(10**6)
        return self if share == 1 else dataclasses.replace(self, amount=amount, converted=None)

    def __str__(self) -> str:
        if self.unit == "flops":
            return f"{float(self.amount):.4g}" + (f" ({self.converted.text})" if self.converted else "")
        return f"{float(self.amount):g} {self.unit}"


def parse(text: str | int | float) -> Budget:
    """Reads a budget.

    Raises:
        errors.ConfigError: Not a budget.
    """
    if isinstance(text, bool):
        raise _bad(text)
    if isinstance(text, int | float):
        text = repr(text)
    if "@" in text:
        return _converted(text)
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]{1,3})?)\s*(?:([kMGTPEZY]?)FLOPs?|(steps?)|(epochs?))?\s*", text)
    if not match:
        raise _bad(text)
    number, prefix, steps, epochs = match.groups()
    amount = _amount(text, number) * 10 ** PREFIXES[prefix or ""]
    unit = "steps" if steps else "epochs" if epochs else "flops"
    if unit == "steps" and amount.denominator != 1:
        raise _bad(text, why="a step is made or not")
    return Budget(amount=amount, unit=unit)


def _amount(text: str, number: str) -> Fraction:
    """An exact amount, looked at before its power of ten is written out."""
    try:
        size = float(number)
    except ValueError as error:
        raise _bad(text) from error
    if size > LARGEST:
        raise _bad(text, why=f"it is more than {LARGEST:.0e}")
    return Fraction(number)


def _converted(text: str) -> Budget:
    """Hours, kWh or kg on a machine as FLOPs."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise _bad(text)
    amount = _amount(text, match[1])
    unit, rest, used = match[2].replace(" ", ""), match[3], utilisation.ASSUMED
    share = _SHARE.fullmatch(rest)
    if share is not None:
        rest, used = share[1], Figure(value=float(share[2]) / 100, source="given with the budget")
    utilisation.check(used.value)
    if re.match(r"\s*this\b", rest):
        raise errors.ConfigError(
            f"{text!r} means another budget on every machine", fix="name the machine, as in 2h@1xH200, or give FLOPs"
        )
    machine = machines.parse(rest)
    dtype, peak = next(
        ((d, p) for d in ("bfloat16", "float16") if (p := machine.peak(d)) is not None), ("bfloat16", None)
    )
    if peak is None:
        raise errors.ConfigError(f"{text!r} cannot become FLOPs", why=f"no peak of {machine.accelerator.name} is known")
    hours, factors = _hours(text, amount, unit, machine)
    flops = hours * 3600 * _exact(peak) * _exact(used)
    conversion = Conversion(
        text=text,
        machine=machine,
        flops=int(flops),
        hours=float(hours),
        factors={"utilisation": used, "peak": peak, **factors},
        dtype=dtype,
    )
    return Budget(amount=flops, unit="flops", converted=conversion)


def _hours(text: str, amount: Fraction, unit: str, machine: Machine) -> tuple[Fraction, dict[str, Figure]]:
    """Hours that an amount pays for, and the figures that say so."""
    if unit == "h":
        return amount, {}
    watts = machine.watts
    if watts is None:
        raise errors.ConfigError(
            f"{text!r} cannot become FLOPs",
            why=f"no power of {machine.accelerator.name} is published",
            fix="give hours",
        )
    factors = {"watts": watts, "pue": machine.region.pue}
    kwh = amount
    if unit.startswith("kg"):
        factors["intensity"] = machine.intensity
        if not machine.intensity.value:
            raise errors.ConfigError(f"{text!r} has no end", why=f"the grid of {machine.region.name} is said to emit 0")
        kwh = amount * 1000 / _exact(machine.intensity)
    return kwh * 1000 / (_exact(watts) * _exact(machine.region.pue)), factors


def _exact(figure: Figure) -> Fraction:
    """The decimal that was published, not the binary next to it."""
    return Fraction(repr(figure.value))


def _bad(text: object, why: str = "") -> errors.ConfigError:
    if re.search(r"FLOPS\b|FLOPs?/s", str(text)):
        why = "FLOPS and FLOP/s are speeds, FLOPs an amount"
    elif re.fullmatch(_BARE, str(text)):
        why = "what it buys depends on the machine: name it"
    return errors.ConfigError(
        f"{text!r} is not a budget",
        why=why,
        fix="FLOPs as '3e18' or '3 EFLOP' (k M G T P E Z Y), or '250000 steps', or '100 epochs', or '2h@1xH200', "
        "'5 kWh@8xH100@35%', '5kgCO2@8xA100@europe-west4'",
    )
