"""Where the choice flips: the budgets from which on another curve is the best, and between which that may be."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from spendflops.study.frontier.belief import apart
from spendflops.study.frontier.crossover import far, first_sign
from spendflops.study.recommend.offers import Field, Offer

_PLACES = 48
_HALVINGS = 14
_JUMP = 1e-3
"""Curves that cross differ by less than this share of a score where they do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """``dear`` is chosen from ``flops`` on, ``cheap`` below.

    Attributes:
        low, high: Ends of the stretch around it on which the two are not told apart; None where it is open up to the
            end of what is known of both.
        factor: How many times beyond the runs of one of the two it lies; 1 inside.
        note: Why it flips there, or why there is no interval; empty for two curves that cross.
    """

    cheap: str
    dear: str
    flops: float
    low: float | None = None
    high: float | None = None
    factor: float = 1.0
    note: str = ""


def flips(field: Field) -> list[Flip]:
    """All places where the choice changes, from the least to the largest budget of which the curves say anything."""
    low, high = field.reach
    found = []
    places = np.geomspace(low, high, _PLACES).tolist()
    before = _chosen(field, places[0])
    for left, right in itertools.pairwise(places):
        after = _chosen(field, right)
        # A curve that is the best only between two places is missed; places are closer than lengths of a study.
        while before is not None and after is not None and after.name != before.name:
            left, before, flip = _flip(field, left, right, before.name)
            found.append(flip)
        before = after
    return found


def _chosen(field: Field, budget: float) -> Offer | None:
    offers, _ = field.offers(budget)
    return offers[0] if offers else None


def _flip(field: Field, left: float, right: float, name: str) -> tuple[float, Offer, Flip]:
    """The first place between two at which ``name`` is no longer chosen: just behind it, what is chosen there."""
    for _ in range(_HALVINGS):
        middle = math.sqrt(left * right)
        chosen = _chosen(field, middle)
        left, right = (middle, right) if chosen is not None and chosen.name == name else (left, middle)
    one, other = _chosen(field, left), _chosen(field, right)
    assert one is not None and other is not None
    place, before = math.sqrt(left * right), field.offer(other.name, left)
    low, high, note = None, None, ""
    if not isinstance(before, Offer):
        note = f"{other.name} is known from there on"
    elif one.belief is None or other.belief is None:
        note = one.note or other.note or "nothing is known of the noise"
    elif one.value - before.value > _JUMP * abs(one.value):
        note = "one of the two is known by another way from there on"
    else:
        note = _far(field, one.name, other.name, place)
        low, high = (None, None) if note else _interval(field, one.name, other.name, place)
    flip = Flip(
        cheap=one.name,
        dear=other.name,
        flops=place,
        low=low,
        high=high,
        factor=max(one.factor, other.factor),
        note=note,
    )
    return right, other, flip


def _far(field: Field, one: str, other: str, place: float) -> str:
    """Why lines between runs do not say where two curves cross; a fitted law is no such line."""
    lines = [field.curves[name] for name in (one, other) if name not in field.members]
    return far(lines[0], lines[-1], place) if lines else ""


def _interval(field: Field, one: str, other: str, place: float) -> tuple[float | None, float | None]:
    """The stretch around a place on which two curves are not told apart."""

    def told(at: float) -> float:
        a, b = (field.offer(name, math.exp(at)) for name in (one, other))
        if not (isinstance(a, Offer) and isinstance(b, Offer)) or a.belief is None or b.belief is None:
            return -1.0  # nothing is known of one of them
        return apart(a.belief, b.belief)

    ends = [field.reach[0], *(p.flops for name in (one, other) for p in field.curves[name]), field.reach[1]]
    knots, middle = sorted({math.log(end) for end in ends}), math.log(place)
    low = first_sign(told, [middle, *(k for k in reversed(knots) if k < middle)])
    high = first_sign(told, [middle, *(k for k in knots if k > middle)])
    return None if low is None else math.exp(low), None if high is None else math.exp(high)
