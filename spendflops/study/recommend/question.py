"""What is asked: a budget, a task, and which rows may answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from spendflops.accounts import budget as budgets
from spendflops.accounts.budget import Budget
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.study.frontier.curves import COST_TOLERANCE, Point
from spendflops.study.frontier.tuning import tuning
from spendflops.study.points import Axis, Row, axes

_NAMES: tuple[Callable[[Axis], tuple[str, ...]], ...] = (
    lambda axis: (axis.protocol, f"{axis.evaluator}/{axis.metric}"),
    lambda axis: (axis.evaluator,),
    lambda axis: (axis.metric,),
    lambda axis: (axis.dataset, axis.place),
)
"""What a task may be called by, the most exact first."""
FILTERS = {"method": "label", "model": "backbone", "data": "dataset"}


def flops_of(text: str) -> Budget:
    """A budget that is FLOPs for every method.

    Raises:
        ConfigError: No budget, one in steps or epochs, or nothing.
    """
    budget = budgets.parse(text)
    if budget.unit != "flops":
        raise ConfigError(
            f"{text!r} is no budget to choose by",
            why=f"{budget.unit} of two methods cost different FLOPs",
            fix="FLOPs as 3e18, or 2h@1xH200, 5kgCO2@8xA100@europe-west4",
        )
    if budget.amount < 1:
        raise ConfigError(
            f"{text!r} buys nothing", why="it is less than one FLOP", fix="what a whole run may cost: 3e18"
        )
    return budget


def axis_of(rows: Sequence[Row], task: str | None) -> Axis:
    """The one axis that a task means: its protocol, else its evaluator, else its metric, else the data that are scored.

    Raises:
        DataError: No score at all.
        ConfigError: No such task, or several protocols for one.
    """
    known = axes(rows)
    if not known:
        raise DataError("there is no finished run with a score", fix="run the study, or see docs/answer.md for a CSV")
    meant = ([axis for axis in known if task in names(axis)] for names in _NAMES)
    found = known if task is None else next((some for some in meant if some), [])
    if not found:
        names = sorted({name for axis in known for of in _NAMES for name in of(axis) if name})
        raise ConfigError(
            f"no run was scored on {task!r}{suggest(task or '', names)}",
            why=f"there are {'; '.join(dict.fromkeys(axis.evaluator for axis in known))}",
            fix="--task with one of these",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} axes for one question" + (f": {task!r} is on all of them" if task else ""),
            why="; ".join(f"{a.evaluator}: {a.metric} on {a.place or 'no data named'} ({a.protocol})" for a in found),
            fix=f"name one, by its protocol: --task '{found[0].protocol}'",
        )
    return found[0]


def missing(rows: Sequence[Row], wanted: Mapping[str, Sequence[str]]) -> str:
    """What is asked about and was never run, in words; empty if all of it was."""
    for what, names in wanted.items():
        known = sorted({getattr(row, FILTERS[what]) for row in rows if getattr(row, FILTERS[what])})
        for name in names:
            if name not in known:
                return f"no run has the {what} {name!r}; there are {', '.join(known) or 'none'}"
    return ""


def only(rows: Sequence[Row], wanted: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows of some methods, models or data; rows that have no model or data of their own stay.

    Args:
        rows: All.
        wanted: ``"method"``, ``"model"`` or ``"data"`` -> names.

    Raises:
        ConfigError: A name that no row has.
    """
    kept = list(rows)
    for what, names in wanted.items():
        field = FILTERS[what]
        known = sorted({getattr(row, field) for row in rows if getattr(row, field)})
        for name in names:
            if name not in known:
                why = f"there are {', '.join(known) or 'none'}"
                fix = f"--{what} with one of these, or none for all"
                raise ConfigError(f"no run has the {what} {name!r}{suggest(name, known)}", why=why, fix=fix)
        if names:
            kept = [row for row in kept if getattr(row, field) in (*names, "") or row.kind == "baseline"]
    return kept


def tuned_equally(rows: Sequence[Row], axis: Axis) -> tuple[list[Row], list[str], str]:
    """The rows with the scores to expect if every method had tried as many settings as the one that tried fewest.

    Returns:
        Rows, what was changed in words, and why it cannot be done; empty if it was.
    """
    found = tuning(rows, axis)
    if not isinstance(found, tuple):
        return list(rows), [], found.reason
    loss = {t.method: t.best - t.equal for t in found if t.best is not None and t.equal is not None}
    methods = {row.label for row in rows if row.kind in ("method", "transfer") and row.ok}
    unknown = sorted(methods - set(loss))
    if unknown:
        return list(rows), [], f"what choosing settings has tried is not recorded for {', '.join(unknown)}"
    notes = [
        f"{t.method} tried {t.tried} settings for {t.flops:.3g} FLOPs"
        + (f"; with {t.allowed} its scores are {abs(loss[t.method]):.3g} worse, as here" if loss[t.method] else "")
        for t in found
        if t.method in loss
    ]
    return [_shifted(row, axis, loss.get(row.label, 0.0)) for row in rows], notes, ""


def _shifted(row: Row, axis: Axis, loss: float) -> Row:
    scores = tuple(dataclasses.replace(s, value=s.value - loss) if s.axis == axis else s for s in row.scores)
    return row if row.kind == "tuning" else dataclasses.replace(row, scores=scores)


def pretrains(row: Row) -> bool:
    """Whether all that a row spent is its own pre-training, so that its steps are those of its FLOPs."""
    return not row.follows and not row.flops.get("transfer")


def check_budget(items: Sequence[Point], flops: float) -> None:
    """Refuses what pays for no step of anything.

    Raises:
        ConfigError: The budget is below one step of every method whose steps are known.
    """
    steps = {p.name: p.flops / p.rows[0].steps for p in items if p.flops and p.rows[0].steps and pretrains(p.rows[0])}
    known = all(p.name in steps for p in items if p.flops)
    if steps and known and flops < min(steps.values()):
        name = min(steps, key=steps.__getitem__)
        raise ConfigError(
            f"{flops:.6g} FLOPs are below one step", why=f"the cheapest, of {name}, costs {steps[name]:.6g} FLOPs"
        )


def check_free(items: Sequence[Point]) -> None:
    """Refuses runs that cost nothing.

    Raises:
        DataError: One that is no baseline.
    """
    free = [point for point in items if not point.flops and point.kind != "baseline"]
    if free:
        raise DataError(
            f"{free[0].name}: {', '.join(row.run_id for row in free[0].rows)} cost no FLOPs",
            why="it has no place on an axis of FLOPs; only a baseline may cost nothing",
            fix="--cost paid counts transfer, too, or correct the FLOPs",
        )


def check_lengths(items: Sequence[Point]) -> None:
    """Refuses seeds of one point that look like lengths of a curve.

    Raises:
        DataError: Runs of one curve with different seeds whose FLOPs differ, but by less than what counts as equal.
    """
    for one in items:
        for other in items:
            close = one.name == other.name and one.flops < other.flops <= one.flops * (1 + COST_TOLERANCE)
            if close and {r.seed for r in one.rows} != {r.seed for r in other.rows}:
                raise DataError(
                    f"{one.name}: runs of {one.flops:.6g} and {other.flops:.6g} FLOPs, "
                    f"{', '.join(r.run_id for r in (*one.rows, *other.rows))}, with different seeds",
                    why="lengths of a curve that differ by so little are seeds of one",
                    fix="a column 'budget' with the FLOPs that were to be spent says so",
                )
