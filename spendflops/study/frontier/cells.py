"""Cells of a table as numbers; what is none of them is a ValueError with the reason in words."""

from __future__ import annotations

import math
import re

from spendflops.accounts import budget as budgets
from spendflops.contracts.errors import ConfigError


def number(cell: str, what: str, *, positive: bool = False) -> float:
    """A finite number."""
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{what} is {cell!r}, not a number{_written(cell)}") from None
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f"{what} is {cell}")
    return value


def _written(cell: str) -> str:
    """How a cell that looks like a number is to be written."""
    if re.fullmatch(r"[-+\d.,\s]+%", cell):
        return ": leave out the %, and say it in a column 'unit'"
    if re.fullmatch(r"[-+]?\d{1,3}([ ,_'\N{NARROW NO-BREAK SPACE}]\d{3})+(\.\d*)?", cell):
        return ": leave out what separates thousands"
    if re.fullmatch(r"[-+]?\d+,\d+", cell):
        return ": write a point for the comma"
    return ""


def integer(cell: str | None, what: str) -> int:
    """A whole number; 0 for an empty cell."""
    if not cell:
        return 0
    value = number(cell, what)
    if value != int(value):
        raise ValueError(f"{what} is {cell!r}, not a whole number")
    return int(cell) if re.fullmatch(r"[+-]?\d+", cell) else int(value)


def flops_of(cell: str) -> tuple[int, bool]:
    """Exact FLOPs, and whether a unit stood beside the number."""
    if re.fullmatch(r"\s*-\s*[\d.].*", cell):
        raise ValueError(f"flops are {cell}")
    try:
        parsed = budgets.parse(cell)
    except ConfigError:
        parsed = None
    if parsed is None or parsed.unit != "flops":
        raise ValueError(f"flops are {cell!r}, not a number such as 3e18 or 3 EFLOP{_written(cell)}")
    return int(parsed.amount), "FLOP" in cell


def truth(cell: str | None) -> bool:
    """True for an empty cell."""
    known = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if (cell or "").lower() not in known:
        raise ValueError(f"higher_is_better is {cell!r}: true or false")
    return known[(cell or "").lower()]
