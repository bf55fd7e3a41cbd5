"""Where one curve overtakes another, and between which FLOPs that may be.

The larger model costs more a step and is behind at first; from some budget on it is ahead. Between measured lengths
curves are linear in log FLOPs, and nothing is extrapolated. The interval of a crossover is the set of FLOPs around it
at which the two are not told apart (Fieller 1954, here for a difference that is linear in pieces): it needs neither
many seeds nor a crossover that is normally distributed. It is open where the two are not told apart up to the end of
what was measured. There is none where the lengths around it lie far apart: what is wrong there is the line between
them, which no noise tells of. Percentile and BCa bootstraps over the seeds are too narrow with three of them;
docs/answer.md has the numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from scipy import optimize

from spendflops.study.compare import Comparison, compare, t_critical
from spendflops.study.frontier.curves import COST_TOLERANCE, Point, curves, mixed, stride, weights
from spendflops.study.frontier.interval import LEVEL, NotEnough
from spendflops.study.frontier.noise import Noises, moderated, together

Curve = Sequence[Point]
FAR = 2.5
"""Lengths that lie further apart than this factor do not say where two curves cross between them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crossover:
    """``dear`` is ahead from ``flops`` on.

    Attributes:
        clear: Whether the order on both sides is distinguishable.
        low, high: Ends of the interval; None where it is open up to the end of what was measured on both curves.
        level: Of the interval.
        note: Why there is no interval; empty if there is one.
    """

    cheap: str
    dear: str
    flops: float
    value: float
    clear: bool
    low: float | None = None
    high: float | None = None
    level: float = LEVEL
    note: str = ""


def crossovers(items: Sequence[Point], *, level: float = LEVEL) -> list[Crossover]:
    """Where curves of methods change places, inside the range where both were measured."""
    lines = {name: c for name, c in curves([p for p in items if p.kind != "baseline"]).items() if len(c) > 1}
    noises = moderated(items)
    found = []
    for (a, one), (b, two) in itertools.combinations(lines.items(), 2):
        for flops, ahead, clear in _places(one, two):
            cheap, dear = (a, b) if ahead else (b, a)
            note = _unknown(one, two, flops, noises)
            ends = None if isinstance(noises, NotEnough) or note else _interval(one, two, flops, noises, level=level)
            found.append(
                Crossover(
                    cheap=cheap,
                    dear=dear,
                    flops=flops,
                    value=mixed(weights(one, flops)).value,
                    clear=clear,
                    low=ends[0] if ends else None,
                    high=ends[1] if ends else None,
                    level=level,
                    note=note,
                )
            )
    return sorted(found, key=lambda c: c.flops)


def far(one: Curve, two: Curve, flops: float, *, most: float = FAR) -> str:
    """Why straight lines do not say where two curves cross near some FLOPs; empty if they do."""
    factor = max(stride(one, flops), stride(two, flops))
    return f"the lengths around it are a factor of {factor:.2g} apart" if factor > most * (1 + COST_TOLERANCE) else ""


def _unknown(one: Curve, two: Curve, flops: float, noises: Noises | NotEnough) -> str:
    return noises.reason if isinstance(noises, NotEnough) else far(one, two, flops)


def common(one: Curve, two: Curve) -> list[int]:
    """The FLOPs, ascending, at which one of two curves was measured, inside the range of both."""
    low, high = max(one[0].flops, two[0].flops), min(one[-1].flops, two[-1].flops)
    return sorted({p.flops for p in (*one, *two) if low <= p.flops <= high})


def _places(one: Curve, two: Curve) -> list[tuple[float, bool, bool]]:
    """(FLOPs, whether ``one`` was ahead before, whether both sides are distinguishable) of every change of places."""
    found = []
    before: tuple[float, Comparison] | None = None
    equal: float | None = None
    for knot in common(one, two):
        now = compare(mixed(weights(one, knot)), mixed(weights(two, knot)), one[0].axis)
        if now.difference == 0:  # touching or crossing: the next knot tells
            equal = equal or knot
            continue
        if before is not None and before[1].difference * now.difference < 0:
            x0, d0, d1 = before[0], before[1].difference, now.difference
            flops = equal or math.exp(math.log(x0) + d0 / (d0 - d1) * math.log(knot / x0))
            found.append((flops, d0 > 0, before[1].distinguishable and now.distinguishable))
        before, equal = (knot, now), None
    return found


def _interval(
    one: Curve, two: Curve, flops: float, noises: Noises, *, level: float
) -> tuple[float | None, float | None]:
    """The ends of the stretch around a crossover on which the two are not told apart; None for an open one."""

    def told(place: float) -> float:
        """How far the two are apart at a place in log FLOPs, less what it takes to tell them apart."""
        at = min(max(math.exp(place), one[0].flops, two[0].flops), one[-1].flops, two[-1].flops)
        parts = weights(one, at), weights(two, at)
        se, df = together([noises.mixed(part) for part in parts])
        return abs(mixed(parts[0]).value - mixed(parts[1]).value) - t_critical(df, 1 - level) * se

    knots = [math.log(knot) for knot in common(one, two)]
    place = math.log(flops)
    low = first_sign(told, [place, *(k for k in reversed(knots) if k < place)])
    high = first_sign(told, [place, *(k for k in knots if k > place)])
    return None if low is None else math.exp(low), None if high is None else math.exp(high)


def first_sign(told: Callable[[float], float], places: Sequence[float], *, steps: int = 16) -> float | None:
    """The first place on the way over ``places`` at which ``told`` becomes positive."""
    for start, stop in itertools.pairwise(places):
        grid = [start + (stop - start) * i / steps for i in range(steps + 1)]
        for left, right in itertools.pairwise(grid):
            if told(right) > 0:
                return right if told(left) > 0 else float(optimize.brentq(told, left, right, xtol=1e-9))
    return None
