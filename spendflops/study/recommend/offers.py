"""What each curve offers for a budget, and what is known of that score.

A curve of three lengths or more is a saturating power law, fitted together with the others (``frontier/family.py``):
it says something between its runs, and up to a stated factor beyond them. A shorter one is linear in log FLOPs between
its runs and says nothing beyond them, and so are all curves of a task where the seeds of one say that it is no such
law: to extrapolate some of them and not the others would favour those (``benchmarks/regret.py``). A run that costs less
than the budget may always be made: where a curve ends, its longest run is what it offers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from spendflops.study.frontier.belief import Belief, apart, student
from spendflops.study.frontier.crossover import far
from spendflops.study.frontier.curves import COST_TOLERANCE, Point, curves, mixed, near, one_axis, weights
from spendflops.study.frontier.family import Member, together
from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.noise import Noise, Noises, assumed, moderated, stated
from spendflops.study.points import Axis
from spendflops.study.report.text import flops, listing

BEYOND = 2.0
"""How many times beyond its runs a curve is believed, unless somebody says otherwise."""
BETWEEN = 2.0
"""Lengths further apart than this factor do not say what a curve scores between them: how wrong the straight line is no
noise tells. A crossing of two such lines is less wrong than they are (``crossover.FAR``)."""
EXACT = 1e-6
"""Share of a score below which a noise is that of rounding: scores of a few digits, or at their ceiling."""
NO_LAW = 0.05
"""Curves are no saturating laws where the seeds of one say so, with this probability of being wrong for all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """What a curve offers for a budget. Scores are turned so that more is better.

    Attributes:
        basis: ``"curve"``, ``"interpolated"`` or ``"run"``: the fitted law, between two runs, or a run that was made.
        flops: What is spent: the budget, or what the run cost.
        factor: How many times beyond the runs of the curve that is; 1 inside.
        value: The score to expect.
        belief: What is known of it; None where nothing is known of the noise, or of the curve between its runs.
        note: Why nothing is known of the curve there; empty if something is.
        open: What more FLOPs would bring is not known: the curve ends below the budget.
    """

    name: str
    points: tuple[Point, ...]
    basis: str
    flops: float
    factor: float
    value: float
    belief: Belief | None
    note: str = ""
    open: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silent:
    """A curve that says nothing for a budget."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """The curves of one axis.

    Attributes:
        members: The fitted laws by name of the curve.
        noises: Of single runs.
        notes: Why a curve is not one of ``members``, by name.
        beyond: How many times beyond its runs a law is believed.
    """

    axis: Axis
    curves: Mapping[str, tuple[Point, ...]]
    members: Mapping[str, Member]
    noises: Noises | NotEnough
    notes: Mapping[str, str]
    beyond: float = BEYOND

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest budget of which the curves say anything."""
        lows = [c[0].flops / (self.beyond if n in self.members else 1) for n, c in self.curves.items()]
        return float(min(lows)), float(self.beyond * max(curve[-1].flops for curve in self.curves.values()))

    def offer(self, name: str, budget: float) -> Offer | Silent:
        """What one curve offers."""
        curve, low = self.curves[name], self.curves[name][0].flops
        parts = self._parts(name, budget)
        if parts is None:
            return Silent(name=name, reason=f"runs begin at {flops(low)} FLOPs, {low / budget:.3g} times the budget")
        whole = self._offer(name, budget, parts)
        shorter = [self._offer(name, p.flops, ((1.0, p),)) for p in curve if p.flops * (1 + COST_TOLERANCE) < budget]
        best = max(shorter, key=lambda o: o.value, default=whole)
        # More FLOPs may make it worse: then the budget is not spent in full.
        if best.value <= whole.value:
            return whole
        rival = whole
        if len(parts) == 2 and best.flops == parts[0][1].flops:
            # A line shares its first run with what it is compared with: the two ends are told apart, or nothing is.
            rival = self._offer(name, parts[1][1].flops, ((1.0, parts[1][1]),))
        known = best.belief is not None and rival.belief is not None
        return best if not known or apart(best.belief, rival.belief) > 0 else whole

    def offers(self, budget: float) -> tuple[list[Offer], list[Silent]]:
        """What all curves offer, the best first, and those that say nothing."""
        found = [self.offer(name, budget) for name in self.curves]
        offers = sorted((f for f in found if isinstance(f, Offer)), key=lambda o: (-o.value, o.flops, o.name))
        return offers, [f for f in found if isinstance(f, Silent)]

    def _parts(self, name: str, budget: float) -> tuple[tuple[float, Point], ...] | None:
        """The runs between which a budget lies, with their weights: none where a law says more, None for silence."""
        curve = self.curves[name]
        low, high = curve[0].flops, curve[-1].flops
        member = self.members.get(name)
        if member is not None and max(budget / high, low / budget) <= self.beyond:
            falls = budget > high and member.belief(budget).mean < member.belief(high).mean
            if not falls:  # one that does is followed no further than its runs
                return ()
        inside = tuple(part for part in weights(curve, budget) if part[0]) or near(curve, budget)
        return inside or (((1.0, curve[-1]),) if budget > high else None)

    def _offer(self, name: str, budget: float, parts: tuple[tuple[float, Point], ...]) -> Offer:
        """The score at a budget, from the runs around it or, where the curve is a law, from that."""
        curve, member = self.curves[name], self.members.get(name)
        spent = float(parts[0][1].flops) if len(parts) == 1 else budget
        belief = member.belief(spent) if member is not None else self._student(parts)
        note = ""
        if member is None and len(parts) > 1:
            note = far(curve, curve, budget, most=BETWEEN)
        if note:
            belief = None
        return Offer(
            name=name,
            points=curve,
            basis=("curve", "run", "interpolated")[len(parts)],
            flops=spent,
            factor=1.0 if parts else max(budget / curve[-1].flops, curve[0].flops / budget, 1.0),
            value=mixed(parts).value * self.axis.sign if belief is None else belief.mean,
            belief=belief,
            note=note,
            open=bool(parts) and budget > curve[-1].flops * (1 + COST_TOLERANCE),
        )

    def _student(self, parts: Sequence[tuple[float, Point]]) -> Belief | None:
        if isinstance(self.noises, NotEnough):
            return None
        error, df = self.noises.mixed(parts)
        return student(mixed(parts).value * self.axis.sign, error, df)


def field(points: Sequence[Point], *, noise: float | None = None, beyond: float = BEYOND) -> Field:
    """What is known of the curves of one axis.

    Args:
        points: Of one axis; those that cost nothing are no curves.
        noise: The standard deviation of a run over seeds, where somebody states it.
        beyond: How many times beyond its runs a law is believed.

    Raises:
        ConfigError: A noise that is no positive number.
    """
    axis = one_axis(point.axis for point in points)
    lines = curves(points)
    seeds = assumed(noise) if noise is not None else moderated(points)
    fitted = together({n: _runs(curve) for n, curve in lines.items()}, higher_is_better=axis.higher_is_better)
    members = {name: member for name, member in fitted.items() if isinstance(member, Member)}
    notes = {name: member.reason for name, member in fitted.items() if isinstance(member, NotEnough)}
    if not isinstance(seeds, NotEnough):
        level = NO_LAW / max(len(members), 1)  # of any of the curves (Bonferroni)
        lawless = [n for n, member in members.items() if not _is_law(lines[n], member, seeds.typical, level=level)]
        if lawless:
            notes |= dict.fromkeys(members, f"{listing(lawless)}, of the same task, is no saturating power law")
            notes |= dict.fromkeys(lawless, "its seeds say that it is no saturating power law")
            members = {}
    noises = seeds
    if isinstance(seeds, NotEnough) and members:
        # A run around its curve: what is left of three lengths or more.
        left = [(float(m.weights @ m.lines.variance), m.df - 1) for m in members.values()]
        df = sum(n for _, n in left)
        sd = float(np.sqrt(sum(v * n for v, n in left) / df))
        if sd <= EXACT * max(abs(y) for curve in lines.values() for p in curve for y in p.values):
            notes |= dict.fromkeys(
                members, "its scores lie on a law to the last digit: how far a run strays is not known"
            )
            members = {}
        else:
            source = f"residuals of {len(left)} curve{'s' if len(left) != 1 else ''}, {df} degrees of freedom"
            noises = stated(Noise(sd=sd, df=df), f"{source}; {seeds.reason}")
    return Field(axis=axis, curves=lines, members=members, noises=noises, notes=notes, beyond=beyond)


def _runs(curve: Sequence[Point]) -> tuple[list[float], list[float]]:
    """FLOPs and score of every run of a curve."""
    pairs = [(float(point.flops), value) for point in curve for value in point.values]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _is_law(curve: Sequence[Point], member: Member, noise: Noise, *, level: float) -> bool:
    """An F test of the means of a curve's points against its best law: is what is left more than the noise of seeds?"""
    if not noise.sd:
        return True
    df = len(curve) - 2  # one more than a fit leaves, in favour of the law
    left = sum(
        len(p.values) * (member.sign * float(np.mean(p.values)) - member.lines.steps(math.log(p.flops))[1]) ** 2
        for p in curve
    )
    ratio = float(np.min(left)) / df / noise.sd**2
    chance = special.chdtrc(df, df * ratio) if math.isinf(noise.df) else special.fdtrc(df, noise.df, ratio)
    return bool(chance > level)
