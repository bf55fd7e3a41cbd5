"""Scores over the number of labelled examples, and what pre-training gains at each: diminishing returns.

Differences are paired: the same transfer with the same seed, with and without. So what a seed does to both, its labels
and its order, cancels. Pure functions of rows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from spendflops.study.frontier import NotEnough, curve_name, varying
from spendflops.study.frontier.paired import Mean, difference, mean
from spendflops.study.points import SCRATCH, Axis, Row, Score

_TRAINED = re.compile(r":(\w+)\[.*\]#[0-9a-f]{6}$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """What ``name`` scores more than ``over``, by number of labelled examples; positive is better."""

    name: str
    over: str
    by_labels: dict[int, Mean]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Scores of one evaluation after transfers that differ in the number of labelled examples.

    Attributes:
        axis: Of the first of them; what training on these labels adds to its protocol differs between them.
        sizes: Numbers of labelled examples, ascending.
        curves: Method -> number of labelled examples -> score.
        gains: Over training without pre-training; and of ``"A + b"`` over ``"A"``.
    """

    axis: Axis
    sizes: tuple[int, ...]
    curves: dict[str, dict[int, Mean]]
    gains: tuple[Gain, ...]


def by_labels(rows: Iterable[Row]) -> list[Labels]:
    """One :class:`Labels` for every evaluation that was made after transfers of two or more sizes."""
    rows = [row for row in rows if row.ok and row.transfer and row.kind != "tuning" and row.labelled]
    vary = varying([row for row in rows if row.label != SCRATCH])
    several = len({row.budget for row in rows if row.budget is not None}) > 1
    groups: dict[tuple, list[tuple[str, Row, Score]]] = {}
    for row in rows:
        name = curve_name(row, vary) if row.label != SCRATCH else SCRATCH
        name += f" at {row.budget:.0e}".replace("e+", "e") if several and row.budget is not None else ""
        for score in row.scores:
            key = dataclasses.replace(score.axis, protocol=_TRAINED.sub(r":\1", score.protocol))
            groups.setdefault((key,), []).append((name, row, score))
    return [found for group in groups.values() if (found := _labels(group)) is not None]


def _labels(group: list[tuple[str, Row, Score]]) -> Labels | None:
    values: dict[str, dict[int, dict[int, float]]] = {}
    for name, row, score in group:
        values.setdefault(name, {}).setdefault(row.labelled or 0, {})[row.seed] = score.value
    sizes = sorted({size for scores in values.values() for size in scores})
    if len(sizes) < 2:
        return None
    axis = group[0][2].axis
    pairs = [(name, SCRATCH) for name in values if name != SCRATCH and SCRATCH in values]
    pairs += [(name, base) for name in values for base in values if name.startswith(f"{base} + ")]
    return Labels(
        axis=axis,
        sizes=tuple(sizes),
        curves={n: {size: mean(list(s[size].values())) for size in sizes if size in s} for n, s in values.items()},
        gains=tuple(_gain(name, over, values, axis.sign) for name, over in pairs),
    )


def _gain(name: str, over: str, values: dict[str, dict[int, dict[int, float]]], sign: int) -> Gain:
    found = {}
    for size in sorted(set(values[name]) & set(values[over])):
        gain = difference(values[name][size], values[over][size], sign=sign)
        if not isinstance(gain, NotEnough):
            found[size] = gain.mean
    return Gain(name=name, over=over, by_labels=found)
