"""Anybody's table of runs: a CSV with a line a run and score, read into the rows that everything here takes.

Three columns are needed, ``method``, ``flops`` and ``score``; :data:`COLUMNS` names the others. A table with other
names is read with a mapping, ``{"flops": "total_gflops*1e9"}``. The ``points.csv`` of a report is known by its
columns.

Nothing is dropped in silence: whatever cannot be read is an error that names its lines, and all of them at once.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.study.points import Axis, Row, Score

COLUMNS = {
    "method": "what was compared",
    "flops": "spent in all, the place on the axis: 3e18, or 3 EFLOP",
    "score": "a number",
    "flops_unknown": "why the FLOPs are not known; then their cell is empty, and the row is on no curve",
    "variant": "of the method, as a mask ratio: a curve of its own, one envelope with the others",
    "model": "backbone",
    "data": "of pre-training",
    "seed": "an integer; 0 without the column",
    "budget": "FLOPs that were to be spent, which the seeds of a point have in common; the FLOPs without the column",
    "steps": "optimiser steps",
    "parameters": "of the model",
    "task": "what was scored",
    "metric": "name of the score",
    "protocol": "how it was scored; two protocols never share an axis",
    "scored": "data of the score",
    "split": "of these data",
    "unit": "of the score, as %",
    "higher_is_better": "true or false; true without the column",
    "sd": "standard deviation inside the evaluation, of n values",
    "n": "how many",
    "kind": "method, baseline (may cost nothing), transfer, or tuning (only chose settings)",
    "candidate": "the settings that a tuning run tried",
    "tuning": "FLOPs that choosing the settings has cost",
    "status": "ok, or why it failed; then it needs no score",
    "note": "shown beside the score",
    "run_id": "name of the run",
}
REQUIRED = ("method", "flops", "score")
KINDS = ("method", "baseline", "transfer", "tuning")
OWN = {
    "method": "label",
    "flops": "flops_paid",
    "score": "value",
    "model": "backbone",
    "data": "dataset",
    "task": "evaluator",
    "scored": "eval_dataset",
    "split": "eval_split",
} | {
    name: name
    for name in (
        *("run_id", "kind", "seed", "budget", "steps", "status", "candidate", "tuning"),
        *("metric", "protocol", "unit", "higher_is_better", "sd", "n"),
    )
}
"""Columns of a report's ``points.csv``."""

_SHOWN = 8
_PREFIXED = re.compile(
    r"(?:^|[^a-z])(?:(?:[kmgtpezy]|kilo|mega|giga|tera|peta|exa|zetta)[ _-]?(?:flop|mac)|macs?(?:$|[^a-z]))",
    re.IGNORECASE,
)


def read(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> tuple[Row, ...]:
    """The rows of a CSV file; see :func:`parse`.

    Raises:
        DataError: No such file, or not text; and as :func:`parse`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}", why=str(error), fix="give a CSV file in UTF-8") from error
    return parse(text, columns, name=Path(path).name)


def parse(text: str, columns: Mapping[str, str] | None = None, *, name: str = "the table") -> tuple[Row, ...]:
    """The rows of a CSV.

    Args:
        text: With a header line.
        columns: Column of ours -> column of the table; for ``flops`` perhaps with a factor, ``"gmacs*2e9"``. Columns of
            our names need none.
        name: For messages.

    Returns:
        A row a line, in their order. Columns that are not of ours become ``settings``.

    Raises:
        DataError: Lines that cannot be read or mean two things at once, by number.
        ConfigError: A mapping of columns that are not there.
    """
    header, lines = _cells(text, name)
    layout = _layout(header, dict(columns or {}), name)
    found: list[_Line] = []
    wrong: list[tuple[int, str]] = []
    for number, cells in lines:
        if len(cells) != len(header):
            wrong.append((number, f"{len(cells)} cells under {len(header)} columns"))
            continue
        try:
            found.append(layout.line(number, dict(zip(header, cells, strict=True))))
        except ValueError as error:
            wrong.append((number, str(error)))
    if wrong:
        _refuse(name, wrong, "correct these lines; a run that failed has a reason in a column 'status'")
    _check_flops_form(name, found)
    _check_axes(name, found)
    _check_repeats(name, found, has_seeds="seed" in layout.columns)
    return tuple(line.row for line in found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    row: Row
    has_unit: bool

    @property
    def score(self) -> Score | None:
        return self.row.scores[0] if self.row.scores else None


def _cells(text: str, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} is no CSV", why=str(error)) from error
    if len(lines) < 2:
        raise DataError(f"{name} has no runs", why="it needs a header and a line a run", fix="see docs/answer.md")
    header = lines[0][1]
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise DataError(f"{name} has two columns called {repeated[0]!r}", fix="rename one")
    return header, lines[1:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which column holds what."""

    columns: Mapping[str, str]
    factor: float | None
    own: bool

    def line(self, number: int, cells: Mapping[str, str]) -> _Line:
        """Raises ValueError with the reason in words."""
        get = {ours: cells[theirs] for ours, theirs in self.columns.items()}
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
        flops, has_unit = (None, False) if unknown else self._flops(get["flops"], zero=zero)
        score = self._score(get, ok=status == "ok")
        extra = {k: v for k, v in cells.items() if k not in self.columns.values() and v} if not self.own else {}
        settings: dict[str, Any] = {**extra, "method": get["method"]}
        settings |= {name: get[name] for name in ("note", "flops_unknown") if get.get(name)}
        if get.get("parameters"):
            settings["parameters"] = _number(get["parameters"], "parameters", positive=True)
        budget = get.get("budget")
        row = Row(
            run_id=get.get("run_id") or f"line {number}",
            label=f"{get['method']} {get['variant']}" if get.get("variant") else get["method"],
            kind=kind,  # type: ignore[arg-type]  # one of KINDS
            backbone=get.get("model", ""),
            dataset=get.get("data", ""),
            seed=_integer(get.get("seed"), "seed"),
            budget=_flops_of(budget)[0] if budget else (None if self.own else flops),
            flops={"pretrain": flops},
            steps=_integer(get.get("steps"), "steps"),
            scores=() if score is None else (score,),
            status=status,
            candidate=get.get("candidate", ""),
            tuning=_integer(get.get("tuning"), "tuning"),
            settings=settings,
        )
        return _Line(number=number, row=row, has_unit=has_unit)

    def _flops(self, cell: str, *, zero: bool) -> tuple[int | None, bool]:
        if not cell and self.own:
            return None, False  # a report's empty cell is a cost that is not known
        if self.factor is None:
            flops, has_unit = _flops_of(cell)
        else:
            flops, has_unit = round(_number(cell, "flops") * self.factor), False
        if flops < 0 or (flops == 0 and not zero):
            raise ValueError(f"flops are {cell}; only a row of kind 'baseline' may cost nothing")
        return flops, has_unit

    def _score(self, get: Mapping[str, str], *, ok: bool) -> Score | None:
        if not get["score"]:
            if ok and not (self.own and not get.get("protocol")):  # a report lists runs without any score, too
                raise ValueError("no score")
            return None
        value = _number(get["score"], "score")
        unit = get.get("unit", "")
        if unit == "%" and not 0 <= value <= 100:
            raise ValueError(f"the score {value:g} is no percentage")
        sd, n = get.get("sd"), get.get("n")
        if sd and not (n and _integer(n, "n") >= 2):
            raise ValueError("a standard deviation needs n, the number of values, two or more")
        task = get.get("task") or "score"
        return Score(
            evaluator=task,
            protocol=get.get("protocol") or task,
            metric=get.get("metric") or "score",
            value=value,
            sd=_number(sd, "sd") if sd else None,
            n=_integer(n, "n") if sd else 1,
            higher_is_better=_truth(get.get("higher_is_better")),
            dataset=get.get("scored", ""),
            split=get.get("split", ""),
            unit=unit,
        )


def _layout(header: Sequence[str], given: dict[str, str], name: str) -> _Layout:
    own = set(OWN.values()) <= set(header)
    columns = dict(OWN) if own else {column: column for column in COLUMNS if column in header}
    factor = None
    for ours, theirs in given.items():
        if ours not in COLUMNS:
            raise ConfigError(f"{ours!r} is no column of ours{suggest(ours, list(COLUMNS))}", why=", ".join(COLUMNS))
        theirs, star, times = theirs.partition("*") if ours == "flops" else (theirs, "", "")
        if theirs not in header:
            raise ConfigError(
                f"{name} has no column {theirs!r}{suggest(theirs, list(header))}", why=f"it has {', '.join(header)}"
            )
        if star:
            try:
                factor = _number(times, "factor", positive=True)
            except ValueError as error:
                raise ConfigError(f"{ours}={theirs}*{times}: {error}", fix="flops=gmacs*2e9") from error
        columns[ours] = theirs
    absent = [column for column in REQUIRED if column not in columns]
    if absent:
        raise DataError(
            f"{name} has no column {absent[0]!r}",
            why=f"its columns are {', '.join(header)}",
            fix=f"say which one it is: --column {absent[0]}=NAME",
        )
    prefixed = _PREFIXED.search(columns["flops"])
    if prefixed and factor is None:
        raise DataError(
            f"{name}: are the numbers of {columns['flops']!r} FLOPs?",
            why="the name has a prefix, or counts multiply-adds",
            fix=f"give the factor: --column 'flops={columns['flops']}*1e9' (2e9 for billions of multiply-adds)",
        )
    return _Layout(columns=columns, factor=factor, own=own)


def _number(cell: str, what: str, *, positive: bool = False) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{what} is {cell!r}, not a number") from None
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f"{what} is {cell}")
    return value


def _integer(cell: str | None, what: str) -> int:
    if not cell:
        return 0
    value = _number(cell, what)
    if value != int(value):
        raise ValueError(f"{what} is {cell!r}, not a whole number")
    return int(cell) if re.fullmatch(r"[+-]?\d+", cell) else int(value)


def _flops_of(cell: str) -> tuple[int, bool]:
    """Exact FLOPs, and whether a unit stood beside the number."""
    if re.fullmatch(r"\s*-\s*[\d.].*", cell):
        raise ValueError(f"flops are {cell}")
    try:
        parsed = budgets.parse(cell)
    except ConfigError:
        parsed = None
    if parsed is None or parsed.unit != "flops":
        raise ValueError(f"flops are {cell!r}, not a number such as 3e18 or 3 EFLOP")
    return int(parsed.amount), "FLOP" in cell


def _truth(cell: str | None) -> bool:
    known = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if (cell or "").lower() not in known:
        raise ValueError(f"higher_is_better is {cell!r}: true or false")
    return known[(cell or "").lower()]


def _refuse(name: str, wrong: Sequence[tuple[int, str]], fix: str) -> None:
    shown = "; ".join(f"line {number}: {reason}" for number, reason in wrong[:_SHOWN])
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    count = f"{len(wrong)} lines" if len(wrong) > 1 else "1 line"
    raise DataError(f"{name}: {count} cannot be read", why=shown + more, fix=fix)


def _lines(lines: Iterable[_Line]) -> str:
    numbers = [line.number for line in lines]
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def _check_flops_form(name: str, found: Sequence[_Line]) -> None:
    with_unit = [line for line in found if line.has_unit]
    without = [line for line in found if not line.has_unit and line.row.flops["pretrain"]]
    if with_unit and without:
        raise DataError(
            f"{name}: FLOPs with a unit ({_lines(with_unit)}) and without one ({_lines(without)})",
            why="a number without a unit may have been meant in the unit of the others",
            fix="write all of them in one way",
        )


def _check_axes(name: str, found: Sequence[_Line]) -> None:
    """One unit and one direction for scores that differ in nothing else."""
    groups: dict[Axis, list[_Line]] = {}
    for line in found:
        if line.score is not None:
            plain = dataclasses.replace(line.score.axis, unit="", higher_is_better=True)
            groups.setdefault(plain, []).append(line)
    for axis, lines in groups.items():
        parts: dict[Any, list[_Line]] = {}
        for line in lines:
            assert line.score is not None
            parts.setdefault((line.score.unit or "no unit", line.score.higher_is_better), []).append(line)
        if len(parts) > 1:
            named = [
                f"{unit}, {'higher' if up else 'lower'} is better: {_lines(ls)}" for (unit, up), ls in parts.items()
            ]
            raise DataError(
                f"{name}: scores of {axis.protocol} ({axis.metric}) are given in {len(parts)} ways",
                why="; ".join(named),
                fix="one unit and one direction, or another protocol for what is something else",
            )
        _check_fractions(name, axis, lines)


def _check_fractions(name: str, axis: Axis, lines: Sequence[_Line]) -> None:
    scored = [(line, line.score.value) for line in lines if line.score is not None and not line.score.unit]
    small = [(line, value) for line, value in scored if 0 < value <= 1]
    large = [(line, value) for line, value in scored if value > 1.5]
    if small and large and min(v for _, v in large) > 10 * max(v for _, v in small):
        raise DataError(
            f"{name}: scores of {axis.protocol} ({axis.metric}) look like fractions in {_lines(a for a, _ in small)} "
            f"and like percentages in {_lines(b for b, _ in large)}",
            why="they have no unit, and differ by more than a factor of ten",
            fix="write one of the two; a column 'unit' says that they are what they are",
        )


def _check_repeats(name: str, found: Sequence[_Line], *, has_seeds: bool) -> None:
    seen: dict[tuple, _Line] = {}
    for line in found:
        row = line.row
        if line.score is None or row.kind == "tuning" or not row.ok:
            continue
        key = (row.kind, row.label, row.backbone, row.dataset, row.budget, row.seed, line.score.axis)
        first = seen.setdefault(key, line)
        if first is not line:
            raise DataError(
                f"{name}: {_lines([first, line])} are the same run: {row.label}, {row.budget or 0:.4g} FLOPs, "
                f"seed {row.seed}, {line.score.axis.protocol}",
                why="a run has one score an axis",
                fix="correct its seed" if has_seeds else "add a column 'seed'",
            )
