"""The choice for a budget: the best expected score, how sure that is, and what is not told apart from it.

The chosen score is the best of several noisy ones, and the best is too high on average. So the lower end of its
interval is that of the best of k independent scores, as many as are not told apart from it (Sidak 1967), and the upper
end is its own. With one candidate it is the ordinary interval; where all of the k are equal it holds the truth too
often, where one leads about as often as it is to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spendflops.study.frontier.belief import Belief, apart
from spendflops.study.frontier.interval import LEVEL, Interval
from spendflops.study.points import Axis
from spendflops.study.recommend.offers import Offer

DRAWS = 20_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """An offer beside the others; scores in the direction of the axis.

    Attributes:
        interval: Of its score, the mean over seeds; None where nothing is known of the noise.
        best: The probability that it is the best of the candidates; None if one of them has no interval.
        tied: Not told apart from the chosen one; the chosen one itself is not.
        lead: What the chosen one scores more, positive if that is better.
    """

    offer: Offer
    interval: Interval | None
    best: float | None
    tied: bool
    lead: float


def candidates(offers: Sequence[Offer], axis: Axis, *, level: float = LEVEL, seed: int = 0) -> list[Candidate]:
    """The offers for a budget, the best first, each with its interval and how sure its place is."""
    chosen, *others = offers
    ties = [_tied(chosen.belief, other.belief, level=level) for other in others]
    best = _best([offer.belief for offer in offers], seed=seed)
    found = []
    for place, offer in enumerate(offers):
        rivals = 1 + sum(ties) if not place else 1
        found.append(
            Candidate(
                offer=offer,
                interval=None if offer.belief is None else _interval(offer.belief, rivals, axis, level),
                best=best[place] if best else None,
                tied=bool(place) and ties[place - 1],
                lead=chosen.value - offer.value,
            )
        )
    return found


def _tied(one: Belief | None, other: Belief | None, *, level: float) -> bool:
    return one is None or other is None or apart(one, other, level=level) <= 0


def _interval(belief: Belief, rivals: int, axis: Axis, level: float) -> Interval:
    side = (1 - level) / 2
    ends = belief.quantile(1 - (1 - side) ** (1 / rivals)), belief.quantile(1 - side)
    low, high = sorted(axis.sign * end for end in ends)
    if axis.unit == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    return Interval(value=axis.sign * belief.mean, low=low, high=high, level=level)


def _best(beliefs: Sequence[Belief | None], *, seed: int) -> list[float]:
    """How often each score is the best of all when all are drawn."""
    known = [belief for belief in beliefs if belief is not None]
    if len(known) < len(beliefs):
        return []
    rng = np.random.default_rng(seed)
    drawn = np.stack([belief.draw(rng, DRAWS) for belief in known])
    counts = np.bincount(drawn.argmax(axis=0), minlength=len(known))
    return [float(count) / DRAWS for count in counts]
