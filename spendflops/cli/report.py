"""spendflops report runs/quickstart"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from spendflops.contracts import errors


def define(known: flags.FlagValues) -> None:
    """No flags of its own."""


def main(known: flags.FlagValues, rest: Sequence[str]) -> int:
    """Writes report.html, report.json and points.csv again from report.json."""
    if len(rest) != 1:
        raise errors.ConfigError("report takes the folder of a study", fix="spendflops report runs/quickstart")
    path = Path(rest[0]) / "report.json"
    if not path.exists():
        raise errors.DataError(f"there is no {path}", fix="run the study first")
    from spendflops.study.points import Report
    from spendflops.study.report import terminal_table, write

    report = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    paths = write(report, Path(rest[0]))
    print(terminal_table(report))
    for kind, written in paths.items():
        print(f"{kind}: {written}")
    return 0
