"""What a method offers if its variants (model sizes, mask ratios, decoders) may be chosen: the envelope of their
curves.

Koppula et al. 2022 (arXiv 2209.15589) draw MAE in figures 1 and 2 as the envelope over its mask ratios, and give in
table 1 the one variant that is best in all. Both choose by the scores that they report: the best of several noisy
scores is too high on average, the more so the more variants a method has. ``variants`` says how many there were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from spendflops.study.frontier.curves import COST_TOLERANCE, Point, one_axis
from spendflops.study.frontier.pareto import non_dominated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Envelope:
    """The points of one method that no other point of it dominates, by FLOPs.

    Attributes:
        variants: Curves that it was chosen from.
        best: The variant with the best score of all: what to give if one must be fixed for all budgets.
    """

    name: str
    points: tuple[Point, ...]
    variants: tuple[str, ...]
    best: str


def method_of(point: Point) -> str:
    """The method of a point: ``settings["method"]`` of its rows, where a table has variants, else the label."""
    first = point.rows[0]
    return str(first.settings.get("method", first.label))


def envelopes(items: Sequence[Point], *, family: Callable[[Point], str] = method_of) -> dict[str, Envelope]:
    """An envelope a method.

    Args:
        items: Points of one axis; those that cost nothing have no place.
        family: The method that a point is a variant of.

    Raises:
        ConfigError: Points of two axes.
    """
    axis = one_axis(point.axis for point in items)
    groups: dict[str, list[Point]] = {}
    for point in sorted(items, key=lambda p: p.flops):
        if point.flops > 0:
            groups.setdefault(family(point), []).append(point)
    result = {}
    for name, group in groups.items():
        costs, values = [p.cost for p in group], [p.estimate.value for p in group]
        keep = non_dominated(costs, values, maximise=axis.higher_is_better, tolerance=COST_TOLERANCE)
        best = max(group, key=lambda p: (p.estimate.value * axis.sign, -p.flops))
        result[name] = Envelope(
            name=name,
            points=tuple(p for p, kept in zip(group, keep, strict=True) if kept),
            variants=tuple(dict.fromkeys(p.name for p in group)),
            best=best.name,
        )
    return result
