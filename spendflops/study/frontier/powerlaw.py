"""Saturating power laws: score = c - a flops^-b, fitted robustly, with what they are worth beyond the data.

Three parameters need four lengths, and are known badly even then: the limit ``c`` and the exponent trade against each
other. What is known is the curve near the data. So the interval of a prediction is that of its own profile: all values
with which some curve of the family fits nearly as well as the best. It is asymmetric where the data say so, and covers
with few points, where the delta method and a bootstrap of residuals do not; docs/answer.md has the numbers.

Every fit is also made without its longest runs and compared with them, and every prediction says how far beyond the
data it is.

The family is written as ``alpha + beta (1 - exp(-b u)) / b`` in ``u`` = log FLOPs less their mean: linear but for the
exponent, and at b = 0 a straight line in log FLOPs, the curve that does not saturate.

Robust: Huber's loss with his second proposal for the scale (Huber 1981, section 7.7), tuned to 95 % efficiency.
Hoffmann et al. 2022 (arXiv 2203.15556, section D.2) use his loss, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special

from spendflops.contracts.errors import DataError
from spendflops.study.compare import t_critical
from spendflops.study.frontier.interval import LEVEL, NotEnough

PARAMETERS = 3
HUBER = 1.345
EXPONENTS = np.concatenate([[0.0], np.geomspace(0.01, 3.0, 96)])
"""Where the exponent is looked for; 0 is the line in log FLOPs."""

_ZOOMS = 4
"""Of the grid of exponents onto the best of them: to 1e-5 of it."""
_ROUNDS = 30
"""Of reweighting; the weights of a dozen runs settle in fewer."""
_INSIDE = 1 - 2 * special.ndtr(-HUBER)
_DENSITY = math.exp(-HUBER * HUBER / 2) / math.sqrt(2 * math.pi)
_PSI_SQUARED = _INSIDE - 2 * HUBER * _DENSITY + 2 * HUBER**2 * special.ndtr(-HUBER)
"""Mean of min(|z|, HUBER)^2 of a standard normal z."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A score of the curve at some FLOPs, the mean over seeds.

    Attributes:
        low, high: Ends of the interval.
        factor: How many times beyond the measured FLOPs, above or below; 1 inside.
    """

    flops: float
    value: float
    low: float
    high: float
    level: float
    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a fit without the longest runs says of them.

    Attributes:
        error: Prediction less the mean of what was measured, in units of the score.
        factor: How many times beyond the other runs they are.
    """

    flops: float
    error: float
    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A fitted curve.

    Attributes:
        limit, drop, exponent: Of score = limit - drop flops^-exponent. The limit is infinite at exponent 0.
        sd: Robust standard deviation of a run around the curve.
        df: Runs less parameters.
        lengths: Different FLOPs that were measured.
        held_out: The check on the longest runs.
        flops: Of the runs.
        sign: 1 if more is better.
    """

    limit: float
    drop: float
    exponent: float
    sd: float
    df: int
    lengths: int
    held_out: HeldOut
    flops: tuple[float, ...]
    sign: int
    curve: _Curve = dataclasses.field(repr=False, compare=False)

    @property
    def saturates(self) -> bool:
        """Whether the data bend towards a limit at all."""
        return self.exponent > 0

    def __call__(self, flops: float) -> float:
        """The score of the curve."""
        return self.curve.at(math.log(flops)) * self.sign

    def predict(self, flops: float, *, level: float = LEVEL) -> Prediction:
        """The score at some FLOPs, with the profile interval of the curve there."""
        low, high = self.curve.profile(math.log(flops), level=level)
        ends = sorted((low * self.sign, high * self.sign))
        factor = max(flops / max(self.flops), min(self.flops) / flops, 1.0)
        return Prediction(flops=flops, value=self(flops), low=ends[0], high=ends[1], level=level, factor=factor)


def fit(flops: Sequence[float], scores: Sequence[float], *, higher_is_better: bool = True) -> PowerLaw | NotEnough:
    """Fits runs of one method.

    Args:
        flops: Of each run, positive.
        scores: Of each run; several seeds of one length are several runs.
        higher_is_better: Whether the curve rises to its limit.

    Raises:
        DataError: A number that is not finite, or FLOPs that are not positive.
    """
    x, y = np.asarray(flops, float), np.asarray(scores, float)
    wrong = [i for i in range(len(x)) if not (np.isfinite(y[i]) and np.isfinite(x[i]) and x[i] > 0)]
    if wrong:
        raise DataError(
            f"run {wrong[0] + 1} of {len(x)} has {x[wrong[0]]:g} FLOPs and the score {y[wrong[0]]:g}",
            why="a curve over log FLOPs needs positive FLOPs and finite scores",
        )
    lengths = np.unique(x)
    if len(lengths) <= PARAMETERS:
        return NotEnough(
            reason=f"{len(lengths)} length{'s' if len(lengths) != 1 else ''}; a curve of {PARAMETERS} parameters and "
            f"a check on the longest need {PARAMETERS + 1}",
            fix="measure more lengths, a factor of two apart",
        )
    sign = 1 if higher_is_better else -1
    found = _best(np.log(x), sign * y)
    return PowerLaw(
        limit=sign * found.limit,
        drop=sign * found.drop,
        exponent=found.exponent,
        sd=found.sd,
        df=len(x) - PARAMETERS,
        lengths=len(lengths),
        held_out=_held_out(x, sign * y, sign),
        flops=tuple(x.tolist()),
        sign=sign,
        curve=found,
    )


def _held_out(x: np.ndarray, y: np.ndarray, sign: int) -> HeldOut:
    last, rest = x == x.max(), x < x.max()
    error = _best(np.log(x[rest]), y[rest]).at(math.log(x.max())) - y[last].mean()
    return HeldOut(flops=float(x.max()), error=float(sign * error), factor=float(x.max() / x[rest].max()))


def downweighted(log_flops: np.ndarray, y: np.ndarray, bound: float) -> np.ndarray:
    """Weights of runs: 1, or less for those further than ``bound`` robust standard deviations from their best curve."""
    if len(np.unique(log_flops)) <= PARAMETERS:
        return np.ones_like(y)
    curve = _best(log_flops, y)
    residual = np.array([curve.at(place) for place in log_flops]) - y
    return np.minimum(1.0, bound * curve.sd / np.maximum(np.abs(residual), 1e-300))


@dataclasses.dataclass(frozen=True)
class _Curve:
    """The best curve that rises: ``alpha + beta bend(u)``, with the data it was fitted to."""

    u: np.ndarray
    y: np.ndarray
    center: float
    alpha: float
    beta: float
    exponent: float
    sd: float

    @property
    def limit(self) -> float:
        return self.alpha + self.beta / self.exponent if self.exponent else math.inf

    @property
    def drop(self) -> float:
        return self.beta / self.exponent * math.exp(self.exponent * self.center) if self.exponent else math.inf

    def at(self, place: float) -> float:
        return float(self.alpha + self.beta * bend(np.asarray(place - self.center), self.exponent))

    def profile(self, place: float, *, level: float) -> tuple[float, float]:
        """The values at a place with which some curve still fits."""
        value, best = self.at(place), self._loss(self.at(place), place)
        df = max(len(self.y) - PARAMETERS, 1)
        bound = t_critical(df, 1 - level) ** 2 * _PSI_SQUARED / _INSIDE

        def over(candidate: float) -> float:
            return self._loss(candidate, place) - best - bound

        return _edge(over, value, -self.sd), _edge(over, value, self.sd)

    def _loss(self, value: float, place: float) -> float:
        """Twice the loss of the best curve through ``value`` at ``place``, in units of the scale."""
        steps = bend(self.u[None, :], EXPONENTS[:, None]) - bend(np.asarray(place - self.center), EXPONENTS)[:, None]
        residual = (self.y - value) / self.sd
        slope = np.zeros(len(EXPONENTS))
        for _ in range(_ROUNDS):
            left = residual - slope[:, None] * steps
            weight = _weights(left)
            slope = np.maximum((weight * steps * residual).sum(1) / (weight * steps**2).sum(1), 0.0)
        return 2 * _lowest(_rho(residual - slope[:, None] * steps).sum(1))


def bend(u: np.ndarray, exponent: np.ndarray | float) -> np.ndarray:
    """(1 - exp(-b u)) / b, which is u at b = 0: what every curve is linear in once its exponent is known."""
    b = np.asarray(exponent, float)
    return np.where(b == 0, u, -np.expm1(-b * u) / np.where(b == 0, 1.0, b))


def _weights(residual: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(residual), 1e-300))


def _rho(residual: np.ndarray) -> np.ndarray:
    size = np.abs(residual)
    return np.where(size <= HUBER, 0.5 * size**2, HUBER * size - 0.5 * HUBER**2)


def _lowest(values: np.ndarray) -> float:
    """The least of values on a grid: of the parabola through the least and its neighbours."""
    i = int(np.argmin(values))
    if not 0 < i < len(values) - 1:
        return float(values[i])
    left, middle, right = values[i - 1 : i + 2]
    bend = left - 2 * middle + right
    return float(middle - (right - left) ** 2 / (8 * bend)) if bend > 0 else float(middle)


def _best(log_flops: np.ndarray, y: np.ndarray) -> _Curve:
    center = float(log_flops.mean())
    u = log_flops - center
    exponents, found = EXPONENTS, (0.0, 0.0, 0.0, 0.0)
    for _ in range(_ZOOMS):
        alpha, beta, sd, objective = _linear(u, y, exponents)
        i = int(np.argmin(objective))
        found = float(alpha[i]), float(beta[i]), float(exponents[i]), float(sd[i])
        exponents = np.linspace(exponents[max(i - 1, 0)], exponents[min(i + 1, len(exponents) - 1)], 33)
    return _Curve(u, y, center, *found)


def _linear(u: np.ndarray, y: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, ...]:
    """Level, rise, scale and Huber's joint objective of the best curve of each exponent; the rise is not negative."""
    x = bend(u[None, :], exponents[:, None])
    df = max(len(y) - PARAMETERS, 1)
    floor = 1e-12 * (1.0 + float(np.abs(y).max()))  # of the scale, where a curve goes through all runs
    scale = np.full(len(exponents), max(float(y.std()), floor))
    weight = np.ones_like(x)
    for _ in range(_ROUNDS):
        total = weight.sum(1)
        mean_x, mean_y = (weight * x).sum(1) / total, (weight * y).sum(1) / total
        dx = x - mean_x[:, None]
        beta = np.maximum((weight * dx * (y - mean_y[:, None])).sum(1) / (weight * dx**2).sum(1), 0.0)
        alpha = mean_y - beta * mean_x
        residual = y - alpha[:, None] - beta[:, None] * x
        bounded = np.minimum(np.abs(residual / scale[:, None]), HUBER) ** 2
        scale = np.maximum(scale * np.sqrt(bounded.sum(1) / (df * _PSI_SQUARED)), floor)
        weight = _weights(residual / scale[:, None])
    objective = scale * (_rho(residual / scale[:, None]).sum(1) + 0.5 * df * _PSI_SQUARED)
    return alpha, beta, scale, objective


def _edge(over: Callable[[float], float], value: float, step: float) -> float:
    """Where ``over`` changes its sign on one side of a value; infinite if that is nowhere near."""
    for _ in range(40):
        if over(value + step) > 0:
            return float(optimize.brentq(over, value, value + step, xtol=1e-6 * abs(step)))
        step *= 1.6
    return math.copysign(math.inf, step)
