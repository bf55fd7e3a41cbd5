"""The tables of a report: rows of text that the page and the terminal share, and HTML made of them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from spendflops.study.frontier import Analysis, Verdict, curve_name, varying
from spendflops.study.points import PHASES, Report, Row
from spendflops.study.report import text
from spendflops.study.report.text import esc


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell: its text, a second line in small print, whether it is a number, classes."""

    text: str
    sub: str = ""
    number: bool = False
    css: str = ""


def results(analysis: Analysis) -> tuple[list[str], list[tuple[Verdict, list[Cell]]]]:
    """Header and rows of one axis: best first, baselines that cost nothing last."""
    head = [
        "Method",
        "Budget",
        "Score",
        "Verdict",
        "Against random",
        "FLOPs paid",
        "Pre-training",
        "Transfer",
        "Tuning",
    ]
    head += ["Evaluation", "Images", "Epochs", "Time", "CO2e"]
    sign = analysis.axis.sign
    order = sorted(analysis.verdicts, key=lambda v: (v.point.floor, -v.point.estimate.value * sign))
    lines = [_result(v, analysis) for v in order]
    idle = {
        "Against random": any(v.random for v in order),
        "Tuning": any(r.tuning for v in order for r in v.point.rows),
    }
    for name in (name for name, used in idle.items() if not used):
        at = head.index(name)
        head, lines = [*head[:at], *head[at + 1 :]], [[*line[:at], *line[at + 1 :]] for line in lines]
    return head, list(zip(order, lines, strict=True))


def _result(item: Verdict, analysis: Analysis) -> list[Cell]:
    point, rows = item.point, item.point.rows
    first = rows[0]
    seconds = statistics.mean(sum(row.seconds.values()) for row in rows)
    kilograms = [row.footprint.kg if row.footprint else None for row in rows]
    known = [value for value in kilograms if value is not None]
    kg = statistics.mean(known) if len(known) == len(rows) else None
    budget = text.flops(point.budget) if point.budget is not None else text.NONE
    alike = len({p.estimate.source for p in analysis.points}) == 1
    words, numbers = text.verdict(item)
    seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
    return [
        Cell(point.name, sub=", ".join(filter(None, (seeds, first.backbone, first.dataset)))),
        Cell(budget, number=True),
        Cell(
            text.score(point.estimate, analysis.axis),
            sub="" if alike else point.estimate.source,
            number=True,
            css="s",
        ),
        Cell(words, sub=numbers, css="v"),
        Cell(text.against_random(item.random, analysis.axis), css="w"),
        Cell(text.flops(first.cost()), sub=text.human(first.cost()) if first.cost() else "", number=True),
        Cell(
            text.flops(first.flops.get("pretrain", 0)),
            sub=f"{text.flops(first.own('pretrain'))} beyond its trunk" if first.trunk else "",
            number=True,
        ),
        Cell(text.flops(first.flops.get("transfer", 0)), number=True),
        Cell(text.flops(first.tuning), number=True),
        Cell(
            text.flops(first.flops.get("evaluate", 0)),
            sub=f"{text.flops(first.cached)} spent before" if first.cached else "",
            number=True,
        ),
        Cell(text.human(first.images_seen, "") if first.images_seen else text.NONE, number=True),
        Cell(epochs(first), number=True),
        Cell(text.duration(seconds), number=True),
        Cell(text.mass(kg), number=True),
    ]


def others(analysis: Analysis) -> tuple[list[str], list[list[Cell]]]:
    """Header and rows of what evaluators say beside the score, means over the seeds; no rows where there is nothing."""
    order = sorted(analysis.verdicts, key=lambda v: -v.point.estimate.value * analysis.axis.sign)
    said = [[_said(row, analysis) for row in v.point.rows] for v in order]
    names = list(dict.fromkeys(name for rows in said for row in rows for name in row))
    if not names:
        return [], []
    lines = []
    for item, rows in zip(order, said, strict=True):
        budget = item.point.budget
        found = [[row[name] for row in rows if name in row] for name in names]
        means = [f"{statistics.mean(values):.4g}" if values else text.NONE for values in found]
        known = text.flops(budget) if budget is not None else text.NONE
        lines.append([Cell(item.point.name), Cell(known, number=True), *(Cell(mean, number=True) for mean in means)])
    return ["Method", "Budget", *names], lines


def _said(row: Row, analysis: Analysis) -> Mapping[str, float]:
    axis = analysis.axis
    return next((s.others for s in row.scores if (s.protocol, s.metric) == (axis.protocol, axis.metric)), {})


def epochs(row: Row) -> str:
    """How often the data were seen, or a dash without pre-training or with endless data."""
    return text.digits3(row.epochs) if row.epochs else text.NONE


def costs(items: Sequence[tuple[str, Row]]) -> tuple[list[str], list[list[Cell]]]:
    """FLOPs by phase, wasted and hardware FLOPs, and the cost of one image, a line a point."""
    used = [phase for phase in PHASES if any(row.phases.get(phase) for _, row in items)]
    head = ["Method", *(phase.capitalize() for phase in used), "Sum", "Hardware", "Per image", "Wasted", "Device"]
    lines = []
    for name, row in items:
        total = sum(row.phases.values())
        hardware = Cell(text.flops(row.hardware_flops), sub=row.hardware_reason, number=True)
        if row.hardware_flops is not None and total:
            hardware = Cell(text.flops(row.hardware_flops), sub=f"× {row.hardware_flops / total:.3f}", number=True)
        lines.append(
            [
                Cell(name),
                *(Cell(text.flops(row.phases.get(phase, 0)), number=True) for phase in used),
                Cell(text.flops(total), number=True),
                hardware,
                Cell(text.flops(total / row.images_seen) if row.images_seen else text.NONE, number=True),
                Cell(text.flops(row.flops.get("wasted", 0)), number=True),
                Cell(row.device),
            ]
        )
    return head, lines


def representatives(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """One finished row (the first seed) of each label, backbone, data set and budget that trained anything."""
    vary = varying(rows)
    found: dict[tuple, tuple[str, Row]] = {}
    for row in sorted(rows, key=lambda r: (r.kind, curve_name(r, vary), r.budget or 0, r.seed)):
        if row.ok and any(row.phases.values()) and row.kind != "tuning":
            name = _shown(row, vary)
            budget = f" · {text.flops(row.budget)}" if row.budget is not None else ""
            found.setdefault((row.kind, name, row.budget), (f"{name}{budget}", row))
    return list(found.values())


def differences(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """The settings that are not equal in all finished rows: a line a setting, a column a curve."""
    vary = varying(rows)
    columns: dict[str, list[Row]] = {}
    for row in rows:
        if row.ok and row.kind != "tuning":
            columns.setdefault(_shown(row, vary), []).append(row)
    keys = sorted({key for group in columns.values() for row in group for key in row.settings} - {"seed"})
    lines = []
    for key in keys:
        values = [_values([row.settings for row in group], key) for group in columns.values()]
        if len(set(values)) > 1 or " / " in values[0]:
            lines.append([Cell(key), *(Cell(value) for value in values)])
    return ["Setting", *columns], lines


def _shown(row: Row, vary: tuple[str, ...]) -> str:
    """The name of a row where rows of pre-training and of transfers stand together."""
    return curve_name(row, vary) + (f", {row.transfer}" if row.transfer else "")


def _values(settings: Sequence[Mapping[str, object]], key: str) -> str:
    found = dict.fromkeys(str(s[key]) if s.get(key) is not None else text.NONE for s in settings)
    return " / ".join(found)


def tuning(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """The runs that chose settings, best first, those of one transfer of one method together."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.transfer, row.label, row.dataset), []).append(row)
    lines = []
    for (transfer, label, data), group in groups.items():
        for row in sorted(group, key=lambda r: -r.scores[0].value * r.scores[0].axis.sign if r.scores else math.inf):
            score = row.scores[0] if row.scores else None
            found = f"{text.number(score.value, score.axis)}{text.unit(score.axis)}" if score else row.status
            cells = [Cell(transfer), Cell(label, sub=data), Cell(row.candidate), Cell(found, number=True, css="s")]
            lines.append([*cells, Cell(text.flops(row.own("transfer")), number=True)])
    return ["Transfer", "Method", "Settings", "Score", "FLOPs"], lines


def unfinished(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """The runs that did not finish, or were stopped, with the reason."""
    head = ["Run", "Method", "Budget", "Seed", "Reason", "Folder"]
    lines = []
    for row in rows:
        reason = row.status.partition(":")[2].strip() or "unknown"
        budget = text.flops(row.budget) if row.budget is not None else text.NONE
        cells = [Cell(row.run_id), Cell(row.label), Cell(budget, number=True), Cell(str(row.seed), number=True)]
        lines.append([*cells, Cell(reason, css="v"), Cell(row.folder or text.NONE, css="mono")])
    return head, lines


def runs(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Every run with its hash, versions and folder."""
    head = ["Run", "Seed", "Status", "Config hash", "Steps", "Versions", "Folder"]
    return head, [
        [
            Cell(row.run_id),
            Cell(str(row.seed), number=True),
            Cell(row.status.partition(":")[0]),
            Cell(row.config_hash or text.NONE, css="mono"),
            Cell(str(row.steps), number=True),
            Cell(", ".join(f"{name} {version}" for name, version in row.versions.items()) or text.NONE),
            Cell(row.folder or text.NONE, css="mono"),
        ]
        for row in rows
    ]


def overlaps(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Images shared between roles."""
    head = ["Images of", "Images of", "Shared", "Of the first", "Of the second"]
    lines = []
    for item in report.overlap:
        sizes = ((item.shared, item.a_images), (item.shared, item.b_images))
        parts = [f"{shared / size:.1%} of {size}" if size else text.NONE for shared, size in sizes]
        cells = [Cell(item.a), Cell(item.b), Cell(str(item.shared), number=True)]
        lines.append([*cells, *(Cell(part, number=True) for part in parts)])
    return head, lines


def html(
    caption: str, head: Sequence[str], lines: Sequence[Sequence[Cell]], *, marks: Sequence[str] = (), label: str = ""
) -> str:
    """A table with a caption, header scopes and a region that scrolls by itself. ``marks`` are classes of the rows."""
    numbers = [bool(lines) and all(line[i].number for line in lines) for i in range(len(head))]
    top = "".join(f'<th scope="col"{_css(n)}>{esc(name)}</th>' for name, n in zip(head, numbers, strict=True))
    body = []
    for i, line in enumerate(lines):
        mark = f' class="{marks[i]}"' if marks and marks[i] else ""
        first = f'<th scope="row">{_inner(line[0])}</th>'
        rest = "".join(f"<td{_css(cell.number, cell.css)}>{_inner(cell)}</td>" for cell in line[1:])
        body.append(f"<tr{mark}>{first}{rest}</tr>")
    name = esc(label or caption)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>'
        f"<caption><span>{esc(caption)}</span></caption><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _inner(cell: Cell) -> str:
    return esc(cell.text) + (f'<span class="sub">{esc(cell.sub)}</span>' if cell.sub else "")


def _css(number: bool, css: str = "") -> str:
    names = " ".join(name for name in ("n" if number else "", css) if name)
    return f' class="{names}"' if names else ""
