"""What models say of the same examples, side by side: pictures that evaluations kept, inlined into the page."""

from __future__ import annotations

import base64
import itertools
import pathlib
from collections.abc import Sequence

from spendflops.study.frontier import curve_name, varying
from spendflops.study.points import SCRATCH, Row, Score
from spendflops.study.report import text
from spendflops.study.report.text import esc

RUNS, EXAMPLES, BYTES = 8, 3, 900_000
"""The most runs beside each other, examples of an evaluation, and bytes of all pictures: inlined they are a third more,
and the page stays below 2 MB."""
_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


def section(rows: Sequence[Row], folder: pathlib.Path) -> str:
    """The section of the page; empty where no run has a picture."""
    groups = _groups(rows)
    if not groups:
        return ""
    vary, left, bodies, cut = varying(rows), BYTES, {place: "" for place in groups}, False
    # The first example of every evaluation, then the second of each: a full page lacks the last ones of all.
    for number, (place, runs) in itertools.product(range(EXAMPLES), groups.items()):
        names = sorted({name for run in runs for name in _pictures(*run)})
        if number < len(names):
            files = [(row, score, _pictures(row, score).get(names[number])) for row, score in runs[:RUNS]]
            read = [(row, score, path, _read(folder, path)) for row, score, path in files if path]
            size = sum(len(content or b"") for *_, content in read)
            if size > left:
                cut = True
                continue
            left -= size
            what = f"Example {number + 1} of {_title(place)}"
            figures = (_figure(what, _who(row, score, vary), path, content) for row, score, path, content in read)
            bodies[place] += f'<div class="examples" role="group" aria-label="{esc(what)}">{"".join(figures)}</div>'
    words = "What models say of the same examples, one run a method: the first seed at the largest budget."
    words += " There was no room for all of them: the others lie in the folders of the runs." if cut else ""
    parts = [f"<h3>{esc(_title(place))}</h3>{_omitted(len(groups[place]))}{body}" for place, body in bodies.items()]
    return f"<section><h2>Examples</h2><p>{esc(words)}</p>{''.join(parts)}</section>"


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[tuple[Row, Score]]]:
    """(evaluation, data) -> the runs with pictures: baselines first, then one of each method."""
    vary, found = varying(rows), {}
    for row in sorted((r for r in rows if r.ok and r.kind != "tuning"), key=_rank):
        for score in row.scores:
            if _pictures(row, score):
                runs = found.setdefault((score.evaluator, score.axis.place), {})
                runs.setdefault((curve_name(row, vary), row.transfer), (row, score))
    return {place: list(runs.values()) for place, runs in found.items()}


def _rank(row: Row) -> tuple[bool, int, int]:
    return row.kind != "baseline" and row.label != SCRATCH, -(row.budget or 0), row.seed


def _pictures(row: Row, score: Score) -> dict[str, str]:
    """Name -> path of the pictures of an evaluation."""
    return {p.path.rpartition("/")[2]: p.path for p in row.pictures if p.evaluation == score.evaluator}


def _read(folder: pathlib.Path, path: str) -> bytes | None:
    """The bytes of a picture; None where it does not lie in the folder, as of a report that was moved alone."""
    inside = not pathlib.PurePosixPath(path).is_absolute() and ".." not in pathlib.PurePosixPath(path).parts
    place = folder / path
    return place.read_bytes() if inside and place.suffix in _TYPES and place.is_file() else None


def _figure(what: str, who: str, path: str, content: bytes | None) -> str:
    if content is None:
        return f"<figure><p>{esc(path)} does not lie beside this page.</p><figcaption>{esc(who)}</figcaption></figure>"
    source = f"data:{_TYPES[pathlib.PurePosixPath(path).suffix]};base64,{base64.b64encode(content).decode()}"
    picture = f'<img src="{source}" alt="{esc(f"{what}: {who}")}">'
    return f"<figure>{picture}<figcaption>{esc(who)}</figcaption></figure>"


def _who(row: Row, score: Score, vary: tuple[str, ...]) -> str:
    """``mae, 2.00e12 FLOPs, seed 0: box_ap 12.3 %``."""
    name = curve_name(row, vary) + (f", {row.transfer}" if row.transfer else "")
    budget = f", {text.flops(row.budget)} FLOPs" if row.budget is not None else ""
    value = f"{text.number(score.value, score.axis)}{text.unit(score.axis)}"
    return f"{name}{budget}, seed {row.seed}: {score.metric} {value}"


def _title(place: tuple[str, str]) -> str:
    return " on ".join(part for part in place if part)


def _omitted(count: int) -> str:
    return f"<p class='meta'>{RUNS} of {count} methods are shown.</p>" if count > RUNS else ""
