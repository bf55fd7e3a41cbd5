"""How often intervals hold the truth, on simulated studies whose truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import optimize

from spendflops.study import frontier
from spendflops.study.frontier import NotEnough, powerlaw
from spendflops.study.frontier.curves import Point
from spendflops.study.frontier.family import Member, together
from spendflops.study.frontier.paired import difference
from spendflops.study.points import axes
from spendflops.study.recommend.choice import candidates
from spendflops.study.recommend.flips import flips
from spendflops.study.recommend.offers import field
from spendflops.testing.simulated import Curve, Simulated

LENGTHS = tuple(int(x * 1e18) for x in (1, 2, 4, 8))
CROSSING = Simulated(
    curves={"small": Curve(limit=44.0, drop=9.0, rate=0.45), "large": Curve(limit=50.0, drop=20.0, rate=0.4)},
    budgets=LENGTHS,
    seeds=3,
    sd=0.5,
)
"""A small model and a large one that overtakes it at 5.3e18 FLOPs."""
FOUR = dataclasses.replace(
    CROSSING,
    curves={
        "a": Curve(limit=46.0, drop=13.5, rate=0.35),
        "b": Curve(limit=44.0, drop=11.5, rate=0.5),
        "c": Curve(limit=50.0, drop=18.0, rate=0.25),
        "d": Curve(limit=42.0, drop=10.0, rate=0.8),
    },
)
"""Four methods whose exponents differ by a factor of three."""
EQUAL = dataclasses.replace(CROSSING, curves={str(i): Curve(limit=46.0, drop=13.5, rate=0.35) for i in range(5)})
"""Five names for one method: the best of them is the best by chance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of one kind of interval on one simulated study.

    Attributes:
        held: Draws whose interval holds the truth.
        asked: Draws that have an interval.
        silent: Draws that have none: no crossing was found, or there was not enough data.
        open: Draws whose interval has an open end.
    """

    held: int
    asked: int
    silent: int = 0
    open: int = 0

    @property
    def share(self) -> float:
        """Of the intervals that hold the truth."""
        return self.held / self.asked


Ends = tuple[float, float] | None
"""An interval, its ends perhaps infinite, or None."""


def counted(ends: Iterator[tuple[Ends, float]]) -> Coverage:
    """Counts (interval, truth)."""
    found = list(ends)
    known = [(low, high, truth) for pair, truth in found if pair for low, high in [pair]]
    return Coverage(
        held=sum(low <= truth <= high for low, high, truth in known),
        asked=len(known),
        silent=len(found) - len(known),
        open=sum(not (np.isfinite(low) and np.isfinite(high)) for low, high, _ in known),
    )


def crossing(study: Simulated, one: str, other: str) -> float:
    """The FLOPs at which two true curves cross, up to twice the longest runs."""

    def gap(flops: float) -> float:
        return study.curves[one](flops) - study.curves[other](flops)

    return float(optimize.brentq(gap, min(study.budgets), 2 * max(study.budgets)))


def drawn(study: Simulated, draws: int, seed: int) -> Iterator[list[Point]]:
    """The points of one repetition after the other."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        rows = study.draw(rng)
        (axis,) = axes(rows)
        yield frontier.points(frontier.select(rows, axis))


def of_crossovers(study: Simulated, *, draws: int, seed: int = 0) -> Coverage:
    """Of the crossover of the first two curves; of several that are found the one nearest to the truth."""
    one, other = list(study.curves)[:2]
    truth = crossing(study, one, other)

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            found = [c for c in frontier.crossovers(points) if {c.cheap, c.dear} == {one, other}]
            near = min(found, key=lambda c: abs(np.log(c.flops / truth)), default=None)
            yield (None if near is None else (near.low or -np.inf, near.high or np.inf)), truth

    return counted(ends())


def of_flips(study: Simulated, *, draws: int, seed: int = 0) -> Coverage:
    """As :func:`of_crossovers`, of the places where a recommendation flips."""
    one, other = list(study.curves)[:2]
    truth = crossing(study, one, other)

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            found = [f for f in flips(field(points)) if {f.cheap, f.dear} == {one, other} and not f.note]
            near = min(found, key=lambda f: abs(np.log(f.flops / truth)), default=None)
            yield (None if near is None else (near.low or -np.inf, near.high or np.inf)), truth

    return counted(ends())


def of_differences(study: Simulated, *, draws: int, seed: int = 0) -> Coverage:
    """Of the paired difference of the first two curves at the longest length."""
    one, other = list(study.curves)[:2]
    length = max(study.budgets)
    truth = study.curves[one](length) - study.curves[other](length)

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            of = {p.name: {r.seed: r.scores[0].value for r in p.rows} for p in points if p.flops == length}
            found = difference(of[one], of[other])
            interval = found if isinstance(found, NotEnough) else found.mean.interval()
            yield (None if isinstance(interval, NotEnough) else (interval.low, interval.high)), truth

    return counted(ends())


def of_predictions(study: Simulated, *, factor: float, draws: int, seed: int = 0) -> Coverage:
    """Of the first curve, fitted on its own, at some factor beyond the longest length."""
    name = next(iter(study.curves))
    place = factor * max(study.budgets)

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            runs = [(p.flops, v) for p in points if p.name == name for v in p.values]
            law = powerlaw.fit([x for x, _ in runs], [y for _, y in runs])
            found = None if isinstance(law, NotEnough) else law.predict(place)
            yield (None if found is None else (found.low, found.high)), study.curves[name](place)

    return counted(ends())


def of_families(study: Simulated, *, factor: float, draws: int, seed: int = 0) -> Coverage:
    """Of every curve, all fitted together, at some factor beyond the longest length."""
    place = factor * max(study.budgets)

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            runs: dict[str, tuple[list[float], list[float]]] = {}
            for point in points:
                flops, scores = runs.setdefault(point.name, ([], []))
                flops.extend([point.flops] * len(point.values))
                scores.extend(point.values)
            for name, member in together(runs).items():
                found = member.predict(place) if isinstance(member, Member) else None
                yield (None if found is None else (found.low, found.high)), study.curves[name](place)

    return counted(ends())


def of_choices(study: Simulated, *, budget: float, draws: int, seed: int = 0) -> Coverage:
    """Of the score of whatever is recommended for a budget."""

    def ends() -> Iterator[tuple[Ends, float]]:
        for points in drawn(study, draws, seed):
            known = field(points)
            offers, _ = known.offers(budget)
            chosen = candidates(offers, known.axis)[0]
            truth = study.curves[chosen.offer.name](chosen.offer.flops)
            yield (None if chosen.interval is None else (chosen.interval.low, chosen.interval.high)), truth

    return counted(ends())
