"""Small charts of lines over FLOPs, side by side: one a method, readable at any width, on paper and without colour."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spendflops.study.report import text
from spendflops.study.report.chart import Frame, fitted, marker, scales, span, x_span
from spendflops.study.report.style import SERIES
from spendflops.study.report.text import esc

WIDTH, STEP = 380, 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A curve of a panel: ascending FLOPs and values; ``index`` chooses its colour and marker.

    Attributes:
        spreads: Half the length of the bar at each point; without them only the last point has a marker.
    """

    name: str
    flops: Sequence[float]
    values: Sequence[float]
    index: int
    spreads: Sequence[float] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cross:
    """Where two lines change places; None where the interval is open."""

    flops: float
    value: float
    low: float | None
    high: float | None


def panel(lines: Sequence[Line], *, uid: str, title: str, y_name: str, crosses: Sequence[Cross] = ()) -> str:
    """An ``<svg>`` of some lines with their names below."""
    flops = [f for line in lines for f in line.flops]
    frame = Frame(56, 14, WIDTH - 14, 214, x_span(flops), span([end for line in lines for end in _ends(line)]))
    height = frame.bottom + 54 + STEP * len(lines)
    told = "; ".join(
        f"{line.name}: from {line.values[0]:.3g} at {text.flops(line.flops[0])} to {line.values[-1]:.3g} at "
        f"{text.flops(line.flops[-1])} FLOPs"
        for line in lines
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{uid}t {uid}d" '
        'xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{uid}t">{esc(title)}</title><desc id="{uid}d">{esc(told)}</desc>',
        scales(frame, x_name="FLOPs (log)", y_name=y_name, narrow=True),
        *(_cross(frame, item) for item in crosses),
        *(_line(frame, line) for line in lines),
    ]
    for place, line in enumerate(lines):
        y = frame.bottom + 64 + STEP * place
        parts.append(f'{marker(line.index, 64, y - 4)}<text x="80" y="{y}">{esc(fitted(line.name, WIDTH - 80))}</text>')
    return "".join([*parts, "</svg>"])


def _ends(line: Line) -> list[float]:
    spreads = line.spreads or [0.0] * len(line.values)
    return [v + side * s for v, s in zip(line.values, spreads, strict=True) for side in (-1, 1)]


def _line(frame: Frame, line: Line) -> str:
    places = [(frame.x(f), frame.y(v)) for f, v in zip(line.flops, line.values, strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="curve k{line.index % SERIES}" d="M{path}"/>']
    for (x, _), value, spread in zip(places, line.values, line.spreads, strict=False):
        high, low = frame.y(value + spread), frame.y(value - spread)
        parts.append(f'<path class="err k{line.index % SERIES}" d="M{x:.1f} {high:.1f}V{low:.1f}"/>')
    shown = places if line.spreads else places[-1:]
    return "".join([*parts, *(marker(line.index, x, y) for x, y in shown)])


def _cross(frame: Frame, item: Cross) -> str:
    """A band over the interval, open to the end of the panel, and a line at the crossing."""
    left = frame.left if item.low is None else max(frame.x(item.low), frame.left)
    right = frame.right if item.high is None else min(frame.x(item.high), frame.right)
    x, height = frame.x(item.flops), frame.bottom - frame.top
    band = f'<rect class="between" x="{left:.1f}" y="{frame.top}" width="{right - left:.1f}" height="{height}"/>'
    return f'{band}<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.bottom}"/>'
