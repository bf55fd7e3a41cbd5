"""Does the order of methods hold from task to task, and from seed to seed?

What is redrawn is the noise of every score. So a range here is a measure of stability, "how far the order may change
when the seeds do", and no interval for a population of tasks: noise alone lowers the agreement of two orders.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from spendflops.study.frontier.interval import LEVEL, NotEnough

Scores = Mapping[str, tuple[float, float | None]]
"""Method -> score and its standard error; larger is better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How much two tasks agree on the order of methods.

    Attributes:
        tau: Kendall's tau-b: 1 the same order, -1 the reverse.
        low, high: The range of ``tau`` over redrawn noise; None where a score has no standard error.
        methods: Scored on both.
        left_out: Scored on one of them alone.
    """

    tasks: tuple[str, str]
    tau: float
    low: float | None
    high: float | None
    methods: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A method over all tasks.

    Attributes:
        mean_rank: Over the tasks, 1 is best.
        first: How often it has the best mean rank when the noise is redrawn; None without standard errors.
    """

    method: str
    mean_rank: float
    first: float | None


def tau(one: Sequence[float], other: Sequence[float]) -> float | NotEnough:
    """Kendall's tau-b (1945) of two lists of scores of the same methods: pairs in the same order less the others."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    value = float(_tau(a[None], b[None])[0]) if len(a) > 1 else math.nan
    if math.isnan(value):
        return NotEnough(reason=f"{len(a)} methods, all equal" if len(a) > 1 else "one method has no order")
    return value


def agreement(
    tasks: Mapping[str, Scores], *, level: float = LEVEL, draws: int = 2000, seed: int = 0
) -> list[Agreement | NotEnough]:
    """Every pair of tasks.

    Args:
        tasks: Name -> scores, larger is better.
        level: Share of the draws inside the range.
        draws: Of the noise.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    return [_agreement(pair, tasks, level, draws, rng) for pair in itertools.combinations(tasks, 2)]


def _agreement(
    pair: tuple[str, str], tasks: Mapping[str, Scores], level: float, draws: int, rng: np.random.Generator
) -> Agreement | NotEnough:
    one, other = (tasks[name] for name in pair)
    methods = tuple(name for name in one if name in other)
    if len(methods) < 3:
        return NotEnough(reason=f"{pair[0]} and {pair[1]} have {len(methods)} methods in common; an order needs 3")
    found = tau([one[m][0] for m in methods], [other[m][0] for m in methods])
    if isinstance(found, NotEnough):
        return found
    low = high = None
    if all(scores[m][1] is not None for scores in (one, other) for m in methods):
        redrawn = _tau(_redraw(one, methods, draws, rng), _redraw(other, methods, draws, rng))
        low, high = (float(v) for v in np.nanquantile(redrawn, [(1 - level) / 2, (1 + level) / 2]))
    return Agreement(
        tasks=pair, tau=found, low=low, high=high, methods=methods, left_out=tuple(sorted(set(one) ^ set(other)))
    )


def places(tasks: Mapping[str, Scores], *, draws: int = 2000, seed: int = 0) -> list[Place] | NotEnough:
    """The methods that all tasks have scored, by mean rank."""
    methods = [m for m in next(iter(tasks.values()), {}) if all(m in scores for scores in tasks.values())]
    if len(tasks) < 2 or len(methods) < 2:
        return NotEnough(reason=f"{len(methods)} methods scored on all of {len(tasks)} tasks; ranks need 2 of both")
    rng = np.random.default_rng(seed)
    ranks = np.mean([_ranks(np.asarray([[scores[m][0] for m in methods]]))[0] for scores in tasks.values()], axis=0)
    first = None
    if all(scores[m][1] is not None for scores in tasks.values() for m in methods):
        drawn = np.mean([_ranks(_redraw(scores, methods, draws, rng)) for scores in tasks.values()], axis=0)
        best = drawn == drawn.min(axis=1, keepdims=True)
        first = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    found = [
        Place(method=m, mean_rank=float(ranks[i]), first=None if first is None else float(first[i]))
        for i, m in enumerate(methods)
    ]
    return sorted(found, key=lambda place: place.mean_rank)


def _redraw(scores: Scores, methods: Sequence[str], draws: int, rng: np.random.Generator) -> np.ndarray:
    values = np.asarray([scores[m][0] for m in methods])
    return values + rng.normal(size=(draws, len(methods))) * np.asarray([scores[m][1] for m in methods], float)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each row, 1 the largest; equal values share the mean of theirs."""
    above = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return above + (equal + 1) / 2


def _tau(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """tau-b of each row; nan where all values of one are equal."""
    upper = np.triu_indices(one.shape[1], 1)
    a, b = (np.sign(v[:, :, None] - v[:, None, :])[:, upper[0], upper[1]] for v in (one, other))
    scale = np.sqrt((a != 0).sum(axis=1) * (b != 0).sum(axis=1)).astype(float)
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
