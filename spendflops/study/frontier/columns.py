"""Which column of a table holds what: the names that are known, in any case, and a mapping for others."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.study.frontier import cells

COLUMNS = {
    "method": "what was compared",
    "flops": "spent in all, the place on the axis: 3e18, or 3 EFLOP",
    "score": "a number",
    "flops_unknown": "why the FLOPs are not known; then their cell is empty, and the row is on no curve",
    "variant": "of the method, as a mask ratio: a curve of its own, one envelope with the others",
    "model": "backbone",
    "data": "of pre-training",
    "seed": "an integer; 0 without the column",
    "budget": "FLOPs that were to be spent, which the seeds of a point have in common; the FLOPs without the column",
    "steps": "optimiser steps",
    "parameters": "of what is trained: sizes that are compared at the same FLOPs",
    "task": "what was scored",
    "metric": "name of the score",
    "protocol": "how it was scored; two protocols never share an axis",
    "scored": "data of the score",
    "split": "of these data",
    "unit": "of the score, as %",
    "higher_is_better": "true or false; true without the column",
    "sd": "standard deviation inside the evaluation, of n values",
    "n": "how many",
    "kind": "method, baseline (may cost nothing), transfer, or tuning (only chose settings)",
    "candidate": "the settings that a tuning run tried",
    "tuning": "FLOPs that choosing the settings has cost",
    "status": "ok, or why it failed; then it needs no score",
    "note": "shown beside the score",
    "run_id": "name of the run",
}
REQUIRED = ("method", "flops", "score")
OWN = {
    "method": "label",
    "flops": "flops_paid",
    "score": "value",
    "model": "backbone",
    "data": "dataset",
    "task": "evaluator",
    "scored": "eval_dataset",
    "split": "eval_split",
} | {
    name: name
    for name in (
        *("run_id", "kind", "seed", "budget", "steps", "status", "candidate", "tuning"),
        *("metric", "protocol", "unit", "higher_is_better", "sd", "n"),
    )
}
"""Columns of a report's ``points.csv``."""

_PREFIXED = re.compile(
    r"(?:^|[^a-z])(?:(?:[kmgtpezy]|kilo|mega|giga|tera|peta|exa|zetta)[ _-]?(?:flop|mac)|macs?(?:$|[^a-z]))",
    re.IGNORECASE,
)
_LOWER = re.compile(r"^(?:lower|less|smaller)_?(?:is_?)?better$|^minimi[sz]ed?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Which column holds what.

    Attributes:
        columns: Column of ours -> column of the table.
        factor: From the numbers of the column of FLOPs to FLOPs; None where they are FLOPs.
        own: Whether it is the ``points.csv`` of a report.
        unread: Columns of the table that nothing reads; empty for a report's own.
    """

    columns: Mapping[str, str]
    factor: float | None
    own: bool
    unread: tuple[str, ...]


def layout(header: Sequence[str], given: dict[str, str], name: str) -> Layout:
    """Finds the columns, by their names in any case or by what is ``given``; see ``table.parse``.

    Raises:
        DataError: Columns that are missing, are there twice, or look as if another name was meant.
        ConfigError: ``given`` names columns that are not there.
    """
    own = set(OWN.values()) <= set(header)
    columns = dict(OWN) if own else _named(header, given, name)
    if own and "parameters" in header:  # reports of earlier versions had none
        columns["parameters"] = "parameters"
    factor = None
    for ours, theirs in given.items():
        if ours not in COLUMNS:
            raise ConfigError(f"{ours!r} is no column of ours{suggest(ours, list(COLUMNS))}", why=", ".join(COLUMNS))
        theirs, star, times = theirs.partition("*") if ours == "flops" else (theirs, "", "")
        if theirs not in header:
            raise ConfigError(
                f"{name} has no column {theirs!r}{suggest(theirs, list(header))}", why=f"it has {', '.join(header)}"
            )
        if star:
            try:
                factor = cells.number(times, "factor", positive=True)
            except ValueError as error:
                raise ConfigError(f"{ours}={theirs}*{times}: {error}", fix="flops=gmacs*2e9") from error
        columns[ours] = theirs
    _check_required(header, columns, name)
    prefixed = _PREFIXED.search(columns["flops"])
    if prefixed and factor is None:
        raise DataError(
            f"{name}: are the numbers of {columns['flops']!r} FLOPs?",
            why="the name has a prefix, or counts multiply-adds",
            fix=f"give the factor: --column 'flops={columns['flops']}*1e9' (2e9 for billions of multiply-adds)",
        )
    unread = () if own else tuple(column for column in header if column not in columns.values())
    _check_unread(unread, columns, name)
    return Layout(columns=columns, factor=factor, own=own, unread=unread)


def _check_required(header: Sequence[str], columns: Mapping[str, str], name: str) -> None:
    absent = [column for column in REQUIRED if column not in columns]
    if not absent:
        return
    other = next((mark for mark in ";\t|" if mark in header[0]), "")
    if len(header) == 1 and other:
        raise DataError(
            f"{name} has one column",
            why=f"its cells are separated by {other!r}",
            fix="save it as CSV: with commas between cells, and points in numbers",
        )
    raise DataError(
        f"{name} has no column{'s' if len(absent) > 1 else ''} {', '.join(map(repr, absent))}",
        why=f"its columns are {', '.join(header)}",
        fix="say which one it is: " + " ".join(f"--column {column}=NAME" for column in absent),
    )


def _plain(column: str) -> str:
    return re.sub(r"[ -]+", "_", column.lower())


def _named(header: Sequence[str], given: Mapping[str, str], name: str) -> dict[str, str]:
    """The columns that are called as ours; one that was given is looked for no further."""
    found: dict[str, str] = {}
    for column in header:
        ours = _plain(column)
        if ours not in COLUMNS or ours in given:
            continue
        if ours in found:
            raise DataError(
                f"{name} has two columns for {ours!r}: {found[ours]!r} and {column!r}",
                why="capitals make no difference",
                fix=f"rename one, or say which one it is: --column '{ours}={column}'",
            )
        found[ours] = column
    return found


def _check_unread(unread: Sequence[str], columns: Mapping[str, str], name: str) -> None:
    """Refuses columns that nothing reads but that change the answer if they were meant as one of ours."""
    for column in unread:
        if _LOWER.search(_plain(column)):
            raise DataError(
                f"{name}: the column {column!r} is not read",
                why="the direction of a score is given the other way round",
                fix="rename it to 'higher_is_better', with false where it says true",
            )
        ours = _meant(_plain(column))
        if ours and ours not in columns:
            raise DataError(
                f"{name}: the column {column!r} is not read: is it {ours!r}?",
                why="a name that is nearly one of ours may be a slip, and the answer another without it",
                fix=f"rename it to {ours!r}, or to something else if it is not",
            )


def _meant(column: str) -> str:
    """The column of ours that a name is a slip of, else an empty string.

    Stricter than :func:`suggest`, which is for names that must be one of ours: ``source`` is not ``score``, nor
    ``date`` ``data``. Letters in another order are a slip however short the name is.
    """
    turned = [ours for ours in COLUMNS if sorted(ours) == sorted(column)]
    return next(iter(turned or difflib.get_close_matches(column, list(COLUMNS), n=1, cutoff=0.8)), "")
