"""What can be said of every point, and of a budget: verdicts by one rule, which the report prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spendflops.study.compare import ALPHA, Comparison, Estimate, compare
from spendflops.study.frontier.crossover import Crossover, crossovers
from spendflops.study.frontier.curves import (
    COST_TOLERANCE,
    Point,
    at,
    curves,
    one_axis,
    points,
    select,
    varying,
)
from spendflops.study.frontier.pareto import non_dominated
from spendflops.study.points import Axis, Cost, Row

RULE = (
    f"A point is on the front if nothing that costs as much or less scores higher. A budget counts as spent in full, "
    f"and costs within {COST_TOLERANCE:.0%} of each other count as equal. Every other point is compared with the best "
    f"score at its cost or less: it is behind only if Welch's t test (two-sided, {ALPHA:.0%}) separates the two, else "
    "it is not distinguishable; the noise beside a difference is what the difference has to exceed. The score of "
    "several seeds is their median, its standard error sd / sqrt(n) times that of a median over that of a mean, 1.16 "
    "for three seeds and 1.25 for many; with one seed it is sd / sqrt(n) of the spread inside the evaluation. Without "
    "any spread nothing is called distinguishable. No correction is made for the number of comparisons."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be said of a point.

    Attributes:
        status: ``"on the front"``, ``"behind"``, ``"not distinguishable"`` or ``"floor"``.
        against: The best other point at its cost or less.
        ties: Points at its cost or less (floors apart) that it is not distinguishable from.
        random: The comparison with a random backbone under the same protocol.
    """

    point: Point
    status: str
    against: Point | None = None
    comparison: Comparison | None = None
    ties: tuple[Point, ...] = ()
    random: Comparison | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a curve offers at a budget: interpolated between two points, or its last point below the budget."""

    name: str
    flops: float
    estimate: Estimate
    random: Comparison | None
    against_best: Comparison | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Candidates at a budget, best first; ``missing`` are curves measured only above it."""

    budget: int
    candidates: tuple[Candidate, ...]
    missing: tuple[str, ...]

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """The candidates that are not distinguishable from the best."""
        return tuple(c for c in self.candidates[1:] if c.against_best and not c.against_best.distinguishable)

    @property
    def behind(self) -> tuple[Candidate, ...]:
        """The candidates that are."""
        return tuple(c for c in self.candidates[1:] if c.against_best and c.against_best.distinguishable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything said about one axis."""

    axis: Axis
    points: tuple[Point, ...]
    verdicts: tuple[Verdict, ...]
    curves: dict[str, tuple[Point, ...]]
    crossovers: tuple[Crossover, ...]
    answer: Answer | None
    unplaced: tuple[Row, ...]

    @property
    def front(self) -> tuple[Point, ...]:
        """The points on the front, by cost."""
        found = (v.point for v in self.verdicts if v.status == "on the front")
        return tuple(sorted(found, key=lambda p: (p.flops, p.estimate.value)))


def answer(items: Sequence[Point], budget: int) -> Answer | None:
    """What the curves offer at a budget, within what was measured; ``None`` if nothing costs that little."""
    axis = one_axis(point.axis for point in items)
    offers, missing = [], []
    for name, curve in curves(items).items():
        flops, estimate = float(budget), at(curve, budget)
        if estimate is None and curve[-1].flops < budget:
            flops, estimate = float(curve[-1].flops), curve[-1].estimate
        if estimate is None:
            missing.append(name)
        else:
            random = _random_of(items, curve[0])
            versus = compare(estimate, random.estimate, axis) if random else None
            offers.append(Candidate(name=name, flops=flops, estimate=estimate, random=versus))
    if not offers:
        return None
    offers.sort(key=lambda c: -c.estimate.value * axis.sign)
    best = offers[0]
    rest = (dataclasses.replace(c, against_best=compare(best.estimate, c.estimate, axis)) for c in offers[1:])
    return Answer(budget=budget, candidates=(best, *rest), missing=tuple(missing))


def _random_of(items: Sequence[Point], point: Point) -> Point | None:
    """The random backbone of the same architecture."""
    backbone = point.rows[0].backbone
    return next((p for p in items if p.floor and p.rows[0].label == "random" and p.rows[0].backbone == backbone), None)


def verdicts(items: Sequence[Point]) -> list[Verdict]:
    """A verdict a point, by :data:`RULE`."""
    axis = one_axis(point.axis for point in items)
    values = [p.estimate.value for p in items]
    keep = non_dominated([p.cost for p in items], values, maximise=axis.higher_is_better, tolerance=COST_TOLERANCE)
    result = []
    for point, on_front in zip(items, keep, strict=True):
        random = _random_of(items, point)
        versus = compare(point.estimate, random.estimate, axis) if random and random is not point else None
        rivals = [p for p in items if p is not point and p.cost <= point.cost * (1 + COST_TOLERANCE)]
        if point.floor or not rivals:
            status = "floor" if point.floor else "on the front"
            result.append(Verdict(point=point, status=status, random=versus))
            continue
        rivals.sort(key=lambda p: -p.estimate.value * axis.sign)
        best = rivals[0]
        comparison = compare(point.estimate, best.estimate, axis)
        ties = (p for p in rivals if not p.floor and not compare(point.estimate, p.estimate, axis).distinguishable)
        behind = "behind" if comparison.distinguishable else "not distinguishable"
        result.append(
            Verdict(
                point=point,
                status="on the front" if on_front else behind,
                against=best,
                comparison=comparison,
                ties=tuple(ties),
                random=versus,
            )
        )
    return result


def analyse(rows: Sequence[Row], axis: Axis, *, cost: Cost = "paid", budget: int | None = None) -> Analysis:
    """Points, verdicts, curves, crossings and the answer at a budget (by default the largest cost) on one axis."""
    pairs = select(rows, axis)
    items = sorted(points(pairs, cost=cost, vary=varying(rows)), key=lambda p: (not p.floor, p.kind, p.name, p.flops))
    placed = [p for p in items if not p.floor]
    target = budget if budget is not None else max((p.cost for p in placed), default=0)
    return Analysis(
        axis=axis,
        points=tuple(items),
        verdicts=tuple(verdicts(items)) if items else (),
        curves=curves(items) if items else {},
        crossovers=tuple(crossovers(items)) if any(p.kind != "baseline" for p in items) else (),
        answer=answer(items, target) if placed else None,
        unplaced=tuple(row for row, _ in pairs if row.cost(cost) is None),
    )
