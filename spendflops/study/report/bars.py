"""Where the FLOPs of training went: one bar a point, split by phase."""

from __future__ import annotations

from collections.abc import Sequence

from spendflops.study.points import PHASES, Row
from spendflops.study.report import text
from spendflops.study.report.text import esc


def shares(row: Row) -> list[tuple[str, int, float]]:
    """(phase, FLOPs, share) of the phases that cost something."""
    total = sum(row.phases.values())
    return [(name, row.phases[name], row.phases[name] / total) for name in PHASES if row.phases.get(name)]


def bars(items: Sequence[tuple[str, Row]], *, uid: str, narrow: bool = False) -> str:
    """Bars of 100 % with the total beside, as an ``<svg>``; empty without phases. ``items`` are (name, row)."""
    items = [(name, row) for name, row in items if any(row.phases.values())]
    if not items:
        return ""
    width, step = (380, 52) if narrow else (960, 30)
    left = 0 if narrow else min(max(7.2 * len(name) for name, _ in items) + 16, 330)
    right = width if narrow else width - 92
    used = [name for name in PHASES if any(row.phases.get(name) for _, row in items)]
    lines = 2 if narrow and len(used) > 4 else 1
    top = 26 * lines
    parts = [
        f'<svg viewBox="0 0 {width} {top + step * len(items) + 4}" role="img" aria-labelledby="{uid}t" '
        'xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{uid}t">FLOPs of training by phase; the table below has the numbers</title>',
    ]
    for i, name in enumerate(used):
        per_line = -(-len(used) // lines)
        x, y = left + (i % per_line) * (92 if narrow else 104), 4 + 22 * (i // per_line)
        parts.append(f'<rect class="seg{PHASES.index(name)}" x="{x:.1f}" y="{y}" width="12" height="12"/>')
        parts.append(f'<text class="t" x="{x + 17:.1f}" y="{y + 11}">{name}</text>')
    for i, (name, row) in enumerate(items):
        y = top + step * i + (20 if narrow else 0)
        total = text.flops(sum(row.phases.values()))
        anchor, x = ("start", 0.0) if narrow else ("end", left - 10)
        parts.append(f'<text x="{x:.1f}" y="{y - 5 if narrow else y + 17}" text-anchor="{anchor}">{esc(name)}</text>')
        parts.append(f'<text class="t" x="{width}" y="{y - 5 if narrow else y + 17}" text-anchor="end">{total}</text>')
        x = float(left)
        for phase, _, share in shares(row):
            size = share * (right - left)
            index = PHASES.index(phase)
            parts.append(f'<rect class="seg{index}" x="{x:.2f}" y="{y}" width="{size:.2f}" height="24"/>')
            label = f"{phase} {share:.0%}" if size > 7.4 * len(phase) + 42 else f"{share:.0%}"
            if size > 34:
                colour = "seg3t" if index == 3 else "in"
                parts.append(f'<text class="{colour}" x="{x + 7:.1f}" y="{y + 16.5}">{label}</text>')
            x += size
    return "".join([*parts, "</svg>"])
