"""Saturating power laws of several methods at once: each has its limit and its rise, the exponents are relatives.

A curve of four or five lengths does not know its exponent, and a prediction at twice the longest run is mostly that.
The curves of one task together know how far exponents differ, and lend each other what they have in common. Fitted
each on its own (:mod:`powerlaw`), they choose worse at twice the longest run than the longest runs themselves do;
with one exponent for all, intervals cover half of what they should where exponents differ; so they are drawn from one
distribution, whose mean and spread are estimated, too. docs/answer.md has the numbers.

The model of a curve is ``alpha + beta (1 - exp(-b u)) / b`` plus normal noise, in u = log FLOPs, with flat priors for
its values at both ends of its data, and log b ~ N(mu, tau). Its variance has the prior of one run more whose noise is
the median
of the curves: four runs may lie on a curve by chance. For every b of a grid all of that is linear and known in closed
form: Student's t with runs less one degree of freedom. b, mu and tau are summed over grids. No sampling, no
optimiser, nothing that depends on a seed.

Runs that lie more than three robust standard deviations off their curve weigh less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.study.frontier import powerlaw
from spendflops.study.frontier.belief import Belief, widening
from spendflops.study.frontier.interval import LEVEL, NotEnough
from spendflops.study.frontier.powerlaw import Prediction, bend

LENGTHS = 3
"""Fewest lengths of a curve."""
EXPONENTS = np.geomspace(0.02, 3.0, 60)
MEANS = np.linspace(math.log(0.05), math.log(1.5), 18)
SPREADS = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
"""Grids: of the exponent, and of the mean and the spread of its logarithm over methods; all points are as likely."""
OUTLIER = 3.0
"""Robust standard deviations from which on a run weighs less."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A curve with the weights of its exponents.

    Attributes:
        flops: Of its runs.
        df: Runs less two, and one for the noise of the others.
        sign: 1 if more is better.
    """

    flops: tuple[float, ...]
    df: int
    sign: int
    weights: np.ndarray
    lines: _Lines

    def __call__(self, flops: float) -> float:
        """The expected score."""
        return float(self.sign * self.weights @ self.lines.at(math.log(flops))[0])

    def belief(self, flops: float) -> Belief:
        """What is known of the mean over seeds at some FLOPs, turned so that more is better."""
        return Belief(self.weights, *self.lines.at(math.log(flops)), self.df)

    def covariance(self, one: float, other: float) -> float:
        """Of the curve's values at two FLOPs: what a run at one of them says of the other."""
        (a, left), (b, right) = self.lines.steps(math.log(one)), self.lines.steps(math.log(other))
        sums = self.lines.sums
        inside = widening(self.df) ** 2 * self.lines.variance * (1 / sums.total + a * b / sums.spread_x)
        between = (left - self.weights @ left) * (right - self.weights @ right)
        return float(self.weights @ (inside + between))

    def predict(self, flops: float, *, level: float = LEVEL) -> Prediction:
        """The score at some FLOPs, the mean over seeds, with its interval."""
        found = self.belief(flops)
        ends = sorted(self.sign * found.quantile(share) for share in ((1 - level) / 2, (1 + level) / 2))
        factor = max(flops / max(self.flops), min(self.flops) / flops, 1.0)
        return Prediction(flops=flops, value=self(flops), low=ends[0], high=ends[1], level=level, factor=factor)


def together(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, higher_is_better: bool = True
) -> dict[str, Member | NotEnough]:
    """Fits the curves of one task.

    Args:
        runs: Name -> FLOPs and score of each of its runs.
        higher_is_better: Of the scores.

    Raises:
        DataError: A number that is not finite, or FLOPs that are not positive.
    """
    sign = 1 if higher_is_better else -1
    found: dict[str, Member | NotEnough] = {}
    fitted: dict[str, _Sums] = {}
    for name, (flops, scores) in runs.items():
        x, y = np.asarray(flops, float), np.asarray(scores, float)
        if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all()):
            raise DataError(f"{name}: FLOPs or scores that are no numbers", why="FLOPs are positive, scores finite")
        lengths = len(np.unique(x))
        if lengths < LENGTHS:
            why = f"{lengths} length{'s' if lengths != 1 else ''}; a curve needs {LENGTHS}"
            found[name] = NotEnough(reason=why, fix="measure more lengths, a factor of two apart")
        else:
            fitted[name] = _sums(np.log(x), sign * y)
    noise = float(np.median([float(sums.rss.min()) / max(sums.df - 1, 1) for sums in fitted.values()] or [0.0]))
    lines = {name: _lines(sums, noise) for name, sums in fitted.items()}
    for name, weights in zip(lines, _weights(list(lines.values())), strict=True):
        flops = tuple(float(v) for v in runs[name][0])
        found[name] = Member(flops, fitted[name].df + 1, sign, weights, lines[name])
    return found


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Weighted sums of a curve's runs about their means in ``bend(u, b)``, for every exponent of the grid."""

    center: float
    mean_x: np.ndarray
    mean_y: float
    slope: np.ndarray
    spread_x: np.ndarray
    rise: np.ndarray
    total: float
    rss: np.ndarray
    df: int


def _sums(place: np.ndarray, y: np.ndarray) -> _Sums:
    center = float(place.mean())
    u = place - center
    weight = powerlaw.downweighted(place, y, OUTLIER)
    x = bend(u[None, :], EXPONENTS[:, None])
    total = float(weight.sum())
    mean_x, mean_y = (weight * x).sum(1) / total, float((weight * y).sum() / total)
    dx = x - mean_x[:, None]
    spread_x = (weight * dx**2).sum(1)
    slope = (weight * dx * (y - mean_y)).sum(1) / spread_x
    floor = (1e-9 * (1.0 + float(np.abs(y).max()))) ** 2  # of rounding, where a curve goes through all runs
    rss = np.maximum((weight * (y - mean_y - slope[:, None] * dx) ** 2).sum(1), floor)
    rise = bend(np.asarray(u.max()), EXPONENTS) - bend(np.asarray(u.min()), EXPONENTS)
    return _Sums(center, mean_x, mean_y, slope, spread_x, rise, total, rss, len(y) - 2)


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The best line for every exponent, its variance, and the log of how likely the exponent makes the runs."""

    sums: _Sums
    variance: np.ndarray
    likelihood: np.ndarray

    def at(self, place: float) -> tuple[np.ndarray, np.ndarray]:
        """Value and standard error at a place in log FLOPs, for every exponent."""
        step, value = self.steps(place)
        return value, np.sqrt(self.variance * (1 / self.sums.total + step**2 / self.sums.spread_x))

    def steps(self, place: float) -> tuple[np.ndarray, np.ndarray]:
        """How far a place is from the middle of the runs, in what the line is linear in, and the value there."""
        step = bend(np.asarray(place - self.sums.center), EXPONENTS) - self.sums.mean_x
        return step, self.sums.mean_y + self.sums.slope * step


def _lines(sums: _Sums, noise: float) -> _Lines:
    df = sums.df + 1
    variance = (sums.rss + noise) / df
    # Flat in the values at both ends of the data: the rise is measured in units of that of the curve over them.
    likelihood = -0.5 * np.log(sums.spread_x / sums.rise**2) - df / 2 * np.log(variance)
    return _Lines(sums, variance, likelihood - likelihood.max())


def _weights(fitted: Sequence[_Lines]) -> list[np.ndarray]:
    """The weights of the exponents of each curve, given all curves."""
    if not fitted:
        return []
    log = np.log(EXPONENTS)
    prior = np.exp(-0.5 * ((log - MEANS[:, None, None]) / SPREADS[None, :, None]) ** 2)
    prior = (prior / prior.sum(axis=2, keepdims=True)).reshape(-1, len(log))
    likelihood = np.exp([each.likelihood for each in fitted])
    evidence = prior @ likelihood.T  # [mu and tau, curve]
    hyper = np.log(evidence).sum(axis=1)
    hyper = np.exp(hyper - hyper.max())
    result = []
    for own, each in zip(likelihood, evidence.T, strict=True):
        weight = (hyper / each) @ prior * own
        result.append(weight / weight.sum())
    return result
