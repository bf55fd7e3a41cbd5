"""Spend less to know the same: successive halving over lengths, and the price of a trunk with branches, on paper.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) runs every arm for little, keeps the better part,
and runs that for more. Here arms are compared at equal FLOPs, on runs that were finished at that length: a run that
is still warming up, or whose learning rate has not fallen, says nothing of its method. No arm is stopped before its
first comparison point, the FLOPs from which its score counts. Curves cross, and what is slow at first is stopped by
mistake: ``margin`` and ``per_method`` keep more.

Everything here is a function of curves that were recorded, or are made up: what would have been run, what it would have
cost, and whether the front would be the same. A study that is running takes its decisions by the same :class:`Rule`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.study.frontier.curves import COST_TOLERANCE, Point, curves
from spendflops.study.frontier.envelope import method_of
from spendflops.study.frontier.pareto import non_dominated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Which of the arms that are compared run no further.

    Attributes:
        reduction: Of the arms that are compared at a rung, one in ``reduction`` goes on, rounded up.
        margin: Arms whose score is at most this below the last one that goes on go on as well, ties in any case.
        per_method: So many arms of every method go on in any case.
    """

    reduction: float = 2.0
    margin: float = 0.0
    per_method: int = 0

    def __post_init__(self) -> None:
        if self.reduction <= 1 or self.margin < 0 or self.per_method < 0:
            raise ConfigError(
                f"halving with reduction {self.reduction:g}, margin {self.margin:g} and {self.per_method} a method",
                why="it keeps everything or nothing",
                fix="a reduction above 1, and neither of the others below 0",
            )

    def stopped(self, scores: Mapping[str, float], methods: Mapping[str, str]) -> list[str]:
        """The arms that run no further, best first.

        Args:
            scores: By name of the arm, larger is better.
            methods: Name -> method.
        """
        ranked = sorted(scores, key=lambda name: (-scores[name], name))
        going = math.ceil(len(ranked) / self.reduction)
        kept: dict[str, int] = {}
        found = []
        for place, name in enumerate(ranked):
            near = scores[name] >= scores[ranked[going - 1]] - self.margin
            if place < going or near or kept.get(methods[name], 0) < self.per_method:
                kept[methods[name]] = kept.get(methods[name], 0) + 1
            else:
                found.append(name)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """Something that may be run at several lengths.

    Attributes:
        method: Arms of one method are its sizes or settings.
        scores: FLOPs -> score of a finished run of that length.
        first: Its first comparison point: shorter runs are not made, as where half of a run would be warm-up.
    """

    name: str
    method: str
    scores: Mapping[float, float]
    first: float = 0.0

    def __post_init__(self) -> None:
        good = [math.isfinite(flops) and flops > 0 and math.isfinite(score) for flops, score in self.scores.items()]
        if not good or not all(good):
            raise DataError(f"arm {self.name!r}: {dict(self.scores)}", why="its FLOPs are positive, its scores finite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One comparison.

    Attributes:
        compared: Arms that were ranked, best first.
        stopped: Those that run no further.
        waiting: Arms still running that were not compared yet; none of them may be stopped.
    """

    flops: float
    compared: tuple[str, ...]
    stopped: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halving:
    """What successive halving would have done.

    Attributes:
        runs: (arm, FLOPs) that it pays for.
        spent, full: FLOPs of these, and of all runs.
        same_front: Whether the front of its runs is that of all runs.
        same_best: Whether the best score of all is among its runs.
    """

    rungs: tuple[Rung, ...]
    runs: tuple[tuple[str, float], ...]
    spent: float
    full: float
    same_front: bool
    same_best: bool

    @property
    def saved(self) -> float:
        """The share of the FLOPs of all runs that it does not spend."""
        return 1 - self.spent / self.full


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
    """One length of a trunk with cooldown branches.

    Attributes:
        marginal: What it adds to the lengths below it: its part of the trunk, and its own cooldown.
        alone: What it would cost as a run of its own.
    """

    length: float
    marginal: float
    alone: float


def arms(points: Sequence[Point], first: Mapping[str, float] | None = None) -> list[Arm]:
    """An arm a curve.

    Args:
        points: Of one axis.
        first: Name of a curve -> FLOPs of its first comparison point.
    """
    return [
        Arm(
            name=name,
            method=method_of(curve[0]),
            scores={float(p.flops): p.axis.sign * p.estimate.value for p in curve},
            first=(first or {}).get(name, 0.0),
        )
        for name, curve in curves(points).items()
    ]


def halve(
    candidates: Sequence[Arm],
    rule: Rule = Rule(),
    *,
    cooldown: float | None = None,
) -> Halving:
    """Successive halving over the lengths of the arms.

    Args:
        candidates: With scores of which larger is better.
        rule: Which go on.
        cooldown: The share of each length that is a branch of its own, if the lengths of an arm share a trunk
            (:func:`branches`); None for a run of its own a length.

    Raises:
        ConfigError: Two arms of one name.
    """
    if len({arm.name for arm in candidates}) != len(candidates) or not candidates:
        raise ConfigError("arms need names of their own", why=", ".join(arm.name for arm in candidates) or "no arms")
    lengths = _lengths(candidates)
    running = {arm.name: arm for arm in candidates}
    paid: dict[str, list[float]] = {arm.name: [] for arm in candidates}
    rungs = []
    for place, length in enumerate(lengths):
        here = {name: score for name, arm in running.items() if (score := _score(arm, length)) is not None}
        for name in here:
            paid[name].append(length)
        compared = sorted(here, key=lambda name: (-here[name], name))
        last = place == len(lengths) - 1
        stopped = [] if last else rule.stopped(here, {name: arm.method for name, arm in running.items()})
        waiting = tuple(name for name in running if name not in compared)
        rungs.append(Rung(flops=length, compared=tuple(compared), stopped=tuple(stopped), waiting=waiting))
        for name in stopped:
            del running[name]
    runs = tuple((name, length) for name, each in paid.items() for length in each)
    every = tuple((arm.name, x) for arm in candidates for x in lengths if _score(arm, x) is not None)
    scores = {(arm.name, x): _score(arm, x) or 0.0 for arm in candidates for x in lengths}
    return Halving(
        rungs=tuple(rungs),
        runs=runs,
        spent=sum(price(each, cooldown=cooldown) for each in paid.values() if each),
        full=sum(price([x for name, x in every if name == arm.name], cooldown=cooldown) for arm in candidates),
        same_front=_front(runs, scores) == _front(every, scores),
        same_best=max(scores[run] for run in runs) == max(scores[run] for run in every),
    )


def price(lengths: Sequence[float], *, cooldown: float | None = None) -> float:
    """FLOPs of several lengths of one arm: the sum of runs of their own, or of a trunk and its branches."""
    return sum(lengths) if cooldown is None else sum(branch.marginal for branch in branches(lengths, cooldown))


def branches(lengths: Sequence[float], cooldown: float) -> tuple[Branch, ...]:
    """What each length costs if all share a trunk of constant learning rate, and each cools down on its own.

    The trunk of a length T ends at (1 - cooldown) T; the last ``cooldown`` T are a branch. So all of them cost
    max(T) + cooldown (sum(T) - max(T)) (Hägele et al. 2024, arXiv 2405.18392), and the trunk is charged once.

    Raises:
        ConfigError: A share that is not between 0 and 1, or a length that is not positive or is there twice.
    """
    ordered = sorted(lengths)
    if not 0 < cooldown < 1:
        raise ConfigError(f"a cooldown of {cooldown:g} of a run", why="it is a share between 0 and 1")
    if not ordered or ordered[0] <= 0 or len(set(ordered)) < len(ordered):
        raise ConfigError(f"lengths {', '.join(f'{x:g}' for x in ordered)}", why="they are positive and differ")
    before = [0.0, *ordered[:-1]]
    return tuple(
        Branch(length=x, marginal=(1 - cooldown) * (x - last) + cooldown * x, alone=x)
        for x, last in zip(ordered, before, strict=True)
    )


def _lengths(candidates: Sequence[Arm]) -> list[float]:
    """The rungs: all lengths, those that count as equal once."""
    found: list[float] = []
    for length in sorted({x for arm in candidates for x in arm.scores}):
        if not found or length > found[-1] * (1 + COST_TOLERANCE):
            found.append(length)
    return found


def _score(arm: Arm, length: float) -> float | None:
    """The score of the arm's run of a length, from its first comparison point on."""
    near = [x for x in arm.scores if max(length, arm.first) <= x <= length * (1 + COST_TOLERANCE)]
    return arm.scores[min(near)] if near else None


def _front(runs: Sequence[tuple[str, float]], scores: Mapping[tuple[str, float], float]) -> set[tuple[str, float]]:
    keep = non_dominated([length for _, length in runs], [scores[run] for run in runs])
    return {run for run, on_front in zip(runs, keep, strict=True) if on_front}
