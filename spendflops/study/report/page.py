"""The page: one HTML file without scripts and without references to anything outside it."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from spendflops.accounts.footprint import total
from spendflops.study.frontier import RULE, Analysis, Crossover, curve_name, varying
from spendflops.study.labels import by_labels
from spendflops.study.points import FLOP_KINDS, Report, Row
from spendflops.study.report import bars, cells, chart, examples, footprints, labels, learning, tables, text
from spendflops.study.report.style import CSS
from spendflops.study.report.text import esc

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a browser may load for the page: nothing, even if a name slipped through the escaping."""


def page(report: Report, analyses: Sequence[Analysis], folder: pathlib.Path) -> str:
    """The whole page as text; ``folder`` is that of the report, in which its pictures are."""
    vary = varying(report.rows)
    series = list(dict.fromkeys(curve_name(row, vary) for row in report.rows if row.ok and row.cost()))
    first = text.headline(analyses[0]) if analyses else "No run finished: there is nothing to compare yet."
    sections = [_axis(item, i, series) for i, item in enumerate(analyses)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(report.title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{esc(report.title)}</h1><p class='question'>{esc(report.question)}</p>"
        f"<p class='headline'>{_sentence(first)}</p>{_meta(report)}</header><main>"
        + _notes(report, analyses)
        + labels.section(by_labels(report.rows), series=series)
        + "".join(sections)
        + cells.datasets(analyses)
        + cells.sizes(analyses)
        + learning.section(report.rows)
        + examples.section(report.rows, folder)
        + _tuning(report)
        + _spent(report)
        + footprints.section(report.rows)
        + _differences(report)
        + _terms(report)
        + _stopped(report)
        + _failures(report)
        + _reproduce(report)
        + f"</main><footer>Made with spendflops, {esc(report.created)}.</footer></body></html>\n"
    )


def _sentence(words: str) -> str:
    return esc(words).replace(" %", "&nbsp;%")  # a unit does not go to the next line alone


def _meta(report: Report) -> str:
    spent = {kind: sum(row.own(kind) for row in report.rows) for kind in FLOP_KINDS}
    ends = {"stopped": len(report.stopped), "failed": len(report.failed)}
    parts = [f"{len(report.rows)} runs", *(f"{count} {how}" for how, count in ends.items() if count)]
    parts.append(f"{text.flops(sum(spent.values()))} FLOPs in all ({text.human(sum(spent.values()))})")
    parts.append(f"{text.duration(sum(sum(r.seconds.values()) * r.own_share for r in report.rows))} of computing")
    estimates = [footprints.scaled(r.footprint, r.own_share) for r in report.rows if r.footprint]
    if estimates:
        parts.append(f"{text.mass(total(estimates)[2])} CO2e (estimate)")
    measurements = [r.measured for r in report.rows if r.measured]
    if measurements:
        some = "" if len(measurements) == len(report.rows) else f" of {len(measurements)} runs"
        parts.append(f"{text.mass(total(measurements)[2])} CO2e (measurement{some})")
    return f"<p class='meta'>{esc(' · '.join(parts))}</p>"


def _notes(report: Report, analyses: Sequence[Analysis]) -> str:
    notes = list(report.notes)
    placed = [p for item in analyses for p in item.points if not p.floor]
    single = sum(p.estimate.seeds == 1 for p in placed)
    if single:
        which = "Every point is" if single == len(placed) else f"{single} of {len(placed)} points are"
        notes.append(
            f"{which} one pre-training run. Its spread comes from inside the evaluation and understates what another "
            "seed would change: read a small lead as an open question."
        )
    if any(p.estimate.se is None for p in placed):
        notes.append("Points without any spread are never called distinguishable: repeat them with other seeds.")
    unplaced = sorted({row.run_id for item in analyses for row in item.unplaced})
    if unplaced:
        notes.append(f"The cost of {text.listing(unplaced)} is unknown: they have no place on the axis.")
    if not notes:
        return ""
    items = "".join(f"<li>{esc(note)}</li>" for note in notes)
    return f'<aside class="warn" aria-label="Read this first"><h2>Read this first</h2><ul>{items}</ul></aside>'


def _axis(item: Analysis, index: int, series: Sequence[str]) -> str:
    axis = item.axis
    place = f" on {axis.place}" if axis.place else ""
    title = f"{axis.metric.capitalize()}{place}"
    asked = f" <small>{esc(axis.evaluator)}</small>" if axis.evaluator else ""
    parts = [f"<section><h2>{esc(title)}{asked}</h2><p class='meta'>Protocol <code>{esc(axis.protocol)}</code></p>"]
    if index:
        parts.append(f"<p class='answer'>{_sentence(text.headline(item))}</p>")
    drawings = [chart.chart(item, uid=f"c{index}{kind[0]}", narrow=kind == "narrow", series=series) for kind in _SIZES]
    if drawings[0]:
        both = "".join(f'<div class="{kind}">{svg}</div>' for kind, svg in zip(_SIZES, drawings, strict=True))
        parts.append(f"<figure>{both}<figcaption>{esc(_legend(item))}</figcaption></figure>")
    parts.append(_crossings(item))
    head, found = tables.results(item)
    marks = ["front" if verdict.status == "on the front" else "" for verdict, _ in found]
    if marks and not found[0][0].point.floor:
        marks[0] = f"{marks[0]} best".strip()
    caption = f"{title}, best first. ◆ marks the front, ± is one standard deviation ({text.listing(_sources(item))})."
    lines = [cells for _, cells in found]
    parts.append(tables.html(caption, head, lines[:_POINTS], marks=marks[:_POINTS], label=f"Results: {title}"))
    if lines[_POINTS:]:
        rest = tables.html(
            f"{title}, the other points.", head, lines[_POINTS:], marks=marks[_POINTS:], label=f"Other results: {title}"
        )
        parts.append(f"<details><summary>The other {len(lines[_POINTS:])} points</summary>{rest}</details>")
    head, lines = tables.others(item)
    if lines:
        table = tables.html(f"All figures: {title}, means over the seeds.", head, lines, label=f"All figures: {title}")
        parts.append(f"<details><summary>All figures</summary>{table}</details>")
    parts.append('<p class="meta"><a href="#rule">How a verdict is reached</a></p></section>')
    return "".join(parts)


_SIZES = ("wide", "narrow")
_CROSSINGS, _POINTS = 6, 30
"""The most crossings in words, and points of a table before the rest waits to be opened."""


def _crossings(item: Analysis) -> str:
    clear = [c for c in item.crossovers if c.clear]
    lines = [f"{c.dear} overtakes {c.cheap} near {text.flops(c.flops)} FLOPs{_within(c)}." for c in clear[:_CROSSINGS]]
    if len(clear) > len(lines):
        lines.append(f"{len(clear) - len(lines)} other distinguishable crossings are in report.json.")
    unclear = len(item.crossovers) - len(clear)
    if unclear:
        other = " other" if clear else ""
        many = f"{unclear}{other} crossings are" if unclear > 1 else f"One{other} crossing is"
        lines.append(f"{many} not distinguishable from a tie: the order on both sides is within the noise.")
    if not lines:
        return ""
    return f"<h3>Curves that cross</h3><ul>{''.join(f'<li>{esc(line)}</li>' for line in lines)}</ul>"


def _within(item: Crossover) -> str:
    return f" (no interval: {item.note})" if item.note else f" ({item.level:.0%} interval: {text.between(item)})"


def _sources(item: Analysis) -> list[str]:
    return list(dict.fromkeys(p.estimate.source for p in item.points))


def _legend(item: Analysis) -> str:
    known = any(p.estimate.sd is not None for p in item.points)
    bars_ = f"Error bars: one standard deviation ({text.listing(_sources(item))})." if known else "No spread is known."
    crossed = " Crosses: curves change places, distinguishably." if any(c.clear for c in item.crossovers) else ""
    hollow = any(p.kind == "baseline" and not p.floor for p in item.points)
    floors = any(p.floor for p in item.points)
    return (
        f"{bars_} Pale step line and rings: the front, the best score measured at a cost or less.{crossed}"
        + (" Hollow markers: baselines." if hollow else "")
        + (" Dashed line with its band: a baseline that spends nothing." if floors else "")
        + " Lines join measured points; nothing is extrapolated."
    )


def _tuning(report: Report) -> str:
    tried = [row for row in report.rows if row.kind == "tuning"]
    if not tried:
        return ""
    spent = sum(row.own("transfer") for row in tried)
    words = (
        f"{len(tried)} runs and {text.flops(spent)} FLOPs chose the settings of the transfers ({text.human(spent)})."
    )
    caption = "Settings that were tried, best first; the first of each method was used for all its rows."
    body = tables.html(caption, *tables.tuning(tried))
    return f"<section><h2>What choosing settings cost</h2><p>{esc(words)}</p>{body}</section>"


def _spent(report: Report) -> str:
    items = tables.representatives(report.rows)
    if not items:
        return ""
    drawings = [bars.bars(items, uid=f"b{kind[0]}", narrow=kind == "narrow") for kind in _SIZES]
    both = "".join(f'<div class="{kind}">{svg}</div>' for kind, svg in zip(_SIZES, drawings, strict=True))
    caption = (
        "Model FLOPs of a row's own training by phase, first seed; hardware FLOPs are those of the compiled programs."
    )
    return (
        "<section><h2>Where the FLOPs went</h2>"
        f"<figure>{both}<figcaption>Shares of the model FLOPs of each row's own training (a fine-tuning without what "
        "it starts from); the sum stands on the right.</figcaption></figure>"
        f"{tables.html(caption, *tables.costs(items))}</section>"
    )


def _differences(report: Report) -> str:
    head, lines = tables.differences(report.rows)
    if len(head) < 3:
        return ""
    body = tables.html(
        "Settings that are not equal in all rows; several values: they differ inside a curve.", head, lines
    )
    return (
        f"<section><h2>What differs between the rows</h2>{body if lines else '<p>Nothing but the label.</p>'}</section>"
    )


def _terms(report: Report) -> str:
    protocols = "".join(
        f"<dt><code>{esc(name)}</code></dt><dd>{esc(words)}</dd>" for name, words in report.protocols.items()
    )
    told = footprints.factors(report.rows)
    assumptions = "".join(f"<li>{esc(line)}</li>" for line in report.assumptions if line not in told)
    parts = ["<section><h2>Protocols and assumptions</h2>"]
    if protocols:
        parts.append(f'<div class="box"><h3>Protocols</h3><dl>{protocols}</dl></div>')
    if assumptions:
        parts.append(f'<div class="box"><h3>Assumptions</h3><ul>{assumptions}</ul></div>')
    parts.append(f'<div class="box" id="rule"><h3>How a verdict is reached</h3><p>{esc(RULE)}</p></div>')
    if report.overlap:
        caption = "Images that two roles share, by content hash."
        parts.append(f"<h3>Overlap between roles</h3>{tables.html(caption, *tables.overlaps(report))}")
    else:
        parts.append("<h3>Overlap between roles</h3><p>Not checked.</p>")
    return "".join([*parts, "</section>"])


def _stopped(report: Report) -> str:
    if not report.stopped:
        return ""
    caption = "Runs that were not made, since their method was behind at a shorter length; they are in no other table."
    return f"<section><h2>What was stopped</h2>{tables.html(caption, *tables.unfinished(report.stopped))}</section>"


def _failures(report: Report) -> str:
    if not report.failed:
        return "<section><h2>What failed</h2><p>Nothing.</p></section>"
    table = tables.html("Runs without a result; they are in no other table.", *tables.unfinished(report.failed))
    return f"<section><h2>What failed</h2>{table}</section>"


def _reproduce(report: Report) -> str:
    command = "<p>No command was recorded.</p>"
    if report.command:
        command = (
            f"<pre><code>{esc(report.command)}</code></pre><p>It makes every run that is not finished in its folder: "
            "with another <code>--workdir</code> all of them, from the same settings and seeds. To repeat one run, "
            "move its folder, which the table below names, out of the study's and call the command again.</p>"
        )
    citation = f"<h3>Cite</h3><p>{esc(report.citation)}</p>" if report.citation else ""
    return (
        f"<section><h2>Reproduce and cite</h2>{command}{citation}"
        "<p>The same numbers as data: <code>points.csv</code> (a line a run and score) and <code>report.json</code> "
        f"(everything on this page) lie beside this file.</p>{_runs(report.rows)}</section>"
    )


def _runs(rows: Sequence[Row]) -> str:
    return tables.html("Every run.", *tables.runs(rows))
