"""What nothing dominates: the front, the area under it, and how sure it is that a point belongs to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from spendflops.study.frontier.interval import NotEnough

_CELLS = 10**7
"""Comparisons that are held at a time."""


def non_dominated(
    costs: Sequence[float], scores: Sequence[float], *, maximise: bool = True, tolerance: float = 0.0
) -> list[bool]:
    """Which points nothing dominates: lower cost and better score.

    A point is dominated by a strictly better score at its cost or less, or by an equal score at less. Costs within the
    relative ``tolerance`` are equal.
    """
    sign = 1 if maximise else -1
    pairs = [(cost, sign * score) for cost, score in zip(costs, scores, strict=True)]

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return (a[1] > b[1] and a[0] <= b[0] * (1 + tolerance)) or (a[1] == b[1] and a[0] * (1 + tolerance) < b[0])

    return [not any(dominates(other, pair) for other in pairs) for pair in pairs]


def hypervolume(costs: Sequence[float], scores: Sequence[float], *, reference: tuple[float, float]) -> float:
    """Area dominated by the points up to the reference (highest cost, lowest score), for scores to maximise."""
    worst, least = reference
    keep = non_dominated(costs, scores)
    kept = {(c, s) for c, s, on_front in zip(costs, scores, keep, strict=True) if on_front}
    front = sorted((c, s) for c, s in kept if c < worst and s > least)
    ends = [*(cost for cost, _ in front), worst]
    widths = (end - cost for cost, end in itertools.pairwise(ends))
    return sum(width * (score - least) for width, (_, score) in zip(widths, front, strict=True))


def front_frequency(
    costs: Sequence[float],
    scores: Sequence[float],
    errors: Sequence[float | None],
    *,
    maximise: bool = True,
    draws: int = 2000,
    seed: int = 0,
) -> list[float] | NotEnough:
    """How often each point is on the front when all scores are drawn anew with their standard errors.

    A parametric bootstrap: belonging to a front is all or nothing and hangs on the noise of every rival. It is a
    measure of stability, not a probability with a coverage: the best of several noisy scores is too high on average.

    Returns:
        A share a point, or :class:`NotEnough` where a score has no error.
    """
    unknown = sum(error is None for error in errors)
    if unknown:
        return NotEnough(reason=f"{unknown} of {len(errors)} points have no spread", fix="two or more seeds a point")
    noise = np.random.default_rng(seed).normal(size=(draws, len(scores)))
    drawn = (1 if maximise else -1) * np.asarray(scores, float) + noise * np.asarray(errors, float)
    cost = np.asarray(costs, float)
    cheaper, dearer = cost[None, :] < cost[:, None], cost[None, :] > cost[:, None]  # [i, j]: j is cheaper than i
    beaten = np.zeros(len(scores))
    for block in np.array_split(drawn, max(1, draws * len(scores) ** 2 // _CELLS)):
        better = (block[:, None, :] > block[:, :, None]) & ~dearer
        equal = (block[:, None, :] == block[:, :, None]) & cheaper
        beaten += (better | equal).any(axis=2).sum(axis=0)
    return [float(share) for share in 1 - beaten / draws]
