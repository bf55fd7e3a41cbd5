"""A recommendation in words, and as plain data."""

from __future__ import annotations

from typing import Any

from spendflops.study.frontier.interval import NotEnough
from spendflops.study.recommend.choice import Candidate
from spendflops.study.recommend.flips import Flip
from spendflops.study.recommend.offers import Silent
from spendflops.study.recommend.recommend import Recommendation
from spendflops.study.report.text import COSTS, flops, heading, listing, number, unit, wrapped

_MOST = 8


def to_text(found: Recommendation) -> str:
    """For a terminal."""
    lines = [*heading(found.axis), f"budget {flops(found.budget)} FLOPs of {COSTS[found.cost]}", ""]
    lines += _chosen(found) if found.choice is not None else _unsaid(found)
    lines += _silent(found)
    lines += _floor(found)
    lines += _flips(found)
    lines += _next(found)
    lines += ["", f"noise of a run over seeds: {found.noise}"]
    lines += [f"note: {note}" for note in found.notes]
    return wrapped(lines)


def _chosen(found: Recommendation) -> list[str]:
    assert found.choice is not None
    best, others = found.choice, found.candidates[1:]
    lines = [f"Spend it on {_what(best)}{_length(found)}."]
    lines.append(f"  expected {_score(found, best)}{_basis(best)}{_remark(best)}")
    lines += _sources(best)
    tied = [c for c in others if c.tied]
    behind = [c for c in others if not c.tied]
    if not others:
        lines.append("  Nothing else says anything for this budget: there is no choice to make.")
    elif best.best is None:
        why = next((c.offer.note for c in found.candidates if c.offer.note), "nothing is known of the noise of a run")
        lines.append(f"  Not every score has an interval ({why}): no probability can be given.")
    else:
        lines.append(f"  best of the {len(others) + 1} with probability {_share(best.best)}")
    if tied:
        known = f"Not told apart from it ({_level(found)} interval of the difference):"
        lines.append("Others:" if best.best is None else known)
        lines += [f"  {_other(found, c)}" for c in tied[:_MOST]]
        lines += _more(tied)
    if behind:
        lines.append("Behind it:")
        lines += [f"  {_other(found, c)}" for c in behind[:_MOST]]
        lines += _more(behind)
    return lines


def _unsaid(found: Recommendation) -> list[str]:
    lines = [f"The data do not say: {found.reason}."]
    if found.candidates:
        open_ends = found.candidates[0].offer.flops < found.budget
        lines.append("Of the runs that were made for less:" if open_ends else "As they are:")
        lines += [f"  {_other(found, c)}" for c in found.candidates[:_MOST]]
        lines += _more(found.candidates)
    return lines


def _more(items: Any) -> list[str]:
    return [f"  and {len(items) - _MOST} more (--json has all)"] if len(items) > _MOST else []


def _silent(found: Recommendation) -> list[str]:
    """Curves that say nothing, those of one reason together."""
    ends = [c.offer for c in found.candidates if c.offer.open and found.choice is not None]
    open_ends = [Silent(name=o.name, reason=f"the longest run cost {flops(o.flops)} FLOPs") for o in ends]
    groups: dict[str, list[str]] = {}
    for silent in (*found.silent, *open_ends, *found.unplaced):
        groups.setdefault(silent.reason, []).append(silent.name)
    lines = [f"  {listing(names, most=_MOST)}: {reason}" for reason, names in groups.items()]
    return ["Not known at this budget:", *lines[:_MOST], *_more(lines)] if lines else []


def _floor(found: Recommendation) -> list[str]:
    scores = [f"{name} {number(value, found.axis)}{unit(found.axis)}" for name, value in found.floor.items()]
    return [f"For no FLOPs of {COSTS[found.cost]}: {listing(scores)}."] if scores else []


def _flips(found: Recommendation) -> list[str]:
    if not found.flips:
        return ["", "Within what is known the choice does not flip."] if found.candidates else []
    near = sorted(found.flips, key=lambda f: abs(f.flops - found.budget) / found.budget)[:_MOST]
    lines = ["", "Where the choice flips:"]
    lines += [f"  {_flip(found, f)}" for f in sorted(near, key=lambda f: f.flops)]
    return lines + _more(found.flips)


def _flip(found: Recommendation, flip: Flip) -> str:
    text = f"at {flops(flip.flops)} FLOPs from {flip.cheap} to {flip.dear}"
    if flip.note:
        text += f"; no interval: {flip.note}"
    elif flip.low is None and flip.high is None:
        text += "; the two are told apart nowhere"
    else:
        low = f"from {flops(flip.low)} on" if flip.low else ""
        high = f"up to {flops(flip.high)}" if flip.high else ""
        text += f"; not told apart {low}{' and ' if low and high else ''}{high} ({_level(found)})"
    return text + (f"; extrapolated {flip.factor:.2g} times" if flip.factor > 1.005 else "")


def _next(found: Recommendation) -> list[str]:
    run = found.next
    if isinstance(run, NotEnough):
        return ["", f"Next run: {run.reason}" + (f" ({run.fix})" if run.fix else "") + "."]
    kind = "one more seed" if run.seed else "a new length"
    text = f"Next run: {run.name} at {flops(run.flops)} FLOPs, {kind}"
    if run.gain is not None and run.changes is not None:
        gain = f"{run.gain:.2g}{unit(found.axis)}"
        text += f"; it changes the choice with probability {_share(run.changes)}, worth {gain} on average"
    return ["", text + (f": {run.note}" if run.note else "") + "."]


def _what(item: Candidate) -> str:
    row = item.offer.points[0].rows[0]
    parts = [row.label]
    if row.backbone:
        parts.append(f"on {row.backbone}")
    if row.dataset:
        parts.append(f"with {row.dataset}")
    return " ".join(parts)


def _length(found: Recommendation) -> str:
    assert found.choice is not None
    offer, filled = found.choice.offer, found.filled
    left = 1 - offer.flops / found.budget
    less = "the whole budget" if left < 0.0005 else f"all but {left:.1%} of the budget".replace("%", " %")
    if left < -0.0005:
        less = f"{-left:.1%} more than the budget, which counts as equal".replace("%", " %")
    if left > 0.05:
        less = "no more: a run that was made"
    parts = [f", {flops(offer.flops)} FLOPs ({less}"]
    if filled.get("transfer") and found.cost == "paid":
        parts.append(f"{flops(filled['pretrain'])} for pre-training, {flops(filled['transfer'])} for transfer")
    if "steps" in filled:
        parts.append(f"about {filled['steps']:,.0f} steps")
    if "epochs" in filled:
        parts.append(f"{filled['epochs']:.3g} passes over the data")
    return "; ".join(parts) + ")"


def _score(found: Recommendation, item: Candidate) -> str:
    axis = found.axis
    text = f"{number(axis.sign * item.offer.value, axis)}{unit(axis)}"
    if item.interval is None:
        return f"{text} (no interval{f': {item.offer.note}' if item.offer.note else ''})"
    low, high = number(item.interval.low, axis), number(item.interval.high, axis)
    return f"{text} ({_level(found)} interval {low} to {high})"


def _basis(item: Candidate) -> str:
    offer = item.offer
    runs = sum(len(p.rows) for p in offer.points)
    of = f"{len(offer.points)} length{'s' if len(offer.points) != 1 else ''}, {runs} run{'s' if runs != 1 else ''}"
    if offer.basis == "run":
        return f", measured at {flops(offer.flops)} FLOPs"
    if offer.basis == "interpolated":
        return f", between two of its {of}"
    if offer.factor > 1.005:
        return f", by a law through its {of}, extrapolated {offer.factor:.2f} times"
    return f", by a law through its {of}"


def _other(found: Recommendation, item: Candidate) -> str:
    best = "" if item.best is None else f", best with probability {_share(item.best)}"
    same = ", the same score" if item.lead == 0 and item is not found.candidates[0] else ""
    return f"{item.offer.name} {_score(found, item)}{same}{_basis(item)}{best}{_remark(item)}"


def _remark(item: Candidate) -> str:
    """What a table says beside the score."""
    notes = dict.fromkeys(str(r.settings["note"]) for p in item.offer.points for r in p.rows if "note" in r.settings)
    return f" ({'; '.join(notes)})" if notes else ""


def _sources(item: Candidate) -> list[str]:
    """Where a table has its numbers from."""
    rows = [row for point in item.offer.points for row in point.rows]
    lines = []
    for name, what in (("source", "score"), ("flops_source", "FLOPs"), ("flops_assumed", "FLOPs assume")):
        said = list(dict.fromkeys(str(row.settings[name]) for row in rows if name in row.settings))
        lines += [f"  {what}: {listing(said, most=3)}"] if said else []
    return lines


def _share(value: float) -> str:
    return "under 0.01" if value < 0.005 else "over 0.99" if value > 0.995 else f"{value:.2f}"


def _level(found: Recommendation) -> str:
    return f"{found.level:.0%}".replace("%", " %")


def to_json(found: Recommendation) -> dict[str, Any]:
    """Plain data; scores in the direction of the axis, None where something is not known."""
    axis = found.axis
    run = found.next
    return {
        "task": {
            name: getattr(axis, name)
            for name in ("evaluator", "protocol", "metric", "dataset", "split", "unit", "higher_is_better")
        },
        "budget": found.budget,
        "cost": found.cost,
        "level": found.level,
        "beyond": found.beyond,
        "says": found.choice is not None,
        "reason": found.reason,
        "choice": None if found.choice is None else {**_plain(found, found.choice), "length": dict(found.filled)},
        "candidates": [_plain(found, item) for item in found.candidates],
        "silent": [{"name": s.name, "reason": s.reason} for s in found.silent],
        "unplaced": [{"name": s.name, "reason": s.reason} for s in found.unplaced],
        "floor": dict(found.floor),
        "flips": [{**vars(flip)} for flip in found.flips],
        "next": {"reason": run.reason, "fix": run.fix} if isinstance(run, NotEnough) else {**vars(run)},
        "noise": found.noise,
        "notes": list(found.notes),
    }


def _plain(found: Recommendation, item: Candidate) -> dict[str, Any]:
    offer, row = item.offer, item.offer.points[0].rows[0]
    return {
        "name": offer.name,
        "method": row.label,
        "model": row.backbone,
        "data": row.dataset,
        "flops": offer.flops,
        "basis": offer.basis,
        "factor": offer.factor,
        "open": offer.open,
        "score": found.axis.sign * offer.value,
        "low": None if item.interval is None else item.interval.low,
        "high": None if item.interval is None else item.interval.high,
        "best": item.best,
        "tied": item.tied,
        "behind_by": item.lead,
        "lengths": [p.flops for p in offer.points],
        "runs": sum(len(p.rows) for p in offer.points),
    }
