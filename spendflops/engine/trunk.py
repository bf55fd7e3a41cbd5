"""Trunks: a longer run goes on where the constant rate of a shorter one ended, bit for bit as if it had run alone.

A run with :class:`~spendflops.parts.schedules.WarmupStableDecay` keeps its state from before its cooldown. There a
longer run of the same recipe begins: with the same parameters, statistics, optimiser, EMA copies, keys and batches as a
run of its own would have at that step. So the configuration of a run says nothing of its trunk, and neither does any
score. Its ledger charges all steps, as those of a run of its own, and says in ``cached`` how many another run has paid.

All this holds only where nothing before the cooldown depends on how long the run will be: :func:`check_lengths`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.contracts import errors
from spendflops.contracts.types import Context
from spendflops.engine import accounting
from spendflops.engine.build import Built, BuiltStage
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.describe import describe
from spendflops.engine.load import parent
from spendflops.engine.recipe import InitFrom, Recipe, Stage
from spendflops.engine.rundir import read_json
from spendflops.engine.state import Tree
from spendflops.engine.step import reads_length
from spendflops.parts.schedules import WarmupStableDecay, as_schedule, length_of


def leaves(stage: Stage, steps: int) -> int | None:
    """The step at which a stage of ``steps`` steps leaves its trunk; None where the schedule has none."""
    lr = stage.optimizer.lr
    return lr.trunk(steps) if isinstance(lr, WarmupStableDecay) else None


def check_stages(recipe: Recipe) -> Stage:
    """The stage that has a trunk.

    Raises:
        errors.ConfigError: A recipe that has none.
    """
    first, *rest = recipe.stages
    if first.role != "pretrain" or any(stage.role == "pretrain" for stage in rest):
        raise errors.ConfigError(
            f"stages {', '.join(stage.label for stage in recipe.stages)} have no trunk",
            why="of several pre-training stages, a longer run would have to do the later ones again",
            fix="a trunk is of one pre-training stage, the first",
        )
    if leaves(first, 0) is None:
        raise errors.ConfigError(
            f"stage {first.label!r} has no trunk",
            why="its learning rate depends on the length of the run from the first step on",
            fix="Optimizer.lr = @schedules.wsd(): warm-up, constant rate, cooldown",
        )
    return first


def check_lengths(stage: Stage, built: BuiltStage, lengths: Sequence[int]) -> None:
    """Looks whether runs of these numbers of steps are the same until the shorter one's cooldown.

    Raises:
        errors.ConfigError: Names what depends on the length of the run.
    """
    ordered = sorted(set(lengths))
    most = max((leaves(stage, steps) or 0 for steps in ordered[:-1]), default=0)
    found = []
    for name, rule in _rules(stage, built):
        values = jax.jit(jax.vmap(rule, in_axes=(0, None)))
        curves = {steps: np.asarray(values(jnp.arange(most), jnp.int32(steps))) for steps in ordered} if most else {}
        for short, long in itertools.pairwise(curves):
            common = leaves(stage, short) or 0
            if not np.array_equal(curves[short][:common], curves[long][:common]):
                found.append(name)
                break
    if len(ordered) > 1 and reads_length(built.definition, built.inputs):
        found.append("its loss or its targets, which read how long the run is (ctx.steps, ctx.progress)")
    if found:
        raise errors.ConfigError(
            f"the lengths of stage {stage.label!r} cannot share a trunk",
            why=f"before the cooldown these depend on the length of the run: {'; '.join(found)}",
            fix="hold them constant (equal first and last values), give warm-ups and starts in steps alone, "
            "or train the lengths one by one",
        )


def _rules(stage: Stage, built: BuiltStage) -> Iterator[tuple[str, Callable[[Any, Any], Any]]]:
    """Everything that a step reads of its place in the run, but for the loss: (name, (step, steps) -> value)."""
    optimizer, objective = stage.optimizer, built.definition.example

    def at(schedule: Callable[[Context], Any]) -> Callable[[Any, Any], Any]:
        return lambda step, steps: schedule(Context(key=jax.random.key(0), step=step, steps=steps, train=True))

    yield "the learning rate", at(as_schedule(optimizer.lr))
    yield "the weight decay", at(as_schedule(optimizer.weight_decay))
    if objective.teacher:
        yield "the decay of the teacher's moving average (teacher_decay)", at(objective.teacher_decay)
    for group, _ in optimizer.assign(built.definition.params, objective):
        if group.start_fraction is not None:
            begin = (group.start, group.start_fraction)
            name = f"the start of the parameters {group.match!r} (start_fraction)"
            yield name, at(lambda ctx, begin=begin: ctx.step >= length_of(*begin, ctx.steps))


def find(built: Built, folder: Path, run: str) -> dict[str, Any]:
    """The trunk of a run in ``folder``: where it is, and at which step it is left.

    Args:
        built: The recipe.
        folder: The run directory, which ``run`` may be relative to.
        run: A finished, shorter run of the same recipe.

    Raises:
        errors.ConfigError: Another recipe, a longer run, or lengths that cannot share a trunk.
        errors.DataError: Not a finished run.
    """
    stage, steps = check_stages(built.recipe), built.steps[0]
    source = parent(folder, InitFrom(run=run))
    body = read_json(source / "config.json") or {}
    given, wanted = body["config"], describe(built.recipe)
    if (given["stages"][0], given["seed"]) != (wanted["stages"][0], wanted["seed"]):
        raise errors.ConfigError(
            f"{run} is no trunk of this run",
            why="its first stage or its seed is another",
            fix="a run of the same recipe that differs in its budget alone",
        )
    theirs = body["resolved"]["steps"][stage.label]
    step, own = leaves(stage, theirs) or 0, leaves(stage, steps) or 0
    if step > own:
        raise errors.ConfigError(
            f"{run} is no trunk of this run", why=f"it is left after {step} steps, this run cools down after {own}"
        )
    check_lengths(stage, built.stages[0], (theirs, steps))
    return {"run": run, "step": step}


def begin(built: Built, folder: Path, trunk: dict[str, Any], ledger: Ledger) -> tuple[int, Tree]:
    """(step, state) at which a run leaves its trunk; the ledger gets the steps that another run has paid."""
    stage, program, step = built.recipe.stages[0], built.stages[0].train, trunk["step"]
    source = parent(folder, InitFrom(run=trunk["run"]))
    checkpoints = Checkpoints(source / "checkpoints" / stage.label)
    try:
        state = checkpoints.restore_at(step, program.args[0])
    finally:
        checkpoints.close()
    if not ledger.steps(program.name):
        paid = [e for e in Ledger(source / "ledger.jsonl").entries if e.program == program.name and e.last <= step]
        taken = sum(e.seconds or 0.0 for e in paid if e.kind == "productive")
        told = {"cached": step, "seconds": taken, "note": f"trained by {Path(trunk['run']).name}"}
        ledger.append(Entry(**{**accounting.entry(stage.role, program, 0, step), **told}))
    return step, state
