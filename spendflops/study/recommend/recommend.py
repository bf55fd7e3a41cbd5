"""A budget and a task in, a decision that can be defended out: what to run, how sure that is, where it would flip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spendflops.accounts.budget import Budget
from spendflops.contracts.errors import ConfigError
from spendflops.study.frontier.curves import curve_name, points, select, varying
from spendflops.study.frontier.interval import LEVEL, NotEnough
from spendflops.study.points import Axis, Cost, Row
from spendflops.study.recommend import question
from spendflops.study.recommend.choice import Candidate, candidates
from spendflops.study.recommend.flips import Flip, flips
from spendflops.study.recommend.next_run import NextRun, next_run
from spendflops.study.recommend.offers import BEYOND, Field, Offer, Silent, field
from spendflops.study.report import text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer.

    Attributes:
        budget: FLOPs.
        cost: Which FLOPs: ``"paid"``, pre-training and transfer, or ``"pretrain"``.
        choice: What to run; None where the data do not say, with the ``reason``.
        candidates: The choice and the others, best first. Where the data do not say, runs that were made for less.
        silent: Curves that say nothing for this budget.
        unplaced: Runs whose cost is not known.
        flips: All places where the choice changes, by FLOPs.
        next: The run that would tell most.
        floor: The score of a baseline that costs nothing, by name.
        noise: Of a run over seeds, in words.
        beyond: How many times beyond its runs a curve is believed.
        notes: What else has to be known.
        filled: Length of the choice: steps, epochs, FLOPs of pre-training and transfer, where known.
    """

    axis: Axis
    budget: float
    cost: Cost
    choice: Candidate | None
    reason: str
    candidates: tuple[Candidate, ...]
    silent: tuple[Silent, ...]
    unplaced: tuple[Silent, ...]
    flips: tuple[Flip, ...]
    next: NextRun | NotEnough
    floor: Mapping[str, float]
    noise: str
    beyond: float
    level: float
    notes: tuple[str, ...]
    filled: Mapping[str, float]


def recommend(
    rows: Sequence[Row],
    budget: Budget | float,
    *,
    task: str | None = None,
    cost: Cost = "paid",
    wanted: Mapping[str, Sequence[str]] | None = None,
    equal_tuning: bool = False,
    noise: float | None = None,
    beyond: float = BEYOND,
    notes: Sequence[str] = (),
) -> Recommendation:
    """The answer for a budget.

    Args:
        rows: Of a study, a table or a reference study.
        budget: In FLOPs.
        task: What is to be good: an evaluator, a protocol, a metric or the data that are scored; may be left out where
            there is one axis.
        cost: Which FLOPs count.
        wanted: ``"method"``, ``"model"``, ``"data"`` -> names; others are left out.
        equal_tuning: Compare methods as if all had tried as many settings as the one that tried fewest.
        noise: The standard deviation of a run over seeds, where it was not measured.
        beyond: How many times beyond its runs a curve is believed, 1 or more.
        notes: What has to be known of where the rows come from; they stand first in the answer's.

    Raises:
        ConfigError: An unknown task, method, model or data set; several protocols for one task; a budget that is no
            FLOPs or below one step.
        DataError: No finished run with a score; a run that cost nothing and is no baseline; seeds that look like
            lengths.
    """
    if not (math.isfinite(beyond) and beyond >= 1):
        raise ConfigError(
            f"curves believed up to {beyond:g} times their runs",
            why="the factor is 1 or more",
            fix="1 believes what was measured alone, 2 a law up to twice its longest run",
        )
    flops = float(budget.amount) if isinstance(budget, Budget) else float(budget)
    kept = question.only(rows, wanted or {})
    axis = question.axis_of(kept, task)
    told, reason = list(notes), ""
    if equal_tuning:
        kept, tuned, reason = question.tuned_equally(kept, axis)
        told += tuned
    pairs = select(kept, axis)
    vary = varying(row for row, _ in pairs)
    items = points(pairs, cost=cost, vary=vary)
    question.check_free(items)
    question.check_lengths(items)
    question.check_budget(items, flops)
    unplaced = tuple(
        Silent(name=curve_name(row, vary), reason=str(row.settings.get("flops_unknown", "its FLOPs are not known")))
        for row, _ in pairs
        if row.cost(cost) is None
    )
    failed = [row for row in kept if not row.ok]
    if failed:
        told.append(f"{len(failed)} run{'s' if len(failed) != 1 else ''} failed and {_are(failed)} on no curve")
    placed = [p for p in items if p.flops > 0]
    floor = {p.name: p.estimate.value for p in items if p.floor}
    basics: dict[str, Any] = {
        "axis": axis,
        "budget": flops,
        "cost": cost,
        "unplaced": unplaced,
        "floor": floor,
        "beyond": beyond,
        "level": LEVEL,
    }
    if not placed:
        return _without(basics, "no run has a known cost", told)
    known = field(placed, noise=noise, beyond=beyond)
    return _answer(basics, known, flops, reason, told)


def _answer(basics: dict[str, Any], known: Field, flops: float, reason: str, notes: list[str]) -> Recommendation:
    offers, silent = known.offers(flops)
    reason = reason or _unsaid(known, offers, flops)
    found = candidates(offers, known.axis) if offers else []
    chosen = found[0] if found and not reason else None
    noises = known.noises
    return Recommendation(
        **basics,
        choice=chosen,
        reason=reason,
        candidates=tuple(found),
        silent=tuple(silent),
        flips=tuple(flips(known)),
        next=next_run(known, flops, offers),
        noise=str(noises) if isinstance(noises, NotEnough) else f"{noises.typical.sd:.3g} ({noises.source})",
        notes=(*notes, *(f"{name}: {note}" for name, note in known.notes.items() if "law" in note)),
        filled=_filled(chosen.offer, basics["cost"]) if chosen else {},
    )


def _unsaid(known: Field, offers: Sequence[Offer], budget: float) -> str:
    """Why the data do not say what to choose; empty if they do."""
    nothing = f"nothing is said beyond {known.beyond:g} times"
    longest = max(curve[-1].flops for curve in known.curves.values())
    if budget > longest * known.beyond:
        times = f"{budget / longest:.3g} times that"
        return f"the longest run of all cost {text.flops(longest)} FLOPs, the budget is {times}, and {nothing}"
    if not offers:
        return f"the cheapest run cost {text.flops(min(c[0].flops for c in known.curves.values()))} FLOPs"
    best = offers[0]
    if best.open and budget > best.flops * known.beyond:
        return (
            f"the best of what was run for less, {best.name}, ends at {text.flops(best.flops)} FLOPs, the budget is "
            f"{budget / best.flops:.3g} times that, and {nothing}"
        )
    return ""


def _without(basics: dict[str, Any], reason: str, notes: Sequence[str]) -> Recommendation:
    return Recommendation(
        **basics,
        choice=None,
        reason=reason,
        candidates=(),
        silent=(),
        flips=(),
        next=NotEnough(reason=reason),
        noise="unknown",
        notes=tuple(notes),
        filled={},
    )


def _are(rows: Sequence[Row]) -> str:
    return "is" if len(rows) == 1 else "are"


def _filled(offer: Offer, cost: Cost) -> dict[str, float]:
    """Steps, epochs and FLOPs by phase of a run of the chosen length, from the nearest one that was made.

    Steps and epochs of a row with a transfer are those of the transfer, and are not given.
    """
    point = min(offer.points, key=lambda p: abs(math.log(p.flops / offer.flops)))
    row = point.rows[0]
    pretrain, transfer = row.flops.get("pretrain") or 0, row.flops.get("transfer") or 0
    if not pretrain:
        return {}
    length = offer.flops - (transfer if cost == "paid" else 0)
    found: dict[str, float] = {"pretrain": length, "transfer": float(transfer)}
    if length <= 0:
        return {}
    if row.steps and question.pretrains(row):
        found["steps"] = length / pretrain * row.steps
    if row.epochs and question.pretrains(row):
        found["epochs"] = length / pretrain * row.epochs
    return found
