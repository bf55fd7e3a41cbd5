"""A report as files: report.html, report.json, points.csv, each written whole or not at all."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any

from spendflops.study.frontier import Analysis, analyse
from spendflops.study.points import Report, axes, csv_text
from spendflops.study.report import text
from spendflops.study.report.page import page


def write(report: Report, folder: str | os.PathLike[str]) -> dict[str, str]:
    """Writes the three files and returns their paths as ``{"html": ..., "json": ..., "csv": ...}``."""
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    analyses = [analyse(report.rows, axis, budget=report.budget) for axis in axes(report.rows)]
    data = {**report.to_json(), "analysis": [_analysis(item) for item in analyses]}
    contents = {
        "html": ("report.html", page(report, analyses, target)),
        "json": ("report.json", json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        "csv": ("points.csv", csv_text(report.rows)),
    }
    return {kind: _replace(target / name, content) for kind, (name, content) in contents.items()}


def _replace(path: pathlib.Path, content: str) -> str:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps the file from everybody else; a report is to be shared
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return str(path)


def _analysis(item: Analysis) -> dict[str, Any]:
    """What the page says about an axis, as data."""
    return {
        "axis": vars(item.axis),
        "headline": text.headline(item),
        "points": [
            {
                "name": verdict.point.name,
                "budget": verdict.point.budget,
                "flops": verdict.point.flops,
                "runs": [row.run_id for row in verdict.point.rows],
                **vars(verdict.point.estimate),
                "status": verdict.status,
                "verdict": " ".join(filter(None, text.verdict(verdict))),
                "against_random": text.against_random(verdict.random, item.axis),
            }
            for verdict in item.verdicts
        ],
        "crossovers": [vars(crossover) for crossover in item.crossovers],
    }
