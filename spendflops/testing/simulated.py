"""Simulated studies whose truth is known: what intervals and recommendations are tested on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from spendflops.study.points import Row, Score

UNIT = 1e18
"""FLOPs at which a curve has lost ``drop`` to its limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A method's true score, ``limit - drop (flops / UNIT)^-rate``."""

    limit: float
    drop: float
    rate: float

    def __call__(self, flops: float) -> float:
        return self.limit - self.drop * (flops / UNIT) ** -self.rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Another shape: a true score that rises by ``rise`` around ``place`` FLOPs, over a width in log FLOPs."""

    low: float
    rise: float
    place: float
    width: float

    def __call__(self, flops: float) -> float:
        return self.low + self.rise / (1 + math.exp(-math.log(flops / self.place) / self.width))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulated:
    """A study that can be drawn again and again.

    Attributes:
        curves: Label -> true score of some FLOPs.
        budgets: FLOPs of the runs of each curve.
        seeds: Runs a budget.
        sd: Of a run's score over seeds.
        shared: Standard deviation of what all methods of a seed have in common.
    """

    curves: Mapping[str, Callable[[float], float]]
    budgets: tuple[int, ...]
    seeds: int
    sd: float
    shared: float = 0.0

    def draw(self, rng: np.random.Generator) -> list[Row]:
        """The rows of one repetition."""
        common = rng.normal(0.0, self.shared, self.seeds) if self.shared else np.zeros(self.seeds)
        return [
            run(label, budget, curve(budget) + common[seed] + rng.normal(0.0, self.sd), seed=seed)
            for label, curve in self.curves.items()
            for budget in self.budgets
            for seed in range(self.seeds)
        ]


def run(label: str, budget: int, value: float, *, seed: int) -> Row:
    """A finished row with one score."""
    return Row(
        run_id=f"{label}-{budget}-{seed}",
        label=label,
        backbone="vit",
        dataset="images",
        seed=seed,
        budget=budget,
        flops={"pretrain": budget},
        steps=budget // 10**12,
        scores=(Score(evaluator="accuracy", protocol="simulated/1", metric="accuracy", value=float(value), unit="%"),),
    )
