"""A whole study before anything is spent: every run that it would make, with what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from spendflops.accounts import budget as budgets
from spendflops.accounts.flops import Cost
from spendflops.engine import trunk
from spendflops.engine.build import Built, build
from spendflops.study import rungs
from spendflops.study.grid import Planned, Study
from spendflops.study.plan import Costs, cautions, repeats
from spendflops.study.points import SCRATCH
from spendflops.study.terms import Terms

ROLES = ("pretrain", "transfer", "evaluate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Runs of a study that cost the same.

    Attributes:
        runs: How many: the seeds, or the candidates that are tried.
        programs: (cost of a call, calls, role) of one run, without the trunk that a shorter one has paid.
        trunk: FLOPs of that trunk: with them it is what one run would cost alone.
        steps: Of all its stages.
        examples: That all its stages see.
        repeats: Of the data of which they see most.
    """

    kind: str
    label: str
    dataset: str
    budget: str | None
    transfer: str
    runs: int
    programs: tuple[tuple[Cost, int, str], ...]
    steps: int
    examples: int
    repeats: float
    trunk: int = 0

    def flops(self, role: str) -> int:
        """Of one run."""
        return sum((cost.total or 0) * calls for cost, calls, r in self.programs if r == role)

    @property
    def total(self) -> int:
        """Of all runs, in all roles."""
        return self.runs * sum(self.flops(role) for role in ROLES)


def entries(study: Study, costs: Costs | None = None) -> Iterator[Entry]:
    """Every run of a study, those that cost the same together: pre-training, then what depends on it."""
    costs = costs or Costs()
    planned = study.pretraining()
    rungs.check(study, planned, [build(row.recipe) for row in planned])
    for rows in _grouped(planned):
        entry = _entry(rows[0], build(rows[0].recipe), costs, runs=len(rows))
        before = rungs.shorter(study, rows[0], planned)
        yield _branch(entry, build(before[0].recipe)) if before else entry
    yield from _best_and_scratch(study, planned, costs)
    for name in study.transfers:
        yield from _transfers(study, name, planned, costs)


def plan_study(study: Study, *, terms: Terms | None = None) -> dict[str, Any]:
    """What a study costs, as JSON: a row for the runs that cost the same, totals by role, notes."""
    costs = Costs()
    found = list(entries(study, costs))
    rows = [_row(entry, terms) for entry in found]
    totals = {role: sum(e.runs * e.flops(role) for e in found) for role in ROLES}
    notes = [
        line
        for row in study.pretraining()
        if row.kind == "method" and row.seed == study.seeds[0]
        for line in cautions(build(row.recipe), f"{row.label} on {row.dataset}", costs)
    ]
    if study.halving is not None:
        notes.append("halving: at most all of these runs are made; how many is not known before they are scored")
    body = {"rows": rows, "runs": sum(e.runs for e in found), "totals": totals, "notes": list(dict.fromkeys(notes))}
    if terms is not None:
        whole = [(cost, calls * e.runs) for e in found for cost, calls, _ in e.programs]
        body |= {"machine": str(terms.machine), "hours_from": terms.told, "price": terms.price(whole).to_json()}
    return body


def _branch(entry: Entry, shorter: Built) -> Entry:
    """The runs that go on from the trunk of a shorter one."""
    steps = trunk.leaves(shorter.recipe.stages[0], shorter.steps[0]) or 0
    (cost, calls, role), *rest = entry.programs
    return dataclasses.replace(entry, programs=((cost, calls - steps, role), *rest), trunk=steps * (cost.total or 0))


def _grouped(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Rows that differ in their seed alone."""
    groups: dict[tuple[Any, ...], list[Planned]] = {}
    for row in planned:
        groups.setdefault((row.kind, row.label, row.dataset, row.budget), []).append(row)
    return list(groups.values())


def _entry(planned: Planned, built: Built, costs: Costs, *, runs: int) -> Entry:
    seen = [
        (steps * stage.batch_size, row["repeats"])
        for stage, steps in zip(built.recipe.stages, built.steps, strict=True)
        if steps
        for row in repeats(stage, steps * stage.batch_size)
    ]
    examples = sum(n * s.batch_size for n, s in zip(built.steps, built.recipe.stages, strict=True))
    return Entry(
        kind=planned.kind,
        label=planned.label,
        dataset=planned.dataset,
        budget=planned.budget,
        transfer=planned.transfer,
        runs=runs,
        programs=tuple((costs.of(program), calls, role) for program, calls, role in built.programs()),
        steps=sum(built.steps),
        examples=examples,
        repeats=max((times for _, times in seen), default=0.0),
    )


def _best_and_scratch(study: Study, planned: Sequence[Planned], costs: Costs) -> Iterator[Entry]:
    seeds, finetuning = len(study.seeds), 0
    if study.finetune is not None:
        # Which row is the best is not known; what fine-tuning it costs is.
        best = next(row for row in planned if row.kind == "method" and row.budget == study.largest)
        row = dataclasses.replace(study.finetuned(best), label="fine-tune of the best")
        entry = _entry(row, build(row.recipe), costs, runs=seeds)
        finetuning = entry.flops("transfer")
        yield entry
    if study.scratch is not None:
        for budget in study.budgets:
            flops = int(budgets.parse(budget).amount) + finetuning
            row = study.from_scratch(seed=study.seeds[0], budget=budget, flops=flops)
            yield _entry(row, build(row.recipe), costs, runs=seeds)


def _transfers(study: Study, name: str, planned: list[Planned], costs: Costs) -> Iterator[Entry]:
    """What follows pre-training costs the same from whatever it starts."""
    transfer, seed = study.transfers[name], study.seeds[0]
    tried = [
        _one(study.transferred(name, None, stage, seed=seed, candidate=candidate), costs)
        for candidate, stage in transfer.candidates.items()
    ]
    stages = transfer.stages.values()
    # Which candidate is chosen is not known: the dearest.
    chosen = max((_one(study.transferred(name, None, s, seed=seed), costs) for s in stages), key=lambda e: e.total)
    for starts in study.starts(planned, transfer):
        first = starts[0]
        for each in _grouped_entries(tried):
            yield dataclasses.replace(each, label=_label(first), dataset=_data(first), kind="tuning")
        runs: dict[str | None, int] = {}
        for start in starts:
            budget = None if start is None else start.budget
            runs[budget] = runs.get(budget, 0) + len(study.seeded(start, transfer))
        for budget, count in runs.items():
            kind = "baseline" if first is None else "transfer"
            named = {"label": _label(first), "dataset": _data(first), "budget": budget, "kind": kind, "runs": count}
            yield dataclasses.replace(chosen, **named)


def _one(planned: Planned, costs: Costs) -> Entry:
    return _entry(planned, build(planned.recipe), costs, runs=1)


def _grouped_entries(tried: Sequence[Entry]) -> list[Entry]:
    groups: dict[int, list[Entry]] = {}
    for entry in tried:
        groups.setdefault(entry.total, []).append(entry)
    return [dataclasses.replace(same[0], runs=len(same)) for same in groups.values()]


def _label(start: Planned | None) -> str:
    return SCRATCH if start is None else start.label


def _data(start: Planned | None) -> str:
    return "" if start is None else start.dataset


def _row(entry: Entry, terms: Terms | None) -> dict[str, Any]:
    train = next((cost for cost, calls, role in entry.programs if role != "evaluate" and calls), None)
    row = {
        "kind": entry.kind,
        "label": entry.label,
        "dataset": entry.dataset,
        "budget": entry.budget,
        # Not "transfer": that is what it spends in this role, below.
        "follow_up": entry.transfer,
        "runs": entry.runs,
        "steps": entry.steps,
        "examples": entry.examples,
        "repeats": entry.repeats,
        "flops_per_step": None if train is None else train.total,
        **{role: entry.flops(role) for role in ROLES},
        "trunk": entry.trunk,
        "total": entry.total,
    }
    if terms is not None:
        row["price"] = terms.price([(cost, calls * entry.runs) for cost, calls, _ in entry.programs]).to_json()
    return row
