"""Budgets: "spend 3e18 FLOPs" is how a run starts; its number of steps follows.

``3e18``, ``3 EFLOP``, ``250000 steps``, ``100 epochs``. A budget is resolved once, when the run directory is made, and
stored; a resumed run never computes it again.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from spendflops.contracts import errors

PREFIXES = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of training.

    Attributes:
        amount: Exact.
        unit: ``"flops"``, ``"steps"`` or ``"epochs"``.
    """

    amount: Fraction
    unit: str

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
        return dataclasses.replace(self, amount=self.amount * Fraction(share).limit_denominator(10**6))

    def __str__(self) -> str:
        if self.unit == "flops":
            return f"{float(self.amount):.4g}"
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
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(?:([kMGTPEZY]?)FLOPs?|(steps?)|(epochs?))?\s*", text)
    if not match:
        raise _bad(text)
    number, prefix, steps, epochs = match.groups()
    try:
        amount = Fraction(number)
    except ValueError as error:
        raise _bad(text) from error
    unit = "steps" if steps else "epochs" if epochs else "flops"
    if unit == "steps" and amount.denominator != 1:
        raise _bad(text)
    return Budget(amount=amount * 10 ** PREFIXES[prefix or ""], unit=unit)


def _bad(text: object) -> errors.ConfigError:
    return errors.ConfigError(
        f"{text!r} is not a budget",
        fix="FLOPs as '3e18' or '3 EFLOP' (k M G T P E Z Y), or '250000 steps', or '100 epochs'",
    )
