"""Numbers as text, the same everywhere, and the sentence that answers the question."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence

from spendflops.study.compare import Comparison, Estimate
from spendflops.study.frontier import Analysis, Candidate, Crossover, Verdict
from spendflops.study.points import Axis

WIDTH = 100
COSTS = {"paid": "pre-training and transfer", "pretrain": "pre-training"}
ONE_SEED = " One seed a run: another may say otherwise."
UNKNOWN = "unknown"
NONE = "–"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def esc(text: object) -> str:
    """Text that is safe in HTML and in attributes."""
    return html.escape(str(text), quote=True)


def flops(value: float | None) -> str:
    """``2.00e12``, ``0`` or ``unknown``."""
    if value is None:
        return UNKNOWN
    if not value:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def human(value: float | None, unit: str = "FLOP") -> str:
    """``2.00 TFLOP``, ``41.0 k``: three digits and a prefix of 1000."""
    if value is None:
        return UNKNOWN
    power = 0
    while power < len(_PREFIXES) - 1 and abs(value) >= 999.5:
        value, power = value / 1000, power + 1
    digits = f"{value:.0f}" if power == 0 and float(value).is_integer() else digits3(value)
    return f"{digits} {_PREFIXES[power]}{unit}".strip()


def digits3(value: float) -> str:
    """Three significant digits without an exponent (below a thousand)."""
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def duration(seconds: float) -> str:
    """``41 s``, ``12 min``, ``3.4 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 or seconds == 0 else f"{seconds:.1f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 359_640 else f"{seconds / 3600:.0f} h"


def mass(kg: float | None) -> str:
    """CO2e as ``1.2 g``, ``340 g``, ``12.0 kg``."""
    if kg is None:
        return UNKNOWN
    if kg == 0:
        return "0 g"
    grams = kg * 1000
    return human(grams, "g") if grams >= 0.995 else f"{grams * 1000:.3g} mg"


def number(value: float, axis: Axis, *, signed: bool = False) -> str:
    """A score or a difference of scores, without its unit."""
    places = 1 if axis.unit == "%" else 3
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", "\N{MINUS SIGN}")


def unit(axis: Axis) -> str:
    """The unit after a number, with its space."""
    return f" {axis.unit}" if axis.unit else ""


def score(estimate: Estimate, axis: Axis) -> str:
    """``81.3 % ± 1.2``, where ± is one standard deviation."""
    text = f"{number(estimate.value, axis)}{unit(axis)}"
    return text if estimate.sd is None else f"{text} ± {number(estimate.sd, axis)}"


def listing(names: Sequence[str], *, most: int = 0) -> str:
    """``a``, ``a and b``, ``a, b and c``; beyond ``most`` names ``a, b and 3 more``."""
    if most and len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def heading(axis: Axis) -> list[str]:
    """What is compared: the score and where it was taken, and the protocol if it has a name of its own."""
    better = "more" if axis.higher_is_better else "less"
    place = f" on {axis.place}" if axis.place else ""
    lines = [f"{axis.evaluator}: {axis.metric}{f' in {axis.unit}' if axis.unit else ''}{place} ({better} is better)"]
    return lines if axis.protocol == axis.evaluator else [*lines, f"protocol {axis.protocol}"]


def wrapped(lines: Iterable[str]) -> str:
    """Lines for a terminal; what goes on stands further in."""
    found = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        how = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        found += textwrap.wrap(line, WIDTH, **how) or [""]
    return "\n".join(found)


def between(item: Crossover) -> str:
    """The interval of a crossover: ``1.20e13 to 1.60e13``, ``1.20e13 upwards``, ``open`` or why there is none."""
    if item.note:
        return item.note
    if item.low is None or item.high is None:
        return f"{flops(item.low)} upwards" if item.low else f"up to {flops(item.high)}" if item.high else "open"
    return f"{flops(item.low)} to {flops(item.high)}"


def verdict(item: Verdict) -> tuple[str, str]:
    """The verdict of a row in words, and the numbers behind it."""
    axis = item.point.axis
    if item.status == "floor":
        return "baseline, nothing spent", ""
    if item.status == "on the front":
        names = [f"{p.name} at {flops(p.flops)}" for p in item.ties]
        return item.status, f"not distinguishable from {listing(names, most=3)}" if names else ""
    assert item.against is not None and item.comparison is not None
    words = (
        f"{item.status}{' from' if item.status != 'behind' else ''} {item.against.name} at {flops(item.against.flops)}"
    )
    if item.comparison.margin is None:
        return words, "no spread is known"
    gap, margin = number(-item.comparison.difference, axis), number(item.comparison.margin, axis)
    return words, f"by {gap}, noise {margin}"


def against_random(item: Comparison | None, axis: Axis) -> str:
    """How a point compares with a random backbone."""
    if item is None:
        return NONE
    gap = number(item.difference, axis, signed=True)
    if not item.distinguishable:
        return f"not distinguishable ({gap})"
    return f"{'above' if item.difference > 0 else 'below'} ({gap})"


def what(axis: Axis) -> str:
    """What an axis shows, in words."""
    place = f" on {axis.place}" if axis.place else ""
    return f"{axis.metric}{place} ({axis.protocol})"


def headline(analysis: Analysis) -> str:
    """The sentence that answers the question on one axis."""
    axis, found = analysis.axis, analysis.answer
    if found is None:
        return f"Nothing finished that could be placed on {what(axis)}."
    where = f" on {axis.dataset}" if axis.dataset else ""
    best, ties = found.candidates[0], list(found.ties)
    floor = [c for c in found.candidates if c.random and not c.random.distinguishable]
    below = [c for c in found.candidates if c.random and c.random.distinguishable and c.random.difference < 0]
    start = f"At {flops(found.budget)} FLOPs{where}: "
    lead = f"{best.name} ({_spent(best, found.budget)}{score(best.estimate, axis)})"
    parts = []
    if len(found.candidates) == 1:
        parts.append(f"only {lead} was measured")
    elif ties:
        names = listing([_short(c, axis) for c in ties], most=4)
        verb = "is" if len(ties) == 1 else "are"
        parts.append(f"{lead} scores highest, but {names} {verb} not distinguishable from it")
    else:
        parts.append(f"{best.name} leads ({_spent(best, found.budget)}{score(best.estimate, axis)})")
    behind = [c for c in found.behind if c not in floor and c not in below]
    if behind:
        parts.append(
            f"{listing([_short(c, axis) for c in behind], most=4)} {'is' if len(behind) == 1 else 'are'} behind"
        )
    if floor:
        names = listing([c.name for c in floor])
        parts.append(f"{names} {'is' if len(floor) == 1 else 'are'} not distinguishable from a random backbone")
    if below:
        parts.append(f"{listing([c.name for c in below])} {'is' if len(below) == 1 else 'are'} below a random backbone")
    if found.missing:
        parts.append(f"{listing(list(found.missing))} measured only at higher cost")
    single = behind and any(c.estimate.seeds == 1 for c in (best, *behind))
    return start + "; ".join(parts) + "." + (ONE_SEED if single else "")


def _short(item: Candidate, axis: Axis) -> str:
    return f"{item.name} ({number(item.estimate.value, axis)}{unit(axis)})"


def _spent(item: Candidate, budget: int) -> str:
    """Names the cost of a candidate that stops well short of the budget."""
    return f"measured up to {flops(item.flops)}, " if item.flops < 0.9 * budget else ""
