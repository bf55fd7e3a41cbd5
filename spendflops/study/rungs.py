"""The lengths of a study: which row goes on from which, and which rows are not worth making.

Rows of a method in ``Study.trunks`` go on from the longest shorter one that has finished. With ``Study.halving`` the
rows of a length are run once those of all shorter ones have ended, and the methods that were scored there are compared.
All this follows from the rows that have ended: every worker comes to the same.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence

from spendflops.accounts import budget as budgets
from spendflops.engine import trunk
from spendflops.engine.build import Built
from spendflops.study.grid import Planned, Study
from spendflops.study.points import Row

Done = Mapping[str, Row]


def check(study: Study, planned: Sequence[Planned], built: Sequence[Built]) -> None:
    """Looks whether the lengths that are to share a trunk can.

    Raises:
        errors.ConfigError: Names what depends on the length of the run.
    """
    cells: dict[tuple[str, str], list[Built]] = {}
    for row, b in zip(planned, built, strict=True):
        if row.kind == "method" and row.label in study.trunks:
            cells.setdefault((row.label, row.dataset), []).append(b)
    for found in cells.values():
        stage = trunk.check_stages(found[0].recipe)
        trunk.check_lengths(stage, found[0].stages[0], [b.steps[0] for b in found])


def shorter(study: Study, row: Planned, planned: Sequence[Planned]) -> list[Planned]:
    """The rows from whose trunk a row may go on, the longest first."""
    if row.kind != "method" or row.label not in study.trunks:
        return []
    same = [p for p in planned if (p.kind, p.label, p.dataset, p.seed) == (row.kind, row.label, row.dataset, row.seed)]
    return sorted((p for p in same if _length(p) < _length(row)), key=_length, reverse=True)


def waits(study: Study, row: Planned, planned: Sequence[Planned], done: Done) -> bool:
    """Whether a row is not to be run yet: its trunk is not there, or it is not known whether it is worth its FLOPs."""
    if row.kind != "method":
        return False
    before = shorter(study, row, planned)
    if study.halving is not None:
        before = [p for p in planned if p.kind == "method" and _length(p) < _length(row)]
    return any(p.run_id not in done for p in before)


def stopped(study: Study, planned: Sequence[Planned], done: Done) -> dict[str, str]:
    """Run id -> why it is not worth its FLOPs, as far as the rows that have ended tell.

    Args:
        study: With its rule, or without one: then nothing is stopped.
        planned: All rows of pre-training.
        done: The rows that have ended, by id; what has no score is not compared.
    """
    behind: dict[str, str] = {}
    found: dict[str, str] = {}
    for rows in _lengths(planned) if study.halving is not None else ():
        going = [row for row in rows if _arm(row) not in behind]
        found |= {row.run_id: behind[_arm(row)] for row in rows if row not in going}
        if any(row.run_id not in done for row in going):
            break
        behind |= _behind(study, going, done)
    return found


def _behind(study: Study, rows: Sequence[Planned], done: Done) -> dict[str, str]:
    """The methods that go no further than this length, with the reason."""
    assert study.halving is not None
    scores: dict[str, list[float]] = {}
    for row in rows:
        first = study.first_compared.get(row.label)
        if first is not None and _length(row) < _amount(first):
            continue
        for score in done[row.run_id].scores:
            if score.evaluator == study.primary:
                scores.setdefault(_arm(row), []).append(score.axis.sign * score.value)
    means = {name: statistics.fmean(values) for name, values in scores.items()}
    ranked = sorted(means, key=lambda name: (-means[name], name))
    return {
        name: f"at {rows[0].budget} {name} is {ranked.index(name) + 1} of {len(ranked)} by {study.primary}, "
        f"{abs(means[name]):.4g} where {ranked[0]} has {abs(means[ranked[0]]):.4g}"
        for name in study.halving.stopped(means, {_arm(row): row.label for row in rows})
    }


def _lengths(planned: Sequence[Planned]) -> list[list[Planned]]:
    """The rows of methods, those of a length together, the shortest first."""
    groups: dict[float, list[Planned]] = {}
    for row in sorted((p for p in planned if p.kind == "method"), key=_length):
        groups.setdefault(_length(row), []).append(row)
    return list(groups.values())


def _arm(row: Planned) -> str:
    return f"{row.label} on {row.dataset}" if row.dataset else row.label


def _length(row: Planned) -> float:
    return _amount(row.budget or "0")


@functools.cache
def _amount(budget: str) -> float:
    return float(budgets.parse(budget).amount)
