"""Everything of ``study.frontier`` on one set of runs: front, envelopes, crossings, laws, sizes, pairs, ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from spendflops.study.frontier import powerlaw, ranks
from spendflops.study.frontier.crossover import Crossover, crossovers
from spendflops.study.frontier.curves import COST_TOLERANCE, Point, curve_name, curves, points, select, varying
from spendflops.study.frontier.envelope import Envelope, envelopes
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.isoflop import Allocation, Optimum, allocation, optimum
from spendflops.study.frontier.paired import Difference, difference
from spendflops.study.frontier.pareto import front_frequency, non_dominated
from spendflops.study.frontier.powerlaw import PowerLaw
from spendflops.study.frontier.ranks import Agreement, Place, agreement, places
from spendflops.study.frontier.tuning import Tuning, tuning
from spendflops.study.frontier.verdicts import answer
from spendflops.study.points import Axis, Cost, Row, axes
from spendflops.study.recommend import question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes of one method on one data set at the same FLOPs.

    Attributes:
        flops: The largest of the runs'.
        sizes: Parameters that were measured, ascending.
        best: The best size, as a parabola through them has it.
    """

    name: str
    flops: int
    sizes: tuple[int, ...]
    best: Optimum | NotEnough


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """The best of the runs of the same FLOPs, and another one of them, seed by seed."""

    flops: int
    best: str
    other: str
    difference: Difference | NotEnough


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What the runs say on one axis.

    Attributes:
        axis: Protocol, metric and data.
        cost: ``"paid"`` or ``"pretrain"``.
        front: Points that nothing dominates, by cost, each with how often it stays so when all scores are redrawn.
        stability: Why these shares are not known; empty if they are.
        floor: Baselines that cost nothing.
        envelopes: Methods with several curves -> what the best of them has at each cost.
        crossovers: Where curves change places.
        laws: Curve -> a saturating power law.
        profiles: IsoFLOP profiles.
        allocations: Method and data -> how the best size grows with FLOPs.
        pairs: Differences at the same FLOPs.
        budget: FLOPs at which methods are ranked over tasks.
        agreements: Of every pair of tasks.
        places: Of the methods over all tasks.
        tuning: What choosing settings has cost.
        unplaced: Curves with runs whose cost is not known.
    """

    axis: Axis
    cost: Cost
    front: tuple[tuple[Point, float | None], ...]
    stability: str
    floor: tuple[Point, ...]
    envelopes: Mapping[str, Envelope]
    crossovers: tuple[Crossover, ...]
    laws: Mapping[str, PowerLaw | NotEnough]
    profiles: tuple[Profile, ...]
    allocations: Mapping[str, Allocation | NotEnough]
    pairs: tuple[Pair, ...]
    budget: int
    agreements: tuple[Agreement | NotEnough, ...]
    places: tuple[Place, ...] | NotEnough
    tuning: tuple[Tuning, ...] | NotEnough
    unplaced: tuple[str, ...]


def find(rows: Sequence[Row], axis: Axis, *, cost: Cost = "paid", budget: float | None = None) -> Findings:
    """What the runs say.

    Args:
        rows: Of all tasks; those of the other tasks say how stable ranks are.
        axis: What is looked at.
        cost: FLOPs that count.
        budget: At which methods are ranked over tasks; by default the largest that all of them were measured for.

    Raises:
        ConfigError: Two rows of one seed.
        DataError: A run that cost nothing and is no baseline; seeds that look like lengths.
    """
    vary = varying(rows)
    pairs = select(rows, axis)
    items = sorted(points(pairs, cost=cost, vary=vary), key=lambda p: (p.flops, p.name))
    question.check_free(items)
    question.check_lengths(items)
    priced = [p for p in items if p.flops > 0]
    lines = {name: curve for name, curve in (curves(priced) if priced else {}).items() if curve[0].kind != "baseline"}
    front, stability = _front(priced, axis)
    profiles = tuple(_profiles(priced, axis))
    tasks, place = _tasks(rows, cost, vary, budget)
    return Findings(
        axis=axis,
        cost=cost,
        front=front,
        stability=stability,
        floor=tuple(p for p in items if p.floor),
        envelopes={n: e for n, e in (envelopes(priced) if priced else {}).items() if len(e.variants) > 1},
        crossovers=tuple(crossovers(priced) if priced else ()),
        laws={name: _law(curve, axis) for name, curve in lines.items()},
        profiles=profiles,
        allocations=_allocations(profiles),
        pairs=tuple(_pairs(priced, axis)),
        budget=place,
        agreements=tuple(agreement(tasks)),
        places=_as_tuple(places(tasks)),
        tuning=tuning(rows, axis),
        unplaced=tuple(dict.fromkeys(curve_name(row, vary) for row, _ in pairs if row.cost(cost) is None)),
    )


def _as_tuple(found: list[Place] | NotEnough) -> tuple[Place, ...] | NotEnough:
    return found if isinstance(found, NotEnough) else tuple(found)


def _front(items: Sequence[Point], axis: Axis) -> tuple[tuple[tuple[Point, float | None], ...], str]:
    costs, values = [float(p.cost) for p in items], [p.estimate.value for p in items]
    shares = front_frequency(costs, values, [p.estimate.se for p in items], maximise=axis.higher_is_better)
    known = [None] * len(items) if isinstance(shares, NotEnough) else shares
    kept = non_dominated(costs, values, maximise=axis.higher_is_better, tolerance=COST_TOLERANCE)
    front = tuple((p, share) for p, share, on in zip(items, known, kept, strict=True) if on)
    return front, str(shares) if isinstance(shares, NotEnough) else ""


def _law(curve: Sequence[Point], axis: Axis) -> PowerLaw | NotEnough:
    runs = [(float(p.flops), value) for p in curve for value in p.values]
    return powerlaw.fit([x for x, _ in runs], [y for _, y in runs], higher_is_better=axis.higher_is_better)


def at_the_same_flops(items: Iterable[Point]) -> list[list[Point]]:
    """Points by cost, those within the tolerance of the cheapest of them together."""
    groups: list[list[Point]] = []
    for point in sorted(items, key=lambda p: p.cost):
        if groups and point.cost <= groups[-1][0].cost * (1 + COST_TOLERANCE):
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _profiles(items: Sequence[Point], axis: Axis) -> Iterable[Profile]:
    families: dict[str, list[Point]] = {}
    for point in items:
        row = point.rows[0]
        if row.parameters and point.kind != "baseline":
            families.setdefault(" on ".join(part for part in (row.label, row.dataset) if part), []).append(point)
    for name, family in families.items():
        for group in at_the_same_flops(family):
            runs = [(p.rows[0].parameters or 0, value) for p in group for value in p.values]
            sizes = tuple(sorted({size for size, _ in runs}))
            if len(sizes) > 1:
                best = optimum([s for s, _ in runs], [v for _, v in runs], higher_is_better=axis.higher_is_better)
                yield Profile(name=name, flops=max(p.flops for p in group), sizes=sizes, best=best)


def _allocations(profiles: Iterable[Profile]) -> dict[str, Allocation | NotEnough]:
    """A line a method with a best size somewhere; one that is extrapolated says nothing of how sizes grow."""
    found: dict[str, list[tuple[float, float]]] = {}
    for profile in profiles:
        if isinstance(profile.best, Optimum) and profile.best.inside:
            found.setdefault(profile.name, []).append((float(profile.flops), profile.best.size.value))
    return {name: allocation([x for x, _ in pairs], [y for _, y in pairs]) for name, pairs in found.items()}


def _pairs(items: Sequence[Point], axis: Axis) -> Iterable[Pair]:
    for group in at_the_same_flops(p for p in items if p.kind != "baseline"):
        best, *others = sorted(group, key=lambda p: -p.estimate.value * axis.sign)
        for other in others:
            yield Pair(
                flops=best.flops,
                best=best.name,
                other=other.name,
                difference=difference(_by_seed(best), _by_seed(other), sign=axis.sign),
            )


def _by_seed(point: Point) -> dict[int, float]:
    return {row.seed: s.value for row in point.rows for s in row.scores if s.axis == point.axis}


def _tasks(
    rows: Sequence[Row], cost: Cost, vary: tuple[str, ...], budget: float | None
) -> tuple[dict[str, ranks.Scores], int]:
    """Scores at one budget by task, larger is better; and the budget."""
    known = {}
    for axis in axes(rows):
        found = [p for p in points(select(rows, axis), cost=cost, vary=vary) if p.flops > 0 and p.kind != "baseline"]
        if found:
            known[axis] = found
    ends = [curve[-1].flops for items in known.values() for curve in curves(items).values()]
    place = int(budget) if budget is not None else min(ends, default=0)
    tasks = {}
    for axis, items in known.items():
        offers = answer(items, place)
        candidates = offers.candidates if offers is not None else ()
        tasks[_task(axis, known)] = {c.name: (axis.sign * c.estimate.value, c.estimate.se) for c in candidates}
    return tasks, place


def _task(axis: Axis, known: Iterable[Axis]) -> str:
    """What a task is called: with its protocol only where something else is called the same."""

    def name(of: Axis) -> str:
        return f"{of.evaluator} {of.metric}" + (f" on {of.place}" if of.place else "")

    return f"{name(axis)} ({axis.protocol})" if sum(name(other) == name(axis) for other in known) > 1 else name(axis)
