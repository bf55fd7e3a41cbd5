"""Energy and CO2e of all runs: what was estimated and what was measured, each on its own, with every factor."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from spendflops.accounts.footprint import Footprint
from spendflops.study.points import Row
from spendflops.study.report import tables, text
from spendflops.study.report.tables import Cell
from spendflops.study.report.text import esc

HEAD = ["Method", "Runs", "Hours", "kWh", "CO2e"]


def section(rows: Sequence[Row]) -> str:
    """The section of a page; empty where no run says anything."""
    estimates = [(row, scaled(row.footprint, row.own_share)) for row in rows if row.footprint]
    measured = [(row, row.measured) for row in rows if row.measured]
    if not estimates and not measured:
        return ""
    parts = []
    for basis in sorted({item.basis for _, item in estimates}):
        group = [(row, item) for row, item in estimates if item.basis == basis]
        caption = (
            f"Energy and CO2e of what each run computed itself ({basis}): hours times power times PUE times the carbon "
            "intensity of the grid; in brackets the least and the most that the factors allow."
        )
        parts.append(tables.html(caption, HEAD, _lines(group), label=f"Footprint, {basis}"))
    if measured:
        caption = (
            f"Measured by energy counters, for {len(measured)} of {len(rows)} runs: other parts of the machine than an "
            "estimate's, so the two are never added up."
        )
        parts.append(tables.html(caption, HEAD, _lines(measured), label="Footprint, measured"))
    parts.append(_unmeasured(rows))
    told = "".join(f"<li>{esc(line)}</li>" for line in factors(rows))
    parts.append(f'<div class="box"><h3>Factors</h3><ul>{told}</ul></div>')
    return f"<section><h2>Energy and CO2e</h2>{''.join(parts)}</section>"


def factors(rows: Iterable[Row]) -> list[str]:
    """One sentence a factor of any footprint, each once, and on which machines."""
    items = [item for row in rows for item in (row.footprint, row.measured) if item]
    machines = dict.fromkeys(f"Machine: {item.machine}." for item in items if item.machine)
    return list(dict.fromkeys((*machines, *(line for item in items for line in item.sources))))


def scaled(item: Footprint, share: float) -> Footprint:
    """A part of a footprint."""
    names = ("kwh", "kg", "kwh_low", "kwh_high", "kg_low", "kg_high")
    parts = {name: None if getattr(item, name) is None else getattr(item, name) * share for name in names}
    return dataclasses.replace(item, hours=item.hours * share, **parts)


def _lines(pairs: Sequence[tuple[Row, Footprint]]) -> list[list[Cell]]:
    groups: dict[str, list[Footprint]] = {}
    for row, item in pairs:
        groups.setdefault(row.label, []).append(item)
    lines = [_line(label, items) for label, items in groups.items()]
    return [*lines, _line("All", [item for _, item in pairs])] if len(lines) > 1 else lines


def _line(name: str, items: Sequence[Footprint]) -> list[Cell]:
    kwh, kg = ([_sum(items, f"{what}{end}") for end in ("", "_low", "_high")] for what in ("kwh", "kg"))
    return [
        Cell(name),
        Cell(str(len(items)), number=True),
        Cell(f"{sum(item.hours for item in items):.3g}", number=True),
        Cell(_digits(kwh[0]), sub=_range(*(_digits(v) for v in kwh)), number=True),
        Cell(text.mass(kg[0]), sub=_range(*(text.mass(v) for v in kg)), number=True),
    ]


def _sum(items: Sequence[Footprint], name: str) -> float | None:
    """None as soon as one of them is: a part is no sum."""
    values = [getattr(item, name) for item in items]
    return None if None in values else sum(values)


def _digits(value: float | None) -> str:
    return text.UNKNOWN if value is None else f"{value:.3g}"


def _range(best: str, low: str, high: str) -> str:
    return "" if text.UNKNOWN in (best, low, high) or low == high == best else f"({low} to {high})"


def _unmeasured(rows: Sequence[Row]) -> str:
    """Why runs have no measurement."""
    reasons = collections.Counter(r.measured_reason for r in rows if r.ok and not r.measured and r.measured_reason)
    lines = "".join(f"<li>{count} runs: {esc(reason)}</li>" for reason, count in reasons.most_common(6))
    return f"<p>Without a measurement:</p><ul>{lines}</ul>" if lines else ""
