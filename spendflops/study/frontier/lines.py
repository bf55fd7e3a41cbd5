"""A line of a table as a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spendflops.study.frontier import cells
from spendflops.study.frontier.columns import Layout
from spendflops.study.frontier.table_checks import Line
from spendflops.study.points import Row, Score

KINDS = ("method", "baseline", "transfer", "tuning")


def line(layout: Layout, number: int, row: Mapping[str, str]) -> Line:
    """The line of some cells.

    Args:
        layout: Which column holds what.
        number: In the file.
        row: Column of the table -> cell.

    Raises:
        ValueError: The reason in words.
    """
    get = {ours: row[theirs] for ours, theirs in layout.columns.items()}
    if not get["method"]:
        raise ValueError("no method")
    kind = get.get("kind") or "method"
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    status = get.get("status") or "ok"
    unknown = get.get("flops_unknown", "")
    if unknown and get["flops"]:
        raise ValueError(f"flops are {get['flops']}, and said to be unknown")
    zero = kind == "baseline" or status != "ok"
    flops, has_unit = (None, False) if unknown else _flops(layout, get["flops"], zero=zero)
    score = _score(layout, get, ok=status == "ok")
    extra = {column: row[column] for column in layout.unread if row[column]}
    settings: dict[str, Any] = {**extra, "method": get["method"]}
    settings |= {name: get[name] for name in ("note", "flops_unknown") if get.get(name)}
    parameters = get.get("parameters")
    budget = get.get("budget")
    made = Row(
        run_id=get.get("run_id") or f"line {number}",
        label=f"{get['method']} {get['variant']}" if get.get("variant") else get["method"],
        kind=kind,  # type: ignore[arg-type]  # one of KINDS
        backbone=get.get("model", ""),
        dataset=get.get("data", ""),
        seed=cells.integer(get.get("seed"), "seed"),
        budget=cells.flops_of(budget)[0] if budget else (None if layout.own else flops),
        flops={"pretrain": flops},
        steps=cells.integer(get.get("steps"), "steps"),
        parameters=int(cells.number(parameters, "parameters", positive=True)) if parameters else None,
        scores=() if score is None else (score,),
        status=status,
        candidate=get.get("candidate", ""),
        tuning=cells.integer(get.get("tuning"), "tuning"),
        settings=settings,
    )
    has_direction = bool(get.get("higher_is_better"))
    return Line(number=number, row=made, has_unit=has_unit, has_direction=has_direction, cells=tuple(row.values()))


def _flops(layout: Layout, cell: str, *, zero: bool) -> tuple[int | None, bool]:
    if not cell and layout.own:
        return None, False  # a report's empty cell is a cost that is not known
    if layout.factor is None:
        flops, has_unit = cells.flops_of(cell)
    else:
        flops, has_unit = round(cells.number(cell, "flops") * layout.factor), False
    if flops < 0 or (flops == 0 and not zero):
        raise ValueError(f"flops are {cell}; only a row of kind 'baseline' may cost nothing")
    return flops, has_unit


def _score(layout: Layout, get: Mapping[str, str], *, ok: bool) -> Score | None:
    if not get["score"]:
        if ok and not (layout.own and not get.get("protocol")):  # a report lists runs without any score, too
            raise ValueError("no score")
        return None
    value = cells.number(get["score"], "score")
    unit = get.get("unit", "")
    if unit == "%" and not 0 <= value <= 100:
        raise ValueError(f"the score {value:g} is no percentage")
    sd, n = get.get("sd"), get.get("n")
    if sd and not (n and cells.integer(n, "n") >= 2):
        raise ValueError("a standard deviation needs n, the number of values, two or more")
    task = get.get("task") or "score"
    return Score(
        evaluator=task,
        protocol=get.get("protocol") or task,
        metric=get.get("metric") or "score",
        value=value,
        sd=cells.number(sd, "sd") if sd else None,
        n=cells.integer(n, "n") if sd else 1,
        higher_is_better=cells.truth(get.get("higher_is_better")),
        dataset=get.get("scored", ""),
        split=get.get("split", ""),
        unit=unit,
    )
