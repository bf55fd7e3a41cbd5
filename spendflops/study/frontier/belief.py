"""What is known of one score: a mixture of Student's t, of which larger is better."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import special

from spendflops.study.compare import t_critical
from spendflops.study.frontier.interval import LEVEL
from spendflops.study.frontier.noise import together


@dataclasses.dataclass(frozen=True)
class Belief:
    """A mixture of Student's t.

    Attributes:
        weights: Of the components; they sum to 1.
        places, scales: Of each component.
        df: Degrees of freedom of all of them; may be infinite.
    """

    weights: np.ndarray
    places: np.ndarray
    scales: np.ndarray
    df: float

    @property
    def mean(self) -> float:
        """The expected score."""
        return float(self.weights @ self.places)

    @property
    def error(self) -> float:
        """The standard error of the one Student's t with these degrees of freedom and as wide an interval."""
        if len(self.places) == 1:
            return float(self.scales[0])
        width = self.quantile((1 + LEVEL) / 2) - self.quantile((1 - LEVEL) / 2)
        return width / 2 / t_critical(self.df, 1 - LEVEL)

    @property
    def sd(self) -> float:
        """The standard deviation of the normal with as wide an interval."""
        return self.error * widening(self.df)

    def quantile(self, share: float) -> float:
        """The score below which it lies with probability ``share``, by bisection."""
        reach = abs(float(special.stdtrit(self.df, min(share, 1 - share) / 10))) * self.scales
        low, high = float((self.places - reach).min()), float((self.places + reach).max())
        for _ in range(80):
            middle = (low + high) / 2
            below = float(self.weights @ special.stdtr(self.df, (middle - self.places) / self.scales))
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """``count`` scores."""
        which = rng.choice(len(self.weights), count, p=self.weights)
        noise = rng.normal(size=count) if math.isinf(self.df) else rng.standard_t(self.df, count)
        return self.places[which] + self.scales[which] * noise


def student(value: float, error: float, df: float) -> Belief:
    """A value with its standard error and degrees of freedom."""
    return Belief(np.ones(1), np.array([value]), np.array([error]), df)


def widening(df: float) -> float:
    """How much wider an interval of Student's t is than the normal's."""
    return t_critical(df, 1 - LEVEL) / t_critical(math.inf, 1 - LEVEL)


def apart(one: Belief, other: Belief, *, level: float = LEVEL) -> float:
    """How far two scores are apart, less what it takes to tell them apart: the interval of their difference excludes 0
    where this is positive."""
    error, df = together([(one.error, one.df), (other.error, other.df)])
    return abs(one.mean - other.mean) - t_critical(df, 1 - level) * error
