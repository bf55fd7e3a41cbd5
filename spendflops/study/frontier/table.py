"""Anybody's table of runs: a CSV with a line a run and score, read into the rows that everything here takes.

Three columns are needed, ``method``, ``flops`` and ``score``; ``columns.COLUMNS`` names the others. A table with
other names is read with a mapping, ``{"flops": "total_gflops*1e9"}``. The ``points.csv`` of a report is known by its
columns.

Nothing is dropped in silence: whatever cannot be read is an error that names its lines, and all of them at once.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from spendflops.contracts.errors import DataError
from spendflops.study.frontier import table_checks
from spendflops.study.frontier.columns import layout
from spendflops.study.frontier.lines import line
from spendflops.study.frontier.table_checks import SHOWN, Line
from spendflops.study.points import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """What a table says.

    Attributes:
        rows: A row a line.
        unread: Its columns that are not of ours.
        notes: What a reader of the answer has to know of it.
    """

    rows: tuple[Row, ...]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def read(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> Table:
    """A CSV file; see :func:`table`.

    Raises:
        DataError: No such file, or not text; and as :func:`table`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}", why=str(error), fix="give a CSV file in UTF-8") from error
    return table(text, columns, name=Path(path).name)


def table(text: str, columns: Mapping[str, str] | None = None, *, name: str = "the table") -> Table:
    """Reads a CSV.

    Args:
        text: With a header line.
        columns: Column of ours -> column of the table; for ``flops`` perhaps with a factor, ``"gmacs*2e9"``. Columns of
            our names, in any case, need none.
        name: For messages.

    Returns:
        A row a line, in their order. Columns that are not of ours become ``settings``, which no answer reads.

    Raises:
        DataError: Lines that cannot be read or mean two things at once, by number; columns that look like one of ours.
        ConfigError: A mapping of columns that are not there.
    """
    header, lines = _cells(text, name)
    where = layout(header, dict(columns or {}), name)
    found: list[Line] = []
    wrong: list[tuple[int, str]] = []
    for number, cells in lines:
        if len(cells) != len(header):
            wrong.append((number, f"{len(cells)} cells under {len(header)} columns"))
            continue
        try:
            found.append(line(where, number, dict(zip(header, cells, strict=True))))
        except ValueError as error:
            wrong.append((number, str(error)))
    if wrong:
        _refuse(name, wrong, "correct these lines; a run that failed has a reason in a column 'status'")
    table_checks.check_flops_form(name, found)
    table_checks.check_direction(name, found, where.columns["score"])
    table_checks.check_axes(name, found)
    table_checks.check_repeats(name, found, has_seeds="seed" in where.columns)
    unread = f"columns not read: {', '.join(where.unread)}" if where.unread else ""
    notes = tuple(note for note in (unread, table_checks.small_percentages(found)) if note)
    return Table(rows=tuple(each.row for each in found), unread=where.unread, notes=notes)


def parse(text: str, columns: Mapping[str, str] | None = None, *, name: str = "the table") -> tuple[Row, ...]:
    """The rows of :func:`table`."""
    return table(text, columns, name=name).rows


def _cells(text: str, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} is no CSV", why=str(error)) from error
    if len(lines) < 2:
        raise DataError(f"{name} has no runs", why="it needs a header and a line a run", fix="see docs/answer.md")
    header = lines[0][1]
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise DataError(f"{name} has two columns called {repeated[0]!r}", fix="rename one")
    return header, lines[1:]


def _refuse(name: str, wrong: Sequence[tuple[int, str]], fix: str) -> None:
    shown = "; ".join(f"line {number}: {reason}" for number, reason in wrong[:SHOWN])
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    count = f"{len(wrong)} lines" if len(wrong) > 1 else "1 line"
    raise DataError(f"{name}: {count} cannot be read", why=shown + more, fix=fix)
