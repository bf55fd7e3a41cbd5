"""What the spread of two scores lets one say about their difference."""

from __future__ import annotations

import dataclasses
import math
import statistics

from scipy import special

from spendflops.study.points import Axis, Score

ALPHA = 0.05
_MEDIAN_VARIANCE = (1.0, 1.0, 1.346013, 1.192798, 1.434168, 1.288456, 1.473128, 1.345447, 1.494912, 1.383264)


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
    se = sd / math.sqrt(seeds) * median_factor(seeds)
    value = statistics.median(values)
    return Estimate(value=value, sd=sd, n=seeds, se=se, seeds=seeds, source=f"{seeds} seeds")


def median_factor(n: int) -> float:
    """The standard error of the median of ``n`` normal values over that of their mean; for many values sqrt(pi / 2)."""
    return math.sqrt(_MEDIAN_VARIANCE[n - 1] if n <= len(_MEDIAN_VARIANCE) else math.pi / 2)


def t_critical(df: float, alpha: float = ALPHA) -> float:
    """The two-sided critical value of Student's t: t with P(|T| > t) = alpha; ``df`` may be infinite."""
    return float(special.stdtrit(df, 1 - alpha / 2))


def compare(a: Estimate, b: Estimate, axis: Axis) -> Comparison:
    """Welch's t test of two scores, as a difference with the margin it has to exceed."""
    difference = (a.value - b.value) * axis.sign
    if a.se is None or b.se is None:
        return Comparison(difference=difference, margin=None)
    variance = a.se**2 + b.se**2
    if variance == 0:
        return Comparison(difference=difference, margin=0.0)
    df = variance**2 / (a.se**4 / (a.n - 1) + b.se**4 / (b.n - 1))
    return Comparison(difference=difference, margin=t_critical(df) * math.sqrt(variance))
