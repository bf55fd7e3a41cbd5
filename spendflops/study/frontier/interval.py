"""Intervals, and the answer that there is not enough data: as normal a result as a number."""

from __future__ import annotations

import dataclasses
import math

from spendflops.study.compare import t_critical

LEVEL = 0.9
"""The share of intervals that are to hold the truth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotEnough:
    """What is there is valid, and says nothing about what was asked.

    Attributes:
        reason: One sentence.
        fix: What would have to be measured.
    """

    reason: str
    fix: str = ""

    def __str__(self) -> str:
        return f"not enough data: {self.reason}" + (f" ({self.fix})" if self.fix else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, and ends that hold the truth between them in a share ``level`` of repetitions; they may be infinite."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def holds(self, truth: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= truth <= self.high


def around(value: float, se: float, df: float, *, level: float = LEVEL) -> Interval:
    """``value`` plus and minus the critical value times its standard error."""
    margin = t_critical(df, 1 - level) * se
    return Interval(value=value, low=value - margin, high=value + margin, level=level)


def zero_of_line(
    at_zero: float, slope: float, *, covariance: tuple[float, float, float], df: float, level: float = LEVEL
) -> Interval:
    """Where an estimated line crosses zero, by Fieller's theorem: the places at which the line is not told from zero.

    Exact for normal errors, however few; an interval from the variance of the ratio is not (Fieller 1954). Both ends
    are infinite where the slope itself is not told from zero.

    Args:
        at_zero, slope: Of the line ``at_zero + slope * z``.
        covariance: Variance of ``at_zero``, of ``slope``, and their covariance.
        df: Degrees of freedom of these.
        level: Of the interval.
    """
    v0, v1, v01 = covariance
    t2 = t_critical(df, 1 - level) ** 2
    # (at_zero + slope z)^2 <= t^2 (v0 + 2 z v01 + z^2 v1)
    a, b, c = slope**2 - t2 * v1, at_zero * slope - t2 * v01, at_zero**2 - t2 * v0
    value = -at_zero / slope if slope else math.nan
    if a <= 0 or not slope:
        return Interval(value=value, low=-math.inf, high=math.inf, level=level)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(value=value, low=(-b - root) / a, high=(-b + root) / a, level=level)
