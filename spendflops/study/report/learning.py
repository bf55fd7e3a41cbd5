"""How losses and probes went while runs trained, over their FLOPs: a panel a method, and the numbers in a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from spendflops.study.frontier import curve_name, varying
from spendflops.study.points import Row
from spendflops.study.report import tables, text
from spendflops.study.report.panels import Line, panel
from spendflops.study.report.tables import Cell
from spendflops.study.report.text import esc
from spendflops.study.traces import LOSS, PROBE, Trace

LINES, PANELS = 5, 12
"""The most curves of a panel, and panels of a page: the files of the runs hold the others."""

Curves = dict[str, tuple[Row, Trace]]


def section(rows: Sequence[Row]) -> str:
    """The section of a page; empty where no run kept a curve."""
    found = _grouped(rows)
    if not found:
        return ""
    shown = dict(itertools.islice(found.items(), PANELS))
    parts = []
    for number, ((what, stage), curves) in enumerate(shown.items()):
        title = _title(what, stage)
        chosen = list(curves.items())[:LINES]
        lines = [
            Line(name=name, flops=trace.flops, values=trace.values, index=index)
            for index, (name, (_, trace)) in enumerate(chosen)
        ]
        drawn = panel(lines, uid=f"t{number}", title=title, y_name=_short(what))
        left = f"<p class='meta'>{len(chosen)} of {len(curves)} curves.</p>" if len(chosen) < len(curves) else ""
        parts.append(f"<figure><figcaption>{esc(title)}</figcaption>{drawn}{left}</figure>")
    words = (
        "One run a curve: the first seed, the largest budgets first. Losses of two methods are different quantities: "
        "they share no axis and are never compared. Where much was logged, a point is a mean over its stretch of FLOPs."
    )
    if len(found) > len(shown):
        words += f" {len(shown)} of {len(found)} panels are shown; the others are in the runs' metrics.jsonl."
    lone = sum(bool(r.traces) and all(len(t.flops) < 2 for t in r.traces) for r in rows if r.kind != "tuning")
    if lone:
        words += f" {lone} run{'s' if lone > 1 else ''} logged one point alone, which is no curve."
    table = tables.html("Curves as numbers.", *_numbers(shown))
    return (
        f"<section><h2>Learning curves over FLOPs</h2><p>{esc(words)}</p><div class='panels'>{''.join(parts)}</div>"
        f"<details><summary>Curves as numbers</summary>{table}</details></section>"
    )


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], Curves]:
    """(what, stage) -> name -> the run and its curve. Probes of all methods share an axis, losses never do."""
    vary, found = varying(rows), {}
    runs = [r for r in rows if r.kind != "tuning" and any(len(t.flops) > 1 for t in r.traces)]
    for row in sorted(runs, key=lambda r: (r.kind == "transfer", -(r.budget or 0), r.seed)):
        for trace in (t for t in row.traces if len(t.flops) > 1):
            probe = trace.name.startswith(PROBE)
            place = (trace.name, "") if probe else (LOSS, _stage(row, trace))
            name = _name(row, vary, label=probe)
            found.setdefault(place, {}).setdefault(name, (row, trace))
    return dict(sorted(found.items(), key=lambda item: item[0][0] == LOSS))


def _name(row: Row, vary: tuple[str, ...], *, label: bool) -> str:
    """``mae/shapes · 2.00e12 FLOPs``; without the label where the panel is that of one method."""
    parts = [curve_name(row, vary) if label else "/".join(getattr(row, f) for f in vary if getattr(row, f))]
    budget = f"{text.flops(row.budget)} FLOPs" if row.budget is not None else ""
    parts += [row.transfer, budget, "" if row.ok else "failed"]
    return " · ".join(part for part in parts if part) or row.label


def _stage(row: Row, trace: Trace) -> str:
    """The label, with the name of the stage where the run has several."""
    several = len({t.stage for t in row.traces}) > 1
    return f"{row.label}, {trace.stage}" if several else row.label


def _title(what: str, stage: str) -> str:
    if what == LOSS:
        return f"Loss of {stage}"
    _, evaluation, metric = what.split("/", 2)
    return f"{metric.capitalize()} of the probe {evaluation}"


def _short(what: str) -> str:
    return what.rpartition("/")[2]


def _numbers(groups: dict[tuple[str, str], Curves]) -> tuple[list[str], list[list[Cell]]]:
    """What the panels show at a tenth, half and all of the FLOPs of each curve."""
    lines = []
    for (what, stage), curves in groups.items():
        for name, (_, trace) in list(curves.items())[:LINES]:
            cells = [Cell(_at(trace, share), number=True) for share in (0.1, 0.5, 1.0)]
            lines.append([Cell(name, sub=_title(what, stage)), *cells, Cell(text.flops(trace.flops[-1]), number=True)])
    return ["Run", "At a tenth", "At half", "At the end", "FLOPs"], lines


def _at(trace: Trace, share: float) -> str:
    """The last value within a share of the FLOPs; a dash where none was logged by then."""
    within = [value for flops, value in zip(trace.flops, trace.values, strict=True) if flops <= share * trace.flops[-1]]
    return f"{within[-1]:.4g}" if within else text.NONE
