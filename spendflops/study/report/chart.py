"""Score over FLOPs as a hand-written SVG: one axis of one protocol, readable on paper and without colour."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from spendflops.study.frontier import Analysis, Point, one_axis
from spendflops.study.points import Axis
from spendflops.study.report import text
from spendflops.study.report.style import SERIES
from spendflops.study.report.text import esc

MARKERS = (
    "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0z",
    "M-5-5h10v10h-10z",
    "M0-6.5L6.2 5H-6.2z",
    "M0-7L7 0L0 7L-7 0z",
    "M0 6.5L6.2-5H-6.2z",
    "M-2.2-6.5h4.4v4.3h4.3v4.4h-4.3v4.3h-4.4v-4.3h-4.3v-4.4h4.3z",
    "M-3.3-5.8h6.6L6.6 0L3.3 5.8h-6.6L-6.6 0z",
)
DASHES = ("", "6 4", "2 4")
_ROOM = 380  # at most, of the names beside a chart
_CHARACTER = 7.1  # width of an average character at 13 px, for room and collisions


@dataclasses.dataclass(frozen=True)
class Frame:
    """A plotting rectangle with its scales: log FLOPs to the right, score upwards, in units of the view box."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, flops: float) -> float:
        """Horizontal place of some FLOPs."""
        low, high = self.x_range
        return self.left + (math.log10(flops) - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Vertical place of a score."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def chart(analysis: Analysis, *, uid: str, narrow: bool = False, series: Sequence[str] = ()) -> str:
    """The chart of one axis as an ``<svg>``, or an empty string if nothing has a place on a log axis.

    Args:
        uid: Distinguishes ids on the page.
        narrow: For a telephone: the names below instead of beside the curves.
        series: Names of all curves of the page, so that a name has one colour and marker everywhere.

    Raises:
        ConfigError: The points belong to more than one protocol.
    """
    placed = [p for p in analysis.points if not p.floor and p.flops > 0]
    if not placed:
        return ""
    axis = one_axis(point.axis for point in analysis.points)
    floors = [p for p in analysis.points if p.floor]
    order = list(series) or list(analysis.curves)
    names = [name for name in order if name in analysis.curves]
    room = max(_CHARACTER * len(_floor_name(f)) for f in floors) if floors else 0
    room = min(max(room, max(_CHARACTER * len(name) for name in names)) + 48, _ROOM)
    width = 380 if narrow else 960
    right = width - (14 if narrow else room)
    ranges = (x_span([p.flops for p in placed]), span(_ends(analysis.points)))
    frame = Frame(56 if narrow else 66, 14, right, 274 if narrow else 424, *ranges)
    height = frame.bottom + 52 + (22 * (len(names) + len(floors)) if narrow else 0)
    parts = [
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="{uid}t {uid}d" '
        f'xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{uid}t">{esc(text.what(axis))} over FLOPs</title>',
        f'<desc id="{uid}d">{esc(_description(analysis))}</desc>',
        scales(frame, **_names(axis, narrow=narrow), narrow=narrow),
        *(_floor(frame, point) for point in floors),
        _envelope(frame, analysis),
    ]
    style = {name: order.index(name) for name in names}
    parts += [_curve(frame, analysis.curves[name], style[name]) for name in names]
    parts += [f'<circle class="ring" cx="{frame.x(p.flops):.1f}" cy="{frame.y(p.estimate.value):.1f}" r="10"/>'
              for p in analysis.front]  # fmt: skip
    parts.append(_crossings(frame, analysis))
    parts.append((_legend if narrow else _labels)(frame, analysis, style, floors))
    return "".join([*parts, "</svg>"])


def marker(index: int, x: float, y: float, *, hollow: bool = False) -> str:
    """The marker of a series: its shape tells it apart without colour."""
    open_ = " open" if hollow else ""
    shape = MARKERS[(index + 3 * (index // SERIES)) % SERIES]  # the second time, a colour has another shape
    place = f'transform="translate({x:.1f} {y:.1f})"'
    return f'<g class="k{index % SERIES}{open_}" {place}><path class="mark" d="{shape}"/></g>'


def x_span(flops: Sequence[float]) -> tuple[float, float]:
    """Limits in log10, with some room at both ends."""
    logs = [math.log10(f) for f in flops]
    pad = max(0.06 * (max(logs) - min(logs)), 0.08)
    return min(logs) - pad, max(logs) + pad


def span(values: Sequence[float]) -> tuple[float, float]:
    """Limits of values, with some room at both ends."""
    low, high = min(values), max(values)
    pad = 0.07 * (high - low) or max(abs(high) * 0.05, 0.05)
    return low - pad, high + pad


def _ends(points: Sequence[Point]) -> list[float]:
    return [p.estimate.value + side * (p.estimate.sd or 0) for p in points for side in (-1, 1)]


def x_ticks(low: float, high: float) -> list[float]:
    """Ticks for log10 limits: decades, with 2 and 5 in between for under two decades, every digit for under a half."""
    digits = (1,) if high - low > 2.2 else (1, 2, 5) if high - low > 0.5 else range(1, 10)
    decades = range(math.floor(low), math.ceil(high) + 1)
    found = [d * 10.0**e for e in decades for d in digits if low <= math.log10(d) + e <= high]
    step = max(math.ceil(len(found) / 8), 1)
    return found[::step] or [10 ** ((low + high) / 2)]


def y_ticks(low: float, high: float, *, most: int = 7) -> list[float]:
    """At most ``most`` round numbers in a range."""
    rough = (high - low) / most
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def scales(frame: Frame, *, x_name: str, y_name: str, narrow: bool) -> str:
    """Grid, ticks and names of both axes."""
    out = []
    ticks = y_ticks(*frame.y_range, most=5 if narrow else 7)
    places = next(n for n in range(9) if n == 8 or all(abs(round(t, n) - t) < 1e-9 * max(1, abs(t)) for t in ticks))
    for value in ticks:
        y = frame.y(value)
        label = f"{value:.{places}f}".replace("-", "\N{MINUS SIGN}")
        out.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="t" x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    ticks = x_ticks(*frame.x_range)
    for value in ticks[:: 2 if narrow and len(ticks) > 4 else 1]:
        x, bottom = frame.x(value), frame.bottom
        name = f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        out.append(f'<text class="t" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{name}</text>')
    out.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right:.1f}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    middle = (frame.left + frame.right) / 2
    out.append(f'<text class="t" x="{middle:.1f}" y="{frame.bottom + 41}" text-anchor="middle">{esc(x_name)}</text>')
    y = (frame.top + frame.bottom) / 2
    out.append(
        f'<text class="t" transform="translate(16 {y:.1f}) rotate(-90)" text-anchor="middle">{esc(y_name)}</text>'
    )
    return "".join(out)


def _names(axis: Axis, *, narrow: bool) -> dict[str, str]:
    better = "" if axis.higher_is_better else ", lower is better"
    paid = "FLOPs paid (log)" if narrow else "FLOPs paid for the score: pre-training + transfer (log scale)"
    return {"x_name": paid, "y_name": f"{axis.metric}{f' ({axis.unit})' if axis.unit else ''}{better}"}


def _floor(frame: Frame, point: Point) -> str:
    y, sd = frame.y(point.estimate.value), point.estimate.sd or 0
    high, low = frame.y(point.estimate.value + sd), frame.y(point.estimate.value - sd)
    size = f'width="{frame.right - frame.left:.1f}" height="{low - high:.1f}"'
    band = f'<rect class="band" x="{frame.left}" y="{high:.1f}" {size}/>'
    return f'{band}<line class="floor" x1="{frame.left}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _floor_name(point: Point) -> str:
    return f"{point.name} {text.number(point.estimate.value, point.axis)}{text.unit(point.axis)}"


def _envelope(frame: Frame, analysis: Analysis) -> str:
    front = [p for p in analysis.front if p.flops > 0]
    if not front:
        return ""
    x, y = frame.x(front[0].flops), frame.y(front[0].estimate.value)
    steps = "".join(f"H{frame.x(p.flops):.1f}V{frame.y(p.estimate.value):.1f}" for p in front[1:])
    return f'<path class="envelope" d="M{x:.1f} {y:.1f}{steps}H{frame.right:.1f}"/>'


def _curve(frame: Frame, curve: Sequence[Point], index: int) -> str:
    places = [(frame.x(p.flops), frame.y(p.estimate.value), p) for p in curve]
    out = []
    if len(places) > 1:
        dash = DASHES[index // SERIES % len(DASHES)]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
        out.append(f'<path class="curve k{index % SERIES}" stroke-dasharray="{dash}" d="M{line}"/>')
    for x, y, point in places:
        if point.estimate.sd:
            high, low = (frame.y(point.estimate.value + side * point.estimate.sd) for side in (1, -1))
            caps = f"M{x:.1f} {high:.1f}V{low:.1f}M{x - 4:.1f} {high:.1f}h8M{x - 4:.1f} {low:.1f}h8"
            out.append(f'<path class="err k{index % SERIES}" d="{caps}"/>')
        out.append(marker(index, x, y, hollow=point.kind == "baseline"))
    return "".join(out)


def _crossings(frame: Frame, analysis: Analysis) -> str:
    places = [(frame.x(c.flops), frame.y(c.value)) for c in analysis.crossovers if c.clear]
    return "".join(f'<path class="cross" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0-12l-12 12"/>' for x, y in places)


def _labels(frame: Frame, analysis: Analysis, style: dict[str, int], floors: Sequence[Point]) -> str:
    """Names in a column beside the plot, pushed apart, each tied to the last point of its curve."""
    wanted = [(frame.y(c[-1].estimate.value), frame.x(c[-1].flops), n) for n, c in analysis.curves.items()]
    wanted += [(frame.y(p.estimate.value), frame.right, _floor_name(p)) for p in floors]
    wanted.sort()
    ys = spread([y for y, _, _ in wanted], gap=17, low=frame.top + 4, high=frame.bottom - 2)
    out = []
    for (y, x, name), at in zip(wanted, ys, strict=True):
        index = style.get(name)
        if index is not None:
            gap = 12 if x < frame.right - 14 or abs(at - y) > 5 else 9
            out.append(f'<line class="lead k{index % SERIES}" x1="{x + gap:.1f}" y1="{y:.1f}" '
                       f'x2="{frame.right + 8:.1f}" y2="{at:.1f}"/>')  # fmt: skip
            out.append(marker(index, frame.right + 20, at, hollow=analysis.curves[name][0].kind == "baseline"))
        else:
            out.append(f'<path class="floor" d="M{frame.right + 10:.1f} {at:.1f}h20"/>')
        out.append(f'<text x="{frame.right + 34:.1f}" y="{at + 4:.1f}">{esc(fitted(name, _ROOM - 48))}</text>')
    return "".join(out)


def fitted(name: str, room: float) -> str:
    """A name that is no wider than ``room``, cut if it has to be."""
    most = int(room / _CHARACTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Sorted places moved as little as needed to be ``gap`` apart, inside the limits where there is room."""
    blocks: list[tuple[float, int]] = []  # (centre, how many)
    for value in wanted:
        centre, size = value, 1
        while blocks and centre - blocks[-1][0] < gap * (size + blocks[-1][1]) / 2:
            other, count = blocks.pop()
            centre, size = (other * count + centre * size) / (count + size), size + count
        blocks.append((centre, size))
    places = [c + (i - (n - 1) / 2) * gap for c, n in blocks for i in range(n)]
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high - gap * (len(places) - 1 - i))
    for i in range(len(places)):
        places[i] = max(places[i], low + gap * i)
    return places


def _legend(frame: Frame, analysis: Analysis, style: dict[str, int], floors: Sequence[Point]) -> str:
    y, out = frame.bottom + 68, []
    for name, index in style.items():
        hollow = analysis.curves[name][0].kind == "baseline"
        out.append(f'{marker(index, 64, y - 4, hollow=hollow)}<text x="80" y="{y}">{esc(name)}</text>')
        y += 22
    for point in floors:
        out.append(f'<line class="floor" x1="52" x2="74" y1="{y - 4}" y2="{y - 4}"/>')
        out.append(f'<text x="80" y="{y}">{esc(_floor_name(point))}</text>')
        y += 22
    return "".join(out)


def _description(analysis: Analysis) -> str:
    lines = []
    for name, curve in analysis.curves.items():
        places = (f"{text.score(p.estimate, p.axis)} at {text.flops(p.flops)} FLOPs" for p in curve)
        lines.append(f"{name}: {', '.join(places)}.")
    lines += [f"{p.name}: {text.score(p.estimate, p.axis)}, nothing spent." for p in analysis.points if p.floor]
    return " ".join(lines)
