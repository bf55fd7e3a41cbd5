"""Which data set, and which model size: curves of one method beside each other, at equal FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from spendflops.study.compare import Estimate, compare
from spendflops.study.frontier import Analysis, Point, at
from spendflops.study.points import Axis, Row
from spendflops.study.report import tables, text
from spendflops.study.report.panels import Cross, Line, panel
from spendflops.study.report.tables import Cell
from spendflops.study.report.text import esc

Curve = Sequence[Point]
PANELS = 8


def method_of(row: Row) -> str:
    """The method that a row is a size or a variant of: its objective where it says so, else its label."""
    settings = row.settings
    return str(settings.get("method") or settings.get("objective") or row.label).removeprefix("objectives.")


def datasets(analyses: Sequence[Analysis]) -> str:
    """The section on data sets; empty where no method was trained on two."""
    found = [(item, *dataset_table(item)) for item in analyses]
    parts = [
        tables.html(
            f"{text.what(item.axis)}, by the data of pre-training, at the most FLOPs at which all data sets of a row "
            "were measured (between two lengths: linear in log FLOPs). Bold is the best of its row; ~ is not "
            "distinguishable from it.",
            head,
            lines,
            label=f"Data sets: {text.what(item.axis)}",
        )
        for item, head, lines in found
        if lines
    ]
    return f"<section><h2>Which data to pre-train on</h2>{''.join(parts)}</section>" if parts else ""


def dataset_table(item: Analysis) -> tuple[list[str], list[list[Cell]]]:
    """Header and rows: a line a method, a column a data set; no rows where no method was trained on two."""
    groups: dict[tuple[str, str], dict[str, Curve]] = {}
    for curve in item.curves.values():
        first = curve[0].rows[0]
        if first.kind == "method" and first.dataset:
            groups.setdefault((first.label, first.backbone), {})[first.dataset] = curve
    groups = {who: found for who, found in groups.items() if len(found) > 1}
    names = sorted({name for found in groups.values() for name in found})
    return ["Method", "FLOPs", *names], [_line(who, found, names, item.axis) for who, found in groups.items()]


def _line(who: tuple[str, str], found: dict[str, Curve], names: Sequence[str], axis: Axis) -> list[Cell]:
    flops = min(curve[-1].flops for curve in found.values())
    scores = {name: at(curve, flops) for name, curve in found.items()}
    known = {name: estimate for name, estimate in scores.items() if estimate is not None}
    best = max(known.values(), key=lambda e: e.value * axis.sign)
    cells = [_score(known.get(name), best, axis) for name in names]
    return [Cell(who[0], sub=who[1]), Cell(text.flops(flops), number=True), *cells]


def _score(estimate: Estimate | None, best: Estimate, axis: Axis) -> Cell:
    if estimate is None:
        return Cell(text.NONE, number=True)
    words = text.score(estimate, axis)
    if estimate is best:
        return Cell(words, sub="best", number=True, css="best")
    return Cell(words if compare(best, estimate, axis).distinguishable else f"~ {words}", number=True)


def sizes(analyses: Sequence[Analysis]) -> str:
    """The section on model sizes; empty where no method was trained in two."""
    parts = []
    for number, item in enumerate(analyses):
        groups = families(item)
        if not groups:
            continue
        telling = sorted(groups, key=lambda name: not _crosses(item, groups[name]))[:PANELS]
        drawn = [_panel(item, name, groups[name], f"z{number}-{place}") for place, name in enumerate(telling)]
        left = len(groups) - len(drawn)
        more = f"<p class='meta'>{left} more are in the table alone.</p>" if left else ""
        caption = (
            f"{text.what(item.axis)}: from how many FLOPs on the larger model is ahead. The interval holds the FLOPs "
            "around the crossing at which the two are not told apart; it is open where that is so up to the end of "
            "what was measured."
        )
        lines = [line for name, curves in groups.items() for line in _pairs(item, name, curves)]
        head = ["Method", "Smaller", "Larger", "Larger ahead from", "Interval", "At the most common FLOPs"]
        table = tables.html(caption, head, lines, label=f"Model sizes: {text.what(item.axis)}")
        parts.append(f"<div class='panels'>{''.join(drawn)}</div>{more}{table}")
    return f"<section><h2>Which model size</h2>{''.join(parts)}</section>" if parts else ""


def families(item: Analysis) -> dict[str, list[Curve]]:
    """Method, with its data where it was trained on several -> its curves in two sizes or more, the cheapest first."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in item.curves.values():
        first = curve[0].rows[0]
        if first.kind == "method":
            groups.setdefault((method_of(first), first.dataset), []).append(curve)
    groups = {who: found for who, found in groups.items() if len({c[0].rows[0].backbone for c in found}) > 1}
    several = len({data for _, data in groups}) > 1
    return {
        f"{method} on {data}" if several and data else method: sorted(curves, key=_per_image)
        for (method, data), curves in groups.items()
    }


def _per_image(curve: Curve) -> tuple[float, str]:
    """FLOPs of an image: what orders sizes."""
    row = curve[0].rows[0]
    return (sum(row.phases.values()) / row.images_seen if row.images_seen else 0.0), row.backbone


def _panel(item: Analysis, name: str, curves: Sequence[Curve], uid: str) -> str:
    lines = [
        Line(
            name=_size(curve),
            flops=[p.flops for p in curve],
            values=[p.estimate.value for p in curve],
            spreads=[p.estimate.sd or 0.0 for p in curve],
            index=index,
        )
        for index, curve in enumerate(curves)
    ]
    unit = f" ({item.axis.unit})" if item.axis.unit else ""
    drawn = panel(
        lines,
        uid=uid,
        title=f"{name} by model size",
        y_name=f"{item.axis.metric}{unit}",
        crosses=_crosses(item, curves),
    )
    return f"<figure><figcaption>{esc(name)}</figcaption>{drawn}</figure>"


def _crosses(item: Analysis, curves: Sequence[Curve]) -> list[Cross]:
    """Where two of the curves change places, distinguishably."""
    names = {curve[0].name for curve in curves}
    found = [c for c in item.crossovers if c.clear and {c.dear, c.cheap} <= names]
    return [Cross(flops=c.flops, value=c.value, low=c.low, high=c.high) for c in found]


def _size(curve: Curve) -> str:
    row = curve[0].rows[0]
    return f"{row.label}, {row.backbone}"


def _pairs(item: Analysis, name: str, curves: Sequence[Curve]) -> list[list[Cell]]:
    lines = []
    for small, large in itertools.combinations(curves, 2):
        if small[0].rows[0].backbone == large[0].rows[0].backbone:
            continue
        who = {small[0].name, large[0].name}
        crossings = [c for c in item.crossovers if {c.dear, c.cheap} == who and c.dear == large[0].name]
        where = ", ".join(f"{text.flops(c.flops)}{'' if c.clear else ' (a tie)'}" for c in crossings)
        between = "; ".join(text.between(c) for c in crossings)
        cells = [Cell(name), Cell(_size(small)), Cell(_size(large)), Cell(where or text.NONE, number=True)]
        lines.append([*cells, Cell(between or text.NONE), Cell(_last(small, large, item.axis), css="w")])
    return lines


def _last(small: Curve, large: Curve, axis: Axis) -> str:
    """Which is ahead at the most FLOPs at which both were measured."""
    flops = min(small[-1].flops, large[-1].flops)
    pair = at(small, flops), at(large, flops)
    if pair[0] is None or pair[1] is None:
        return "no FLOPs in common"
    found = compare(pair[1], pair[0], axis)
    place = f"{text.flops(flops)}: {text.number(found.difference, axis, signed=True)}"
    if not found.distinguishable:
        return f"{place}, not distinguishable"
    return f"{place}, {'larger' if found.difference > 0 else 'smaller'} ahead"
