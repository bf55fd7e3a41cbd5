"""Scores over labelled examples: a chart, the scores, and paired gains in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spendflops.study.frontier.paired import Mean
from spendflops.study.labels import Gain, Labels
from spendflops.study.points import Axis
from spendflops.study.report import tables, text
from spendflops.study.report.chart import Frame, marker, spread, x_ticks, y_ticks
from spendflops.study.report.style import SERIES
from spendflops.study.report.tables import Cell
from spendflops.study.report.text import esc


def section(items: Sequence[Labels], *, series: Sequence[str]) -> str:
    """The section of a page; empty where transfers do not differ in their labels."""
    if not items:
        return ""
    return "<section><h2>Scores by labelled examples</h2>" + "".join(
        _one(item, f"l{i}", series) for i, item in enumerate(items)
    ) + "</section>"  # fmt: skip


def sentences(item: Labels) -> list[str]:
    """What happens to each gain from the fewest labels to the most."""
    return [_returns(gain, item.axis) for gain in item.gains if len(gain.by_labels) > 1]


def _returns(gain: Gain, axis: Axis) -> str:
    ends = min(gain.by_labels), max(gain.by_labels)
    told = [f"{_number(gain.by_labels[size], axis)} with {size:,} labelled examples" for size in ends]
    return f"{gain.name} over {gain.over}: {told[0]}, {told[1]}."


def _one(item: Labels, uid: str, series: Sequence[str]) -> str:
    title = f"{item.axis.metric} on {item.axis.place}" if item.axis.place else item.axis.metric
    drawings = [(kind, _chart(item, uid=f"{uid}{kind[0]}", narrow=kind == "narrow", series=series))
                for kind in ("wide", "narrow")]  # fmt: skip
    both = "".join(f'<div class="{kind}">{svg}</div>' for kind, svg in drawings)
    lines = "".join(f"<li>{esc(line)}</li>" for line in sentences(item))
    head = ["Method", *(f"{size:,}" for size in item.sizes)]
    scores = [
        [Cell(name), *(_cell(found.get(size), item.axis, signed=False) for size in item.sizes)]
        for name, found in item.curves.items()
    ]
    gains = [
        [
            Cell(gain.name, sub=f"over {gain.over}"),
            *(_cell(gain.by_labels.get(s), item.axis, signed=True) for s in item.sizes),
        ]
        for gain in item.gains
    ]
    parts = [
        f"<h3>{esc(title)}</h3><figure>{both}<figcaption>Mean over seeds; bars are one standard error. Each number of "
        "labels is a protocol of its own: scores are compared within a column, never across.</figcaption></figure>",
        tables.html(f"{title}, mean ± standard error, by labelled examples.", head, scores),
    ]
    if gains:
        caption = (
            "Gains, paired by seed, mean ± standard error; * is distinguishable from zero (two-sided t test, 5 %)."
        )
        parts += [tables.html(caption, head, gains), f"<ul>{lines}</ul>" if lines else ""]
    return "".join(parts)


def _cell(found: Mean | None, axis: Axis, *, signed: bool) -> Cell:
    if found is None:
        return Cell(text.NONE, number=True)
    star = "*" if signed and found.distinguishable else ""
    return Cell(_number(found, axis, signed=signed) + star, sub=f"n = {found.n}", number=True)


def _number(found: Mean, axis: Axis, *, signed: bool = True) -> str:
    words = text.number(found.value, axis, signed=signed)
    return words if found.se is None else f"{words} ± {text.number(found.se, axis)}"


def _chart(item: Labels, *, uid: str, narrow: bool, series: Sequence[str]) -> str:
    names = list(item.curves)
    order = [*series, *(n for n in names if n not in series)]
    ends = [m.value + side * (m.se or 0) for found in item.curves.values() for m in found.values() for side in (-1, 1)]
    logs, pad = [math.log10(size) for size in item.sizes], 0.07 * (max(ends) - min(ends)) or 0.5
    room = 14 if narrow else min(48 + 7.1 * max(map(len, names)), 320)
    width = 380 if narrow else 960
    edge = 0.06 * (logs[-1] - logs[0])
    frame = Frame(56 if narrow else 66, 14, width - room, 274 if narrow else 424,
                  (logs[0] - edge, logs[-1] + edge), (min(ends) - pad, max(ends) + pad))  # fmt: skip
    height = frame.bottom + 52 + (22 * len(names) if narrow else 0)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{_number(m, item.axis, signed=False)} at {size:,}" for size, m in found.items())
        for name, found in item.curves.items()
    )
    parts = [
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="{uid}t {uid}d" '
        'xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{uid}t">{esc(item.axis.metric)} over labelled examples</title>',
        f'<desc id="{uid}d">{esc(told)}</desc>',
        _scales(frame, item, narrow=narrow),
        *(_curve(frame, found, order.index(name)) for name, found in item.curves.items()),
        _names(frame, item, order, narrow=narrow),
    ]
    return "".join([*parts, "</svg>"])


def _scales(frame: Frame, item: Labels, *, narrow: bool) -> str:
    out = []
    for value in y_ticks(*frame.y_range, most=5 if narrow else 7):
        y = frame.y(value)
        out.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="t" x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    sizes = item.sizes if len(item.sizes) <= (4 if narrow else 8) else x_ticks(*frame.x_range)
    for size in sizes:
        x = frame.x(size)
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom}" y2="{frame.bottom + 5}"/>')
        out.append(f'<text class="t" x="{x:.1f}" y="{frame.bottom + 20}" text-anchor="middle">{size:,.0f}</text>')
    out.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right:.1f}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    middle = (frame.left + frame.right) / 2
    words = "labelled examples (log)" if narrow else "labelled examples of the transfer (log scale)"
    out.append(f'<text class="t" x="{middle:.1f}" y="{frame.bottom + 41}" text-anchor="middle">{words}</text>')
    name = esc(f"{item.axis.metric}{f' ({item.axis.unit})' if item.axis.unit else ''}")
    y = (frame.top + frame.bottom) / 2
    out.append(f'<text class="t" transform="translate(16 {y:.1f}) rotate(-90)" text-anchor="middle">{name}</text>')
    return "".join(out)


def _curve(frame: Frame, found: dict[int, Mean], index: int) -> str:
    places = [(frame.x(size), frame.y(m.value), m) for size, m in sorted(found.items())]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    out = [f'<path class="curve k{index % SERIES}" d="M{line}"/>']
    for x, y, m in places:
        if m.se:
            high, low = (frame.y(m.value + side * m.se) for side in (1, -1))
            caps = f"M{x:.1f} {high:.1f}V{low:.1f}M{x - 4:.1f} {high:.1f}h8M{x - 4:.1f} {low:.1f}h8"
            out.append(f'<path class="err k{index % SERIES}" d="{caps}"/>')
        out.append(marker(index, x, y))
    return "".join(out)


def _names(frame: Frame, item: Labels, order: Sequence[str], *, narrow: bool) -> str:
    last = {name: (max(found), found[max(found)].value) for name, found in item.curves.items()}
    names = sorted(last, key=lambda name: frame.y(last[name][1]))
    out = []
    if narrow:
        places = [frame.bottom + 64 + 22 * i for i in range(len(names))]
    else:
        wanted = [frame.y(last[name][1]) for name in names]
        places = spread(wanted, gap=17, low=frame.top + 4, high=frame.bottom - 2)
    for name, y in zip(names, places, strict=True):
        index, x = order.index(name), 64 if narrow else frame.right + 20
        if not narrow:
            start, height = frame.x(last[name][0]) + 12, frame.y(last[name][1])
            out.append(f'<line class="lead k{index % SERIES}" x1="{start:.1f}" y1="{height:.1f}" '
                       f'x2="{frame.right + 8:.1f}" y2="{y:.1f}"/>')  # fmt: skip
        out.append(f'{marker(index, x, y)}<text x="{x + 14:.1f}" y="{y + 4:.1f}">{esc(name)}</text>')
    return "".join(out)
