"""Which point is worth its FLOPs: the front, curves, crossings, and what the spread of the scores lets one say.

Pure functions of rows. Two axes never meet: everything here takes the points of one protocol on one data set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

from spendflops.contracts.errors import ConfigError
from spendflops.study.compare import ALPHA, Comparison, Estimate, compare, summarise
from spendflops.study.points import Axis, Cost, Row, Score

COST_TOLERANCE = 0.05
RULE = (
    f"A point is on the front if nothing that costs as much or less scores higher. A budget counts as spent in full, "
    f"and costs within {COST_TOLERANCE:.0%} of each other count as equal. Every other point is compared with the best "
    f"score at its cost or less: it is behind only if Welch's t test (two-sided, {ALPHA:.0%}) separates the two, else "
    "it is not distinguishable; the noise beside a difference is what the difference has to exceed. The score of "
    "several seeds is their median, its standard error 1.25 sd / sqrt(n) from three seeds on; with one seed it is "
    "sd / sqrt(n) of the spread inside the evaluation. Without any spread nothing is called distinguishable. No "
    "correction is made for the number of comparisons."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """All seeds of one method, backbone, data set and budget on one axis.

    Attributes:
        name: The curve it belongs to.
        flops: What was spent, the place on the axis.
        cost: As ``flops``, with the budget spent in full: what is compared.
    """

    name: str
    kind: str
    axis: Axis
    budget: int | None
    flops: int
    cost: int
    estimate: Estimate
    rows: tuple[Row, ...]

    @property
    def floor(self) -> bool:
        """A baseline that costs nothing, such as a random backbone: a horizontal line."""
        return self.kind == "baseline" and self.flops == 0


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
class Crossover:
    """``dear`` is ahead from ``flops`` on; ``clear`` if the order on both sides is distinguishable."""

    cheap: str
    dear: str
    flops: float
    value: float
    clear: bool


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


def non_dominated(
    costs: Sequence[float], scores: Sequence[float], *, maximise: bool = True, tolerance: float = 0.0
) -> list[bool]:
    """Which points nothing dominates: lower cost and better score.

    A point is dominated by a strictly better score at its cost or less, or by an equal score at less. Costs within the
    relative ``tolerance`` are equal.
    """
    sign = 1 if maximise else -1
    pairs = [(cost, sign * score) for cost, score in zip(costs, scores, strict=True)]

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return (a[1] > b[1] and a[0] <= b[0] * (1 + tolerance)) or (a[1] == b[1] and a[0] * (1 + tolerance) < b[0])

    return [not any(dominates(other, pair) for other in pairs) for pair in pairs]


def hypervolume(costs: Sequence[float], scores: Sequence[float], *, reference: tuple[float, float]) -> float:
    """Area dominated by the points up to the reference (highest cost, lowest score), for scores to maximise."""
    worst, least = reference
    keep = non_dominated(costs, scores)
    kept = {(c, s) for c, s, on_front in zip(costs, scores, keep, strict=True) if on_front}
    front = sorted((c, s) for c, s in kept if c < worst and s > least)
    ends = [*(cost for cost, _ in front), worst]
    widths = (end - cost for cost, end in itertools.pairwise(ends))
    return sum(width * (score - least) for width, (_, score) in zip(widths, front, strict=True))


def select(rows: Iterable[Row], axis: Axis) -> list[tuple[Row, Score]]:
    """The finished rows with a score on the axis."""
    found = (row for row in rows if row.ok and row.kind != "tuning")
    return [(row, score) for row in found for score in row.scores if score.axis == axis]


def one_axis(axes: Iterable[Axis]) -> Axis:
    """The axis that all share.

    Raises:
        ConfigError: Two protocols, metrics or data sets, or none at all.
    """
    found = list(dict.fromkeys(axes))
    if len(found) != 1:
        names = [f"{axis.protocol} ({axis.metric}, {axis.place or 'no data set named'})" for axis in found]
        raise ConfigError(
            f"{len(found)} protocols for one axis: {', '.join(names)}",
            why="scores of different protocols, metrics or data sets do not compare",
            fix="analyse each axis on its own",
        )
    return found[0]


def varying(rows: Iterable[Row]) -> tuple[str, ...]:
    """The parts of a curve's name beside the label that are needed to tell the rows apart."""
    rows = list(rows)
    return tuple(f for f in ("backbone", "dataset") if len({getattr(r, f) for r in rows if getattr(r, f)}) > 1)


def curve_name(row: Row, vary: tuple[str, ...]) -> str:
    """The label, with backbone and data set where these vary."""
    return "/".join([row.label, *(getattr(row, field) for field in vary if getattr(row, field))])


def points(pairs: Iterable[tuple[Row, Score]], *, cost: Cost = "paid", vary: tuple[str, ...] = ()) -> list[Point]:
    """Rows that differ by their seed alone become one point: median score, the spread over seeds.

    Raises:
        ConfigError: Scores of more than one axis, or two rows of one seed.
    """
    groups: dict[tuple, list[tuple[Row, Score]]] = {}
    for row, score in pairs:
        groups.setdefault((row.kind, row.label, row.backbone, row.dataset, row.budget), []).append((row, score))
    axis = one_axis(score.axis for group in groups.values() for _, score in group)
    result = []
    for group in groups.values():
        rows = tuple(row for row, _ in group)
        seeds = [row.seed for row in rows]
        if len(set(seeds)) != len(seeds):
            raise ConfigError(
                f"runs {', '.join(row.run_id for row in rows)} are one point, but seeds repeat: {sorted(seeds)}",
                why="rows of one label, backbone, data set and budget are taken for seeds of one thing",
                fix="give runs that differ in anything else another label",
            )
        spent = [row.cost(cost) for row in rows]
        if any(value is None for value in spent):
            continue
        flops = int(statistics.median(value for value in spent if value is not None))
        first = rows[0]
        pretrain = first.flops.get("pretrain") or 0
        transfer = flops - pretrain if cost == "paid" else 0
        # A run without pre-training, as training from scratch, has paid for transfer what its budget would have bought.
        budget = first.budget if pretrain and first.budget else 0
        result.append(
            Point(
                name=curve_name(first, vary),
                kind=first.kind,
                axis=axis,
                budget=first.budget,
                flops=flops,
                cost=max(flops, budget + transfer) if flops else 0,
                estimate=summarise([score for _, score in group]),
                rows=rows,
            )
        )
    return result


def curves(items: Sequence[Point]) -> dict[str, tuple[Point, ...]]:
    """The points of each name by FLOPs, floors apart (they have no place on a log axis)."""
    one_axis(point.axis for point in items)
    result: dict[str, tuple[Point, ...]] = {}
    for point in sorted(items, key=lambda p: p.flops):
        if point.flops > 0:
            result[point.name] = (*result.get(point.name, ()), point)
    return result


def at(curve: Sequence[Point], flops: float) -> Estimate | None:
    """The score at some FLOPs: a point within the tolerance, else linear in log FLOPs between two; never beyond."""
    nearest = min(curve, key=lambda p: abs(math.log(p.flops / flops)))
    if abs(nearest.flops / flops - 1) <= COST_TOLERANCE:
        return nearest.estimate
    for left, right in itertools.pairwise(curve):
        if left.flops <= flops <= right.flops:
            return _between(left, right, flops)
    return None


def _between(left: Point, right: Point, flops: float) -> Estimate:
    width = math.log(right.flops / left.flops)
    weight = math.log(flops / left.flops) / width if width else 0.0
    a, b = left.estimate, right.estimate
    se = None if a.se is None or b.se is None else math.hypot((1 - weight) * a.se, weight * b.se)
    return Estimate(
        value=(1 - weight) * a.value + weight * b.value,
        se=se,
        n=min(a.n, b.n),
        seeds=min(a.seeds, b.seeds),
        source=f"interpolated between {left.flops:.2e} and {right.flops:.2e} FLOPs",
    )


def crossovers(items: Sequence[Point]) -> list[Crossover]:
    """Where curves of methods change places, inside the range where both were measured."""
    lines = {name: c for name, c in curves([p for p in items if p.kind != "baseline"]).items() if len(c) > 1}
    found = []
    for (a, one), (b, two) in itertools.combinations(lines.items(), 2):
        low, high = max(one[0].flops, two[0].flops), min(one[-1].flops, two[-1].flops)
        knots = sorted({p.flops for p in (*one, *two) if low <= p.flops <= high})
        before: tuple[float, Comparison] | None = None
        equal: float | None = None
        for knot in knots:
            now = compare(_exact(one, knot), _exact(two, knot), one[0].axis)
            if now.difference == 0:  # touching or crossing: the next knot tells
                equal = equal or knot
                continue
            if before is not None and before[1].difference * now.difference < 0:
                x0, d0, d1 = before[0], before[1].difference, now.difference
                flops = equal or math.exp(math.log(x0) + d0 / (d0 - d1) * math.log(knot / x0))
                cheap, dear = (a, b) if d0 > 0 else (b, a)
                value = _exact(one, flops).value
                clear = before[1].distinguishable and now.distinguishable
                found.append(Crossover(cheap=cheap, dear=dear, flops=flops, value=value, clear=clear))
            before, equal = (knot, now), None
    return sorted(found, key=lambda c: c.flops)


def _exact(curve: Sequence[Point], flops: float) -> Estimate:
    for left, right in itertools.pairwise(curve):
        if left.flops <= flops <= right.flops:
            return _between(left, right, flops)
    return curve[-1].estimate if flops >= curve[-1].flops else curve[0].estimate


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
