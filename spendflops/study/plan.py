"""Plans: the programs of a recipe with their prices, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax

from spendflops.accounts import budget as budgets
from spendflops.accounts.flops import Cost
from spendflops.accounts.utilisation import at_peak
from spendflops.contracts import errors
from spendflops.engine.build import Built, length
from spendflops.engine.program import Program
from spendflops.engine.recipe import Stage
from spendflops.engine.target import Target
from spendflops.parts.schedules import WarmupCosine, WarmupPoly, WarmupStableDecay
from spendflops.study.terms import Terms


class Costs:
    """Costs of programs, each counted once for all of its family."""

    def __init__(self) -> None:
        self._known: dict[Any, Cost] = {}

    def of(self, program: Program) -> Cost:
        """Counter B."""
        if program.family is None:
            return program.cost()
        if program.family not in self._known:
            self._known[program.family] = program.cost()
        return self._known[program.family]


def plan(
    built: Built, *, compiled: bool = False, target: Target | None = None, terms: Terms | None = None
) -> dict[str, Any]:
    """What a recipe costs.

    Args:
        built: The recipe.
        compiled: Also compiles: FLOPs of the compiled program (counter C), memory, the compiler's own figure (D).
        target: TPUs to compile for; None compiles for this machine.
        terms: How FLOPs become hours, kWh and kg; None leaves them out.

    Returns:
        JSON: a row a program, totals by role, how often each data set is seen, the parameters of each stage.
    """
    programs = built.programs()
    rows = [_row(program, calls, role) for program, calls, role in programs]
    if compiled or target is not None:
        # All are moved before the first is compiled: what does not fit together is said at once.
        moved = [program if target is None else target.program(program) for program, *_ in programs]
        for row, program in zip(rows, moved, strict=True):
            row |= _compiled(program, row["flops_per_call"])
    first = rows[0]
    priced: dict[str, Any] = {} if target is None else {"target": target.to_json()}
    if terms is not None:
        costs = [(program.cost(), calls) for program, calls, _ in programs]
        priced |= {"machine": str(terms.machine), "hours_from": terms.told, "price": terms.price(costs).to_json()}
        for row, cost in zip(rows, costs, strict=True):
            row["hours"] = terms.price([cost]).hours
    return {
        **priced,
        "flops_per_example": first["flops_per_example"],
        "flops_per_step": first["flops_per_call"],
        "steps": first["calls"],
        "counter": first["counter"],
        "phases": first["phases"],
        "programs": rows,
        "totals": {
            role: sum(r["flops"] for r in rows if r["role"] == role) for role in ("pretrain", "transfer", "evaluate")
        },
        "data": [
            row
            for stage, steps in zip(built.recipe.stages, built.steps, strict=True)
            if steps
            for row in repeats(stage, steps * stage.batch_size)
        ],
        "parameters": {
            stage.label: sum(math.prod(x.shape) for x in jax.tree.leaves(b.definition.params))
            for stage, b in zip(built.recipe.stages, built.stages, strict=True)
        },
    }


def repeats(stage: Stage, seen: int) -> list[dict[str, Any]]:
    """How often a stage that sees ``seen`` examples repeats its data: a row a data set, several for a mixture."""
    size = length(stage.dataset, stage.split)
    parts = stage.dataset.composition(stage.split) or {stage.dataset.info.name: (size, 1.0)}
    return [
        {
            "stage": stage.label,
            "data": f"{name}:{stage.split}",
            "examples": count,
            "seen": round(seen * share),
            "repeats": seen * share / count,
        }
        for name, (count, share) in parts.items()
    ]


def _row(program: Program, calls: int, role: str) -> dict[str, Any]:
    cost = program.cost()
    return {
        "program": program.name,
        "role": role,
        "calls": calls,
        "examples_per_call": program.examples,
        "flops_per_call": cost.total,
        "flops_per_example": cost.total // program.examples
        if cost.total % program.examples == 0
        else cost.total / program.examples,
        "flops": cost.total * calls,
        "phases": dict(cost.phases),
        "dtypes": dict(cost.dtypes),
        "counter": cost.counter,
        "closed_form_per_call": program.closed_form,
        "recomputed_flops_per_call": program.with_recomputation.rematted,
    }


def _compiled(program: Program, model: int) -> dict[str, Any]:
    hardware, memory = program.cost(hardware=True), program.memory()
    return {
        "hardware_flops_per_call": hardware.total,
        "rematted_flops_per_call": hardware.rematted,
        "unknown": list(hardware.unknown),
        "hardware_over_model": hardware.total / model if hardware.total is not None and model else None,
        "hardware_counter": hardware.counter,
        "raw_compiler_flops": program.raw_flops(),
        "memory_bytes_per_device": None if memory is None else memory.peak,
    }


def check_counters(rows: list[dict[str, Any]], tolerance: float = 0.01) -> None:
    """Raises a ConfigError where the compiled program and the traced one differ by more than ``tolerance``.

    What the compiled program computes again to save memory is taken out first.
    """
    for row in rows:
        hardware, model = row.get("hardware_flops_per_call"), row["flops_per_call"]
        ratio = (hardware - row["rematted_flops_per_call"]) / model if hardware is not None and model else None
        if row.get("unknown") or (ratio is not None and abs(ratio - 1) > tolerance):
            raise errors.ConfigError(
                f"{row['program']}: the compiled program has {ratio} times the FLOPs of the traced one",
                why=f"unknown calls: {', '.join(row['unknown']) or 'none'}",
                fix="look at the op table; padding by the compiler explains a ratio above 1",
            )


def cautions(built: Built, label: str, costs: Costs | None = None) -> list[str]:
    """What should be known before a run starts: a budget below one epoch or below one warm-up, repeats of the data."""
    costs = costs or Costs()
    lines = [] if built.recipe.conversion is None else [*_converted(built, built.recipe.conversion, costs)]
    for stage, b, steps in zip(built.recipe.stages, built.stages, built.steps, strict=True):
        if steps == 0:
            continue
        examples = length(stage.dataset, stage.split)
        epochs = steps * stage.batch_size / examples
        where = f"{label} at {built.recipe.budget}" if built.recipe.budget is not None else label
        if epochs < 1:
            lines.append(
                f"{where}: the budget is below one epoch ({steps} steps x {stage.batch_size} = "
                f"{steps * stage.batch_size} of {examples} images, {epochs:.0%})"
            )
        warmup = _warmup(stage.optimizer.lr, steps)
        if warmup is not None and steps <= warmup:
            lines.append(f"{where}: the budget is below one warm-up ({steps} steps, warm-up of {warmup:.0f})")
        if epochs > 100 and costs.of(b.train).total:
            lines.append(f"{where}: the budget repeats the data {epochs:.1f} times")
    return lines


def _converted(built: Built, conversion: budgets.Conversion, costs: Costs) -> Iterator[str]:
    """What a budget of hours, kWh or kg became, and the stages whose products are of another dtype than its peak's."""
    yield str(conversion)
    used = conversion.factors["utilisation"]
    for stage, b in zip(built.recipe.stages, built.stages, strict=True):
        cost = costs.of(b.train)
        seconds, reason = at_peak(cost.dtypes, conversion.machine, used)
        if stage.role != "pretrain" or not cost.total:
            continue
        meant = cost.total / (conversion.factors["peak"].value * used.value)
        if seconds is None:
            yield f"{conversion.text} of {stage.label}: {reason}"
        elif seconds > 1.05 * meant:
            part = cost.dtypes.get(conversion.dtype, 0) / cost.total
            yield (
                f"{conversion.text} of {stage.label}: {part:.0%} of its FLOPs are {conversion.dtype}, whose peak was "
                f"used; at the peaks of all its dtypes it takes {seconds / meant:.2f} times as long"
            )


def _warmup(lr: Any, steps: int) -> float | None:
    if isinstance(lr, WarmupCosine):
        return float(lr.warmup(steps))
    return float(lr.warmup_steps) if isinstance(lr, WarmupPoly | WarmupStableDecay) else None
