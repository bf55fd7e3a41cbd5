"""What points say: fronts, envelopes, crossovers, laws, optima, ranks, what tuning cost. Without jax."""

from spendflops.study.frontier.crossover import Crossover, crossovers
from spendflops.study.frontier.curves import (
    COST_TOLERANCE,
    Point,
    at,
    curve_name,
    curves,
    one_axis,
    points,
    select,
    varying,
)
from spendflops.study.frontier.interval import LEVEL, Interval, NotEnough
from spendflops.study.frontier.pareto import front_frequency, hypervolume, non_dominated
from spendflops.study.frontier.verdicts import RULE, Analysis, Answer, Candidate, Verdict, analyse, answer, verdicts

__all__ = [
    "COST_TOLERANCE",
    "LEVEL",
    "RULE",
    "Analysis",
    "Answer",
    "Candidate",
    "Crossover",
    "Interval",
    "NotEnough",
    "Point",
    "Verdict",
    "analyse",
    "answer",
    "at",
    "crossovers",
    "curve_name",
    "curves",
    "front_frequency",
    "hypervolume",
    "non_dominated",
    "one_axis",
    "points",
    "select",
    "varying",
    "verdicts",
]
