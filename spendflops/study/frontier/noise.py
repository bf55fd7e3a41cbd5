"""How much a score moves when nothing but the seed changes.

Three seeds of one point tell little of their spread: 2 degrees of freedom. All points of an axis together tell more,
but scores near their ceiling move less than others, and some methods less than others. So the variance of each point
is drawn
towards that of all, as far as the variances themselves allow: the moderated t of Smyth 2004 (Stat. Appl. Genet. Mol.
Biol. 3(1):3, section 6.2). Where the points differ by no more than chance, all variances become one; where they do,
each keeps most of its own.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import optimize, special

from spendflops.contracts.errors import ConfigError
from spendflops.study.compare import median_factor
from spendflops.study.frontier.curves import Point
from spendflops.study.frontier.interval import NotEnough

_DRAWS = 2000
_FLOOR = 1e-4
"""Least variance of a point, as a share of the median of all: equal scores of three seeds are chance, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """The standard deviation of a run's score over seeds, and its degrees of freedom."""

    sd: float
    df: float

    def error(self, count: int) -> float:
        """The standard error of the median of ``count`` seeds."""
        return self.sd * median_factor(count) / math.sqrt(count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noises:
    """The noise of every point.

    Attributes:
        typical: Of a point without a second seed.
        points: (curve, FLOPs) -> noise of those with one.
        source: What they were taken from, in words.
    """

    typical: Noise
    points: Mapping[tuple[str, int], Noise]
    source: str

    def of(self, point: Point) -> Noise:
        """The noise of a run of a point."""
        return self.points.get((point.name, point.flops), self.typical)

    def mixed(self, parts: Sequence[tuple[float, Point]]) -> tuple[float, float]:
        """The standard error of a weighted sum of points, which are medians of seeds, and its degrees of freedom."""
        return together([(abs(share) * self.of(p).error(len(p.rows)), self.of(p).df) for share, p in parts])


def moderated(points: Iterable[Point]) -> Noises | NotEnough:
    """The noise of the points of one axis, from those with several seeds."""
    known = [(p, len(p.values) - 1, statistics.variance(p.values)) for p in points if len(p.rows) > 1]
    if not known:
        return NotEnough(reason="no point has a second seed", fix="run one more seed of the point that matters")
    total = sum(df for _, df, _ in known)
    freedom, variance = prior([df for _, df, _ in known], [v for _, _, v in known])
    if not variance:
        return NotEnough(reason="the seeds agree to the last digit", fix="give more digits, or say the noise")
    found = {}
    for point, df, own in known:
        both = variance if math.isinf(freedom) else (freedom * variance + df * own) / (freedom + df)
        found[point.name, point.flops] = Noise(sd=math.sqrt(both), df=min(freedom + df, total))
    typical = Noise(sd=math.sqrt(variance), df=min(freedom, total))
    fewer = f"; {typical.df:.2g} where a point has no second seed" if typical.df < total else ""
    return Noises(typical=typical, points=found, source=f"seeds, {total} degrees of freedom in all{fewer}")


def prior(freedoms: Sequence[int], variances: Sequence[float]) -> tuple[float, float]:
    """Degrees of freedom and variance of what all points have in common; infinite if they differ by chance alone."""
    df = np.asarray(freedoms, float)
    pooled = float((df * variances).sum() / df.sum())
    floor = _FLOOR * float(np.median(variances))
    if len(df) < 2 or floor <= 0:
        return math.inf, pooled
    logs = np.log(np.maximum(variances, floor)) - special.digamma(df / 2) + np.log(df / 2)
    spread = float(logs.var(ddof=1))
    chance = np.log(np.random.default_rng(0).chisquare(df, (_DRAWS, len(df)))) - special.digamma(df / 2)
    if spread <= np.quantile(chance.var(axis=1, ddof=1), 0.95):
        return math.inf, pooled
    beyond = spread - float(special.polygamma(1, df / 2).mean())
    half = float(optimize.brentq(lambda x: special.polygamma(1, x) - beyond, 1e-3, 1e6))
    return 2 * half, math.exp(float(logs.mean()) + float(special.digamma(half)) - math.log(half))


def stated(noise: Noise, source: str) -> Noises:
    """One noise for all points."""
    return Noises(typical=noise, points={}, source=source)


def assumed(sd: float) -> Noises:
    """A noise that somebody states.

    Raises:
        ConfigError: Not a positive number.
    """
    if not (math.isfinite(sd) and sd > 0):
        raise ConfigError(
            f"an assumed noise of {sd}",
            why="it is the standard deviation of a score over seeds",
            fix="a number above 0, in the unit of the score; leave it out where seeds were run",
        )
    return stated(Noise(sd=sd, df=math.inf), "assumed, not measured")


def welch(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The standard error of a sum of independent terms and its degrees of freedom, by Welch and Satterthwaite.

    Args:
        errors: Standard error and degrees of freedom of each term.
    """
    variance = sum(se**2 for se, _ in errors)
    parts = sum(se**4 / df for se, df in errors)
    return math.sqrt(variance), variance**2 / parts if parts else math.inf


def together(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """As :func:`welch`, with no more degrees of freedom than the largest of the terms.

    Points of one axis draw on one estimate of their noise: Welch's sum would count the same runs for every term.
    """
    error, df = welch(errors)
    return error, min(df, max(own for _, own in errors))
