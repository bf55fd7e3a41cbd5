"""Findings in words, and as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spendflops.study.findings.findings import Findings, Pair, Profile
from spendflops.study.frontier.curves import Point
from spendflops.study.frontier.interval import LEVEL, Interval, NotEnough
from spendflops.study.frontier.isoflop import Allocation
from spendflops.study.frontier.powerlaw import PowerLaw
from spendflops.study.frontier.ranks import Agreement
from spendflops.study.frontier.tuning import Tuning
from spendflops.study.recommend.offers import BEYOND
from spendflops.study.report.text import COSTS, between, flops, heading, human, listing, number, unit, wrapped

MOST = 24
"""Lines of a section."""
_LEVEL = f"{LEVEL:.0%}".replace("%", " %")


def to_text(found: Findings) -> str:
    """For a terminal."""
    lines = [*heading(found.axis), f"FLOPs of {COSTS[found.cost]}"]
    for title, body in _sections(found):
        more = [f"and {len(body) - MOST} more (--json has all)"] if len(body) > MOST else []
        lines += ["", title, *(f"  {line}" for line in body[:MOST] + more)]
    return wrapped(lines)


def _sections(found: Findings) -> Iterable[tuple[str, list[str]]]:
    yield "Front: nothing that costs as much or less scores better", _front(found)
    if found.envelopes:
        yield "Methods over their variants, sizes and data: the best of each at its cost", _envelopes(found)
    yield "Where curves cross, and between which FLOPs that may be", _crossovers(found)
    yield "Saturating power laws: score = limit - drop FLOPs^-exponent", _laws(found)
    yield "Sizes at the same FLOPs (IsoFLOP)", _sizes(found)
    yield "Differences at the same FLOPs, seed by seed", _pairs(found.pairs, found)
    yield f"Order of the methods from task to task, at {flops(found.budget)} FLOPs", _ranks(found)
    yield "What choosing settings has cost", _tuning(found)


def _score(value: float, found: Findings) -> str:
    return f"{number(value, found.axis)}{unit(found.axis)}"


def _point(point: Point, found: Findings) -> str:
    return f"{point.name} {_score(point.estimate.value, found)} at {flops(point.flops)}"


def _front(found: Findings) -> list[str]:
    lines = []
    for point, share in found.front:
        stays = "" if share is None else f"; on it in {share:.0%} of the draws of the noise".replace("%", " %")
        lines.append(_point(point, found) + stays)
    lines += [f"how sure that is: {found.stability}"] if found.stability and found.front else []
    lines += [f"{p.name} {_score(p.estimate.value, found)} for no FLOPs" for p in found.floor]
    lines += [f"without known FLOPs, so without a place: {listing(found.unplaced, most=8)}"] if found.unplaced else []
    return lines or ["nothing has a cost"]


def _envelopes(found: Findings) -> list[str]:
    return [f"{name}: {'; '.join(_point(p, found) for p in e.points)}" for name, e in found.envelopes.items()]


def _crossovers(found: Findings) -> list[str]:
    lines = []
    for item in found.crossovers:
        end = between(item)
        told = f"no interval: {end}" if item.note else f"{_LEVEL} interval {end}"
        sure = "" if item.clear or item.low or item.high else "; the order on its two sides is not told apart"
        lines.append(f"{item.dear} overtakes {item.cheap} at {flops(item.flops)}; {told}{sure}")
    return lines or ["no two curves change places where both were measured"]


def _laws(found: Findings) -> list[str]:
    lines = [f"{name}: {_law(law, found)}" for name, law in found.laws.items() if isinstance(law, PowerLaw)]
    return lines + _not_enough({name: law for name, law in found.laws.items() if isinstance(law, NotEnough)})


def _law(law: PowerLaw, found: Findings) -> str:
    limit = f"limit {_score(law.limit, found)}" if law.saturates else "no bend towards a limit"
    ahead = law.predict(max(law.flops) * BEYOND)
    low, high = number(ahead.low, found.axis), number(ahead.high, found.axis)
    held = law.held_out
    return (
        f"{limit}, exponent {law.exponent:.3g}, {law.lengths} lengths; the longest left out, its prediction is "
        f"{number(held.error, found.axis, signed=True)} off ({held.factor:.2g} times beyond the others); "
        f"{flops(ahead.flops)} FLOPs, {ahead.factor:.2g} times beyond all: {_score(ahead.value, found)} "
        f"({_LEVEL} interval {low} to {high})"
    )


def _sizes(found: Findings) -> list[str]:
    told = [p for p in found.profiles if not isinstance(p.best, NotEnough)]
    lines = [_profile(profile, found) for profile in told]
    for name, item in found.allocations.items():
        if isinstance(item, Allocation):
            lines.append(f"{name}: the best size grows with FLOPs to the power {_interval(item.exponent, '.2f')}")
    silent = {f"{p.name} at {flops(p.flops)}": p.best for p in found.profiles if isinstance(p.best, NotEnough)}
    silent |= {f"{n}, growth with FLOPs": item for n, item in found.allocations.items() if isinstance(item, NotEnough)}
    lines += _not_enough(silent)
    return lines or ["no method was run with two sizes at the same FLOPs (a table says sizes in 'parameters')"]


def _profile(profile: Profile, found: Findings) -> str:
    best = profile.best
    assert not isinstance(best, NotEnough)
    ends = f"{human(best.size.low, '')} to {human(best.size.high, '')}"
    where = "" if best.inside else "; beyond the sizes that were measured"
    return (
        f"{profile.name} at {flops(profile.flops)}: best with {human(best.size.value, '')} parameters "
        f"({_LEVEL} interval {ends}), {_score(best.score, found)} there, of {len(profile.sizes)} sizes{where}"
    )


def _pairs(pairs: Sequence[Pair], found: Findings) -> list[str]:
    lines, silent = [], {}
    for pair in pairs:
        name = f"at {flops(pair.flops)} {pair.best} less {pair.other}"
        interval = pair.difference if isinstance(pair.difference, NotEnough) else pair.difference.mean.interval()
        if isinstance(interval, NotEnough):
            silent[name] = interval
            continue
        assert not isinstance(pair.difference, NotEnough)
        low, high = (number(end, found.axis, signed=True) for end in (interval.low, interval.high))
        mean, lone = pair.difference.mean, pair.difference.unpaired
        left = f"; seeds of one of them alone: {listing([str(seed) for seed in lone])}" if lone else ""
        lines.append(
            f"{name}: {number(mean.value, found.axis, signed=True)} over {mean.n} seeds "
            f"({_LEVEL} interval {low} to {high}){left}"
        )
    return lines + _not_enough(silent) or ["no two methods were run at the same FLOPs"]


def _ranks(found: Findings) -> list[str]:
    if isinstance(found.places, NotEnough):
        lines = [str(found.places)]
    else:
        lines = [
            f"{p.method}: mean rank {p.mean_rank:.2g}"
            + ("" if p.first is None else f", first in {p.first:.0%} of the draws of the noise".replace("%", " %"))
            for p in found.places
        ]
    lines += [_agreement(item) for item in found.agreements if isinstance(item, Agreement)]
    silent = [item for item in found.agreements if isinstance(item, NotEnough)]
    return lines + list(dict.fromkeys(str(item) for item in silent))


def _agreement(item: Agreement) -> str:
    spread = "" if item.low is None or item.high is None else f" ({item.low:.2f} to {item.high:.2f} as the noise goes)"
    apart = f"; on one of them alone: {listing(list(item.left_out))}" if item.left_out else ""
    one, other = item.tasks
    return f"{one} and {other}: Kendall's tau {item.tau:.2f}{spread}, {len(item.methods)} methods{apart}"


def _tuning(found: Findings) -> list[str]:
    if isinstance(found.tuning, NotEnough):
        return [str(found.tuning)]
    return [_tuned(item, found) for item in found.tuning]


def _tuned(item: Tuning, found: Findings) -> str:
    failed = f", {item.failed} more failed" if item.failed else ""
    text = f"{item.method}: {item.tried} settings tried{failed}, {flops(item.flops)} FLOPs"
    if item.best is not None:
        text += f"; the best scores {_score(item.best, found)}"
    if item.equal is not None and item.allowed != item.tried:
        text += f", the best of {item.allowed} {_score(item.equal, found)} on average"
    return text


def _not_enough(items: Mapping[str, NotEnough]) -> list[str]:
    """What says nothing, that of one reason together."""
    groups: dict[str, list[str]] = {}
    for name, item in items.items():
        groups.setdefault(str(item), []).append(name)
    return [f"{listing(names, most=6)}: {reason}" for reason, names in groups.items()]


def _interval(item: Interval, form: str) -> str:
    return f"{item.value:{form}} ({_LEVEL} interval {item.low:{form}} to {item.high:{form}})"


def to_json(found: Findings) -> dict[str, Any]:
    """Plain data: scores in the direction of the axis, None for what is not known or has no end."""
    return {
        "axis": dataclasses.asdict(found.axis),
        "cost": found.cost,
        "front": [{**_place(point), "stays": share} for point, share in found.front],
        "stability": found.stability,
        "floor": [_place(point) for point in found.floor],
        "envelopes": {name: [_place(p) for p in e.points] for name, e in found.envelopes.items()},
        "crossovers": [_plain(item) for item in found.crossovers],
        "laws": {
            name: _plain(law)
            if isinstance(law, NotEnough)
            else {**_plain(law), "ahead": _plain(law.predict(max(law.flops) * BEYOND))}
            for name, law in found.laws.items()
        },
        "profiles": [_plain(item) for item in found.profiles],
        "allocations": {name: _plain(item) for name, item in found.allocations.items()},
        "pairs": [_plain(item) for item in found.pairs],
        "ranks": {
            "budget": found.budget,
            "places": _plain(found.places),
            "agreements": [_plain(item) for item in found.agreements],
        },
        "tuning": _plain(found.tuning),
        "unplaced": list(found.unplaced),
    }


def _place(point: Point) -> dict[str, Any]:
    estimate = point.estimate
    return {
        "name": point.name,
        "flops": point.flops,
        "score": estimate.value,
        "sd": estimate.sd,
        "seeds": estimate.seeds,
    }


def _plain(item: Any) -> Any:
    """Fields by name; numbers that are not finite, which JSON has not, as None."""
    if dataclasses.is_dataclass(item):
        return {f.name: _plain(getattr(item, f.name)) for f in dataclasses.fields(item) if f.repr}
    if isinstance(item, tuple | list):
        return [_plain(each) for each in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item
