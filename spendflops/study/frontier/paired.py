"""Differences of two methods over the same seeds: what a seed does to both, its data order and its labels, cancels.

With three to five seeds the interval is Student's t of the differences. A bootstrap over three differences has ten
different means to draw, and covers far less than it says; docs/answer.md has the numbers.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from spendflops.study.compare import t_critical
from spendflops.study.frontier.interval import LEVEL, Interval, NotEnough, around


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of ``n`` values; ``se`` is its standard error, None for one value."""

    value: float
    se: float | None
    n: int

    @property
    def distinguishable(self) -> bool:
        """Whether a t test (two-sided, 5 %) separates it from zero."""
        if self.se is None:
            return False
        return abs(self.value) > t_critical(self.n - 1) * self.se if self.se else self.value != 0

    def interval(self, level: float = LEVEL) -> Interval | NotEnough:
        """Student's interval of the mean."""
        if self.se is None:
            return NotEnough(reason=f"{self.n} seed in common", fix="run a second seed of both")
        return around(self.value, self.se, self.n - 1, level=level)


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard error."""
    count = len(values)
    se = statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Mean(value=statistics.fmean(values), se=se, n=count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """What the first method scores more than the second, seed by seed.

    Attributes:
        mean: Over the seeds of both.
        unpaired: Seeds that only one of the two has; they are not in the mean.
    """

    mean: Mean
    unpaired: tuple[int, ...]


def difference(one: Mapping[int, float], other: Mapping[int, float], *, sign: int = 1) -> Difference | NotEnough:
    """The paired difference of two methods.

    Args:
        one, other: Seed -> score.
        sign: -1 where a lower score is better.
    """
    shared = sorted(set(one) & set(other))
    if not shared:
        return NotEnough(reason="the two have no seed in common", fix="run both with the same seeds")
    return Difference(
        mean=mean([sign * (one[seed] - other[seed]) for seed in shared]),
        unpaired=tuple(sorted(set(one) ^ set(other))),
    )
