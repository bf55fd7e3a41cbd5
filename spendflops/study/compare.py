"""What the spread of two scores lets one say about their difference."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics

import numpy as np

from spendflops.study.points import Axis, Score

ALPHA = 0.05
MEDIAN_FACTOR = math.sqrt(math.pi / 2)  # the standard error of a median of normal values, over that of their mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score and what is known of its noise.

    Attributes:
        sd: Standard deviation of ``n`` values; ``source`` says of what.
        se: Standard error of ``value``, ``None`` if no spread is known.
        seeds: Pre-training runs behind it.
    """

    value: float
    sd: float | None = None
    n: int = 1
    se: float | None = None
    seeds: int = 1
    source: str = "one run, no spread"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """``difference`` is positive where the first is better; beyond ``margin`` it is distinguishable from zero."""

    difference: float
    margin: float | None

    @property
    def distinguishable(self) -> bool:
        """False as well where no spread is known."""
        return self.margin is not None and abs(self.difference) > self.margin


def summarise(scores: list[Score]) -> Estimate:
    """One estimate of the scores of several seeds: their median, and the spread over them."""
    seeds = len(scores)
    if seeds == 1:
        score = scores[0]
        if score.sd is None:
            return Estimate(value=score.value)
        source = f"{score.spread or f'{score.n} values'} of one run"
        return Estimate(
            value=score.value, sd=score.sd, n=score.n, se=score.sd / math.sqrt(score.n), seeds=1, source=source
        )
    values = [score.value for score in scores]
    sd = statistics.stdev(values)
    se = sd / math.sqrt(seeds) * (MEDIAN_FACTOR if seeds > 2 else 1.0)
    value = statistics.median(values)
    return Estimate(value=value, sd=sd, n=seeds, se=se, seeds=seeds, source=f"{seeds} seeds")


@functools.cache
def t_critical(df: float, alpha: float = ALPHA) -> float:
    """The two-sided critical value of Student's t, from its density: t with P(|T| > t) = alpha."""
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)

    def tail(t: float) -> float:
        # t = sqrt(df) tan(a) turns the density into cos(a)^(df - 1), smooth on a finite interval.
        angle = np.linspace(0.0, math.atan(t / math.sqrt(df)), 4001)
        y = np.cos(angle) ** (df - 1)
        area = (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()) * (angle[1] - angle[0]) / 3
        return 1 - 2 * math.exp(log_c) * math.sqrt(df) * float(area)

    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > alpha else (low, middle)
    return high


def compare(a: Estimate, b: Estimate, axis: Axis) -> Comparison:
    """Welch's t test of two scores, as a difference with the margin it has to exceed."""
    difference = (a.value - b.value) * axis.sign
    if a.se is None or b.se is None:
        return Comparison(difference=difference, margin=None)
    variance = a.se**2 + b.se**2
    if variance == 0:
        return Comparison(difference=difference, margin=0.0)
    df = variance**2 / (a.se**4 / (a.n - 1) + b.se**4 / (b.n - 1))
    return Comparison(difference=difference, margin=t_critical(round(df, 2)) * math.sqrt(variance))
