"""The results of a report for a terminal: the columns of the page, plain text, at most 140 characters wide."""

from __future__ import annotations

import statistics

from spendflops.study.frontier import Analysis, Verdict, analyse
from spendflops.study.points import Report, axes
from spendflops.study.report import text
from spendflops.study.report.tables import epochs

WIDTH = 140
_COSTS = ("Paid", "Marginal", "Pretrain", "Transfer", "Evaluate", "Images", "Epochs")
_HEAD = ("#", "Method", "Budget", *_COSTS, "Score", "Time", "CO2e", "Random", "Verdict")
_LEFT = {"Method", "Random", "Verdict"}
_IDLE = {"Transfer": "0", "Marginal": None, "Pretrain": None, "Random": text.NONE}


def terminal_table(report: Report) -> str:
    """One block an axis: the answer, then a line a point; ``#`` are the numbers that verdicts refer to."""
    blocks = [_block(analyse(report.rows, axis, budget=report.budget)) for axis in axes(report.rows)]
    left = [row.status.replace(":", f": {row.run_id}:", 1) for row in (*report.stopped, *report.failed)]
    return "\n\n".join([*blocks, *left]) or "No run finished."


def _block(analysis: Analysis) -> str:
    sign = analysis.axis.sign
    order = sorted(analysis.verdicts, key=lambda v: (v.point.floor, -v.point.estimate.value * sign))
    numbers = {id(v.point): i for i, v in enumerate(order, 1)}
    lines = [_HEAD, *(_line(v, numbers) for v in order)]
    idle = {name for name, value in _IDLE.items() if _idle(lines, name, value)}
    keep = [i for i, name in enumerate(_HEAD) if name not in idle]
    lines = [tuple(line[i] for i in keep) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keep))]
    extra = sum(widths) + 2 * (len(widths) - 1) - WIDTH
    if extra > 0:  # the name gives way: the number in front still tells the rows apart
        widths[1] = max(8, widths[1] - extra)
    out = [text.headline(analysis), f"{text.what(analysis.axis)}, best first", ""]
    for line in lines:
        cells = (_fit(cell, width, name) for cell, width, name in zip(line, widths, lines[0], strict=True))
        out.append("  ".join(cells).rstrip()[:WIDTH])
    sources = dict.fromkeys(v.point.estimate.source for v in order)
    out.append(f"±: one standard deviation ({text.listing(list(sources))}). ~: not distinguishable.")
    return "\n".join(out)


def _idle(lines: list[tuple[str, ...]], name: str, value: str | None) -> bool:
    """Whether a column says nothing: ``value`` everywhere, or (``None``) what stands in the column of FLOPs paid."""
    place, paid = _HEAD.index(name), _HEAD.index("Paid")
    return all(line[place] == (line[paid] if value is None else value) for line in lines[1:])


def _fit(cell: str, width: int, name: str) -> str:
    if len(cell) > width:
        cell = cell[: width - 1] + "…"
    return cell.ljust(width) if name in _LEFT else cell.rjust(width)


def _line(item: Verdict, numbers: dict[int, int]) -> tuple[str, ...]:
    point, row = item.point, item.point.rows[0]
    kilograms = [r.footprint.kg if r.footprint else None for r in point.rows]
    known = [kg for kg in kilograms if kg is not None]
    ties = ",".join(f"#{numbers[id(p)]}" for p in item.ties[:2]) + ("…" if len(item.ties) > 2 else "")
    if item.status == "floor":
        verdict = "baseline"
    elif item.status == "on the front":
        verdict = f"front, ~ {ties}" if ties else "front"
    else:
        sign = "behind" if item.status == "behind" else "~"
        verdict = f"{sign} #{numbers[id(item.against)]}"
    random = text.NONE
    if item.random is not None:
        random = "~" if not item.random.distinguishable else "above" if item.random.difference > 0 else "below"
    return (
        str(numbers[id(point)]),
        point.name,
        text.flops(point.budget) if point.budget is not None else text.NONE,
        text.flops(row.cost()),
        text.flops(row.marginal),
        *(text.flops(row.flops.get(kind, 0)) for kind in ("pretrain", "transfer", "evaluate")),
        text.human(row.images_seen, "") if row.images_seen else text.NONE,
        epochs(row),
        text.score(point.estimate, point.axis),
        text.duration(statistics.mean(sum(r.seconds.values()) for r in point.rows)),
        text.mass(statistics.mean(known) if len(known) == len(point.rows) else None),
        random,
        verdict,
    )
