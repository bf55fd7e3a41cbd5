"""What the lines of a table must agree in: how FLOPs and scores are written, and that no run is there twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from spendflops.contracts.errors import DataError
from spendflops.study.points import Axis, Row, Score

_LESS = re.compile(
    r"(?:^|[^a-z])(?:errors?|err|loss|losses|nll|ppl|perplexity|fid|rmse|mse|ece|eer|wer|cer|bpd|(?:cross_?)?entropy)(?:$|[^a-z])"
)
"""Names of scores of which less is better."""
SHOWN = 8
"""Lines that a message names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table.

    Attributes:
        number: In the file.
        has_unit: Whether a unit stood beside its FLOPs.
        has_direction: Whether it says if more is better.
        cells: As they stand there.
    """

    number: int
    row: Row
    has_unit: bool
    has_direction: bool
    cells: tuple[str, ...]

    @property
    def score(self) -> Score | None:
        """The one score of a line, if it has one."""
        return self.row.scores[0] if self.row.scores else None


def numbers_of(lines: Iterable[Line]) -> str:
    """``line 2``, or ``lines 2, 4``."""
    numbers = [line.number for line in lines]
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def check_flops_form(name: str, found: Sequence[Line]) -> None:
    """Raises DataError where some FLOPs have a unit and others none."""
    with_unit = [line for line in found if line.has_unit]
    without = [line for line in found if not line.has_unit and line.row.flops["pretrain"]]
    if with_unit and without:
        raise DataError(
            f"{name}: FLOPs with a unit ({numbers_of(with_unit)}) and without one ({numbers_of(without)})",
            why="a number without a unit may have been meant in the unit of the others",
            fix="write all of them in one way",
        )


def check_direction(name: str, found: Sequence[Line], column: str) -> None:
    """Raises DataError where a score is called as if less were better, and no line says which.

    Args:
        name: For messages.
        found: The lines.
        column: The table's own name of its scores.
    """
    silent = [line for line in found if line.score is not None and not line.has_direction]
    for line in silent:
        assert line.score is not None
        called = next((n for n in (line.score.metric, column, line.score.evaluator) if _LESS.search(n.lower())), "")
        if called:
            raise DataError(
                f"{name}: is less of {called!r} better ({numbers_of(silent)})?",
                why="its name says so, and without a word on it more is better",
                fix="add a column 'higher_is_better': false, or true if more is better",
            )


def check_axes(name: str, found: Sequence[Line]) -> None:
    """Raises DataError where scores that differ in nothing else have two units or directions, or look like it."""
    groups: dict[Axis, list[Line]] = {}
    for line in found:
        if line.score is not None:
            plain = dataclasses.replace(line.score.axis, unit="", higher_is_better=True)
            groups.setdefault(plain, []).append(line)
    for axis, lines in groups.items():
        parts: dict[Any, list[Line]] = {}
        for line in lines:
            assert line.score is not None
            parts.setdefault((line.score.unit or "no unit", line.score.higher_is_better), []).append(line)
        if len(parts) > 1:
            named = [
                f"{unit}, {'higher' if up else 'lower'} is better: {numbers_of(ls)}" for (unit, up), ls in parts.items()
            ]
            raise DataError(
                f"{name}: scores of {axis.protocol} ({axis.metric}) are given in {len(parts)} ways",
                why="; ".join(named),
                fix="one unit and one direction, or another protocol for what is something else",
            )
        _check_fractions(name, axis, lines)


def small_percentages(found: Sequence[Line]) -> str:
    """What is to be said of scores in % that may be fractions; empty where none looks like it.

    No error: a method that failed, or a baseline, may well have 0.4 % of what others have.
    """
    groups: dict[Axis, list[tuple[Line, float]]] = {}
    for line in found:
        if line.score is not None and line.score.unit == "%":
            groups.setdefault(line.score.axis, []).append((line, line.score.value))
    small = [
        line
        for pairs in groups.values()
        for line, value in pairs
        if line.row.kind != "baseline" and 0 < value <= 1 and max(v for _, v in pairs) > 10 * value
    ]
    if not small:
        return ""
    verb = "are" if len(small) > 1 else "is"
    return (
        f"{numbers_of(small)} {verb} read as at most 1 %, less than a tenth of the best: a fraction would look like it"
    )


def _check_fractions(name: str, axis: Axis, lines: Sequence[Line]) -> None:
    scored = [(line, line.score.value) for line in lines if line.score is not None and not line.score.unit]
    small = [(line, value) for line, value in scored if 0 < value <= 1]
    large = [(line, value) for line, value in scored if value > 1.5]
    if small and large and min(v for _, v in large) > 10 * max(v for _, v in small):
        raise DataError(
            f"{name}: scores of {axis.protocol} ({axis.metric}) look like fractions in "
            f"{numbers_of(a for a, _ in small)} and like percentages in {numbers_of(b for b, _ in large)}",
            why="they have no unit, and differ by more than a factor of ten",
            fix="write one of the two; a column 'unit' says that they are what they are",
        )


def check_repeats(name: str, found: Sequence[Line], *, has_seeds: bool) -> None:
    """Raises DataError where two lines are one run."""
    seen: dict[tuple, Line] = {}
    for line in found:
        row = line.row
        if line.score is None or row.kind == "tuning" or not row.ok:
            continue
        key = (row.kind, row.label, row.backbone, row.dataset, row.budget, row.seed, line.score.axis)
        first = seen.setdefault(key, line)
        if first is not line:
            again = "delete one of the two, whose cells are equal" if line.cells == first.cells else ""
            raise DataError(
                f"{name}: {numbers_of([first, line])} are the same run: {row.label}, {row.budget or 0:.4g} FLOPs, "
                f"seed {row.seed}, {line.score.axis.protocol}",
                why="a run has one score an axis",
                fix=again or ("correct its seed" if has_seeds else "add a column 'seed'"),
            )
