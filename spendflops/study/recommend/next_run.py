"""The next run to make: the one whose result is expected to improve the choice most for its FLOPs.

A run at some length moves what is known of its curve at the budget, by how much is known before it is made: with
covariance k between the curve there and here, variance v there and noise s^2 of a run, its mean here will have moved by
a normal with standard deviation k / sqrt(v + s^2). The gain is what the best of the moved scores is expected to exceed
today's best by: the knowledge gradient (Gupta and Miescher 1996; Frazier, Powell and Dayanik 2008). It is normal
throughout, with intervals as wide as those of Student's t: good for the order of runs, not for more.

A curve of which nothing is known at the budget counts as one more draw from the curves of which something is.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

from scipy import special

from spendflops.study.frontier.belief import widening
from spendflops.study.frontier.curves import COST_TOLERANCE, Point, weights
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.noise import Noises
from spendflops.study.recommend.offers import Field, Offer

UNLIKELY = 0.005
"""A run that changes the choice with less than this probability is not worth making for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextRun:
    """A run that was not made.

    Attributes:
        flops: Its length, on the axis: what it costs.
        seed: Whether it is one more seed of a run that was made.
        gain: By how much it is expected to raise the score of what is then chosen.
        changes: The probability that another curve is chosen after it.
        note: Why this one, where there is no gain to compare.
    """

    name: str
    flops: float
    seed: bool
    gain: float | None = None
    changes: float | None = None
    note: str = ""


def next_run(field: Field, budget: float, offers: Sequence[Offer]) -> NextRun:
    """The run of the largest gain for its FLOPs among those that cost no more than the budget.

    Where none of them is likely to change the choice, the next length of what is chosen.
    """
    if not offers:
        first = max(field.curves.values(), key=lambda c: c[0].estimate.value * field.axis.sign)
        return NextRun(name=first[0].name, flops=budget, seed=False, note="no run was made for so little")
    longest = offers[0].points[-1]
    further = NextRun(
        name=longest.name,
        flops=longest.flops * field.beyond,
        seed=False,
        note="no run up to this budget is likely to change the choice; this one says what more FLOPs bring",
    )
    if budget > longest.flops * field.beyond:
        return dataclasses.replace(further, note="the best curve, as far as it is believed")
    if isinstance(field.noises, NotEnough):
        return NextRun(
            name=offers[0].name,
            flops=_own(offers[0]).flops,
            seed=True,
            note="nothing is known of the noise: without a second seed no two scores are told apart",
        )
    found = (run for run in _runs(field, budget, offers, field.noises) if (run.changes or 0.0) >= UNLIKELY)
    return max(found, key=lambda run: (run.gain or 0.0) / run.flops, default=further)


def _runs(field: Field, budget: float, offers: Sequence[Offer], noises: Noises) -> Iterator[NextRun]:
    """Every run that is considered, with what it is expected to bring."""
    values = {offer.name: offer.value for offer in offers}
    prior = statistics.stdev(values.values()) if len(values) > 1 else None
    middle = statistics.fmean(values.values())
    for name, curve in field.curves.items():
        offer = next((o for o in offers if o.name == name), None)
        value = middle if offer is None else offer.value
        rival = max((v for other, v in values.items() if other != name), default=None)
        if rival is None:
            return
        lengths = [p.flops for p in curve if p.flops <= budget * (1 + COST_TOLERANCE)]
        if all(abs(length / budget - 1) > COST_TOLERANCE for length in lengths):
            lengths.append(round(budget))
        for length in lengths:
            moved = _moved(field, curve, offer, length, budget, noises, prior)
            if moved:
                gain, changes = _gain(value, rival, moved)
                made = any(p.flops == length for p in curve)
                yield NextRun(name=name, flops=length, seed=made, gain=gain, changes=changes)


def _moved(
    field: Field,
    curve: Sequence[Point],
    offer: Offer | None,
    length: float,
    budget: float,
    noises: Noises,
    prior: float | None,
) -> float:
    """The standard deviation of how a run moves what is expected of a curve at the budget."""
    name, made = curve[0].name, next((p for p in curve if p.flops == length), None)
    member = field.members.get(name)
    if member is not None and offer is not None and not offer.open:
        noise = noises.of(made).sd if made is not None else noises.typical.sd
        total = member.covariance(length, length) + noise**2
        return abs(member.covariance(length, offer.flops)) / math.sqrt(total)
    if offer is None or offer.open or offer.belief is None:  # nothing is known of it at the budget
        if made is not None or prior is None:
            return 0.0
        return prior**2 / math.hypot(prior, noises.typical.sd)
    if made is None:
        return offer.belief.sd**2 / math.hypot(offer.belief.sd, noises.typical.sd)
    own = noises.of(made).error(len(made.rows)) * widening(noises.of(made).df)
    if offer.basis == "run":
        return own**2 / math.hypot(own, noises.of(made).sd) if made is _own(offer) else 0.0
    share = _share(curve, made, budget)
    return share * own**2 / math.hypot(own, noises.of(made).sd)


def _share(curve: Sequence[Point], made: Point, budget: float) -> float:
    """The weight of a run in the score at the budget, by interpolation between its neighbours."""
    return sum(share for share, point in weights(curve, budget) if point is made)


def _own(offer: Offer) -> Point:
    """The run of an offer that is nearest to what it spends."""
    return min(offer.points, key=lambda p: abs(math.log(p.flops / offer.flops)))


def _gain(value: float, rival: float, moved: float) -> tuple[float, float]:
    """The expected gain of the best, and the probability that the order changes."""
    z = -abs(value - rival) / moved
    below = float(special.ndtr(z))
    return moved * (z * below + math.exp(-z * z / 2) / math.sqrt(2 * math.pi)), below
