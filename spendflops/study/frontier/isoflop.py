"""IsoFLOP profiles: at fixed FLOPs, which size is best, and how that size grows with FLOPs.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2, "approach 2"): a parabola in log size through the scores at fixed
FLOPs, its vertex, and a line through the vertices in log-log. The interval of a vertex is Fieller's: a vertex is a
ratio of two coefficients, and with few sizes its distribution has no variance.

A parabola is biased where the two sides of a profile differ: on the surface that Hoffmann et al. fitted, sizes from
1/8 to 8 times the best put the vertex 2.9 % off, from 1/4 to 4 times 1.3 %, from 1/2 to twice 0.3 %. No interval
covers that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.study.frontier.interval import LEVEL, Interval, NotEnough, around, zero_of_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best size at some FLOPs.

    Attributes:
        size: The vertex, with its interval.
        score: Of the parabola there.
        inside: Whether the vertex lies between the sizes that were measured; if not, it is extrapolated.
    """

    size: Interval
    score: float
    inside: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """size = coefficient flops^exponent.

    Attributes:
        largest: FLOPs of the largest profile.
    """

    exponent: Interval
    coefficient: float
    largest: float

    def at(self, flops: float) -> tuple[float, float]:
        """The size for some FLOPs, and how many times these are beyond the largest profile (1 inside)."""
        return self.coefficient * flops**self.exponent.value, max(flops / self.largest, 1.0)


def optimum(
    sizes: Sequence[float], scores: Sequence[float], *, higher_is_better: bool = True, level: float = LEVEL
) -> Optimum | NotEnough:
    """The best size among runs of the same FLOPs.

    Args:
        sizes: Parameters (or images seen) of each run, positive.
        scores: Of each run; seeds are several runs of one size.

    Raises:
        DataError: Sizes that are not positive, or numbers that are not finite.
    """
    x, y = _checked(sizes, scores, "size")
    distinct = np.unique(x)
    if len(distinct) < 3 or len(x) < 4:
        return NotEnough(
            reason=f"{len(x)} run{'s' if len(x) != 1 else ''} of {len(distinct)} size"
            f"{'s' if len(distinct) != 1 else ''}; a parabola and its spread need 4 runs of 3 sizes",
            fix="measure more sizes at these FLOPs",
        )
    center = float(np.log(distinct).mean())
    z = np.log(x) - center
    design = np.stack([np.ones_like(z), z, z**2], axis=1)
    coefficients, covariance, df = _least_squares(design, y if higher_is_better else -y)
    level_, rise, bend = (float(c) for c in coefficients)
    # The slope of the parabola, rise + 2 bend z, crosses zero at the vertex.
    place = zero_of_line(
        rise,
        2 * bend,
        covariance=(covariance[1, 1], 4 * covariance[2, 2], 2 * covariance[1, 2]),
        df=df,
        level=level,
    )
    if bend >= 0 or not math.isfinite(place.low):
        return NotEnough(
            reason="the profile is not bent beyond its noise: no size is told from its neighbours",
            fix="measure smaller and larger sizes, or more seeds",
        )
    ends = [math.exp(center + end) for end in (place.value, place.low, place.high)]
    top = level_ + rise * place.value + bend * place.value**2
    return Optimum(
        size=Interval(value=ends[0], low=ends[1], high=ends[2], level=level),
        score=top if higher_is_better else -top,
        inside=bool(distinct[0] <= ends[0] <= distinct[-1]),
    )


def allocation(flops: Sequence[float], sizes: Sequence[float], *, level: float = LEVEL) -> Allocation | NotEnough:
    """How the best size grows with FLOPs: a line through the optima of several profiles, in log-log.

    Raises:
        DataError: As :func:`optimum`.
    """
    x, y = _checked(flops, sizes, "FLOPs")
    _checked(sizes, flops, "size")
    if len(np.unique(x)) < 3:
        return NotEnough(
            reason=f"optima at {len(np.unique(x))} FLOPs; an exponent and its spread need 3",
            fix="measure another profile",
        )
    center = float(np.log(x).mean())
    design = np.stack([np.ones_like(x), np.log(x) - center], axis=1)
    coefficients, covariance, df = _least_squares(design, np.log(y))
    exponent = float(coefficients[1])
    return Allocation(
        exponent=around(exponent, math.sqrt(covariance[1, 1]), df, level=level),
        coefficient=math.exp(float(coefficients[0]) - exponent * center),
        largest=float(x.max()),
    )


def _least_squares(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ y
    df = len(y) - design.shape[1]
    return coefficients, inverse * float(((y - design @ coefficients) ** 2).sum()) / df, df


def _checked(x: Sequence[float], y: Sequence[float], name: str) -> tuple[np.ndarray, np.ndarray]:
    left, right = np.asarray(x, float), np.asarray(y, float)
    for i, (a, b) in enumerate(zip(left, right, strict=True), 1):
        if not (math.isfinite(a) and a > 0 and math.isfinite(b)):
            what = f"run {i} of {len(left)} has the {name} {a:g}, and {b:g} beside it"
            raise DataError(what, why="sizes and FLOPs are positive, all numbers finite")
    return left, right
