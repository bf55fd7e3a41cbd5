"""The loop: one function a stage, no callbacks. What a run does, from top to bottom."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.accounts.regions import WORLD
from spendflops.contracts import errors
from spendflops.engine import (
    accounting,
    data,
    evaluate,
    fitting,
    hosts,
    metering,
    preflight,
    probes,
    sharding,
    skips,
    trunk,
)
from spendflops.engine.build import Built, build, length, open_source
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.describe import describe
from spendflops.engine.feature_cache import FeatureCache
from spendflops.engine.load import load, parent, prior_flops, prior_seconds
from spendflops.engine.metrics import MetricsLog
from spendflops.engine.program import translate
from spendflops.engine.recipe import Recipe, Stage
from spendflops.engine.rundir import STORAGE, Progress, RunDir, locked, storage_error, write_atomically
from spendflops.engine.saving import Saving
from spendflops.engine.state import Tree, inherit, transferred, unflatten
from spendflops.engine.stopping import StopRequest
from spendflops.weights.folder import open_folder

MODEL = ("params", "stats", "ema")
"""The parts of a state that outlive their stage."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """What the parts of a running recipe share."""

    built: Built
    directory: RunDir
    ledger: Ledger
    log: MetricsLog
    stop: StopRequest
    features: FeatureCache | None = None
    watch: Callable[..., None] | None = None
    states: dict[str, Tree] = dataclasses.field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """What is run."""
        return self.built.recipe

    def model(self, stage: str, weights: str | None = None) -> tuple[Tree, Tree]:
        """Parameters and statistics of a stage that was trained."""
        place = [s.label for s in self.recipe.stages].index(stage)
        return transferred(self.built.stages[place].definition, self.states[stage], weights)


def run_recipe(
    recipe: Recipe, workdir: str | os.PathLike[str], *, texts: Mapping[str, str] | None = None, quiet: bool = False,
    features: FeatureCache | None = None, checked: bool = False, region: str = WORLD, shorter: str | None = None,
    watch: Callable[..., None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs a recipe in a directory, or goes on with it, and returns its result.

    Args:
        recipe: What to run.
        workdir: The run directory. A finished run is not run again.
        texts: Files to keep beside the configuration, ``{"config.gin": ...}``.
        quiet: Shows no progress.
        features: Where evaluations look for what earlier runs of any recipe computed, and keep what they compute; it
            changes no score.
        checked: Whether somebody has looked at the data already; else they are, before anything is spent.
        region: Where the machine stands, for the CO2e of a new run.
        shorter: A finished run of the same recipe with a smaller budget, relative to ``workdir`` or to the working
            directory: a new run goes on from the end of its trunk (:mod:`spendflops.engine.trunk`).
        watch: Called with ``(stage, step, state=, batch=, call=)`` before every step, which takes the state's memory.

    Raises:
        errors.SpendflopsError: See ``contracts.errors``; ``status.json`` holds the exit code.
    """
    config = describe(recipe)
    with hosts.folder(workdir) as folder:
        directory = RunDir.open(folder, config, home=workdir)
        finished = directory.result()
        if finished is not None:
            return finished
        with locked(directory.path), StopRequest().listening() as stop:
            try:
                # Again, now that nobody else can be making it.
                directory = RunDir.open(folder, config, region=region, home=workdir)
                return _run(recipe, directory, stop, texts or {}, quiet, features, checked, shorter, watch)
            except Exception as error:
                shown = hosts.lost(error) or translate(error)
                if isinstance(error, OSError) and error.errno in STORAGE:
                    shown = storage_error(error.filename or directory.path, error)
                if isinstance(shown, errors.OutOfMemoryError):
                    shown = fitting.explained(recipe, shown)
                code = getattr(shown, "exit_code", 1)
                state = "stopped" if code in (75, 130) else "failed"
                with contextlib.suppress(errors.DataError):
                    where = directory.where() if state == "stopped" else getattr(shown, "where", {})
                    directory.status(state=state, exit_code=code, error=str(shown), **where)
                if shown is error:
                    raise
                raise shown from error


def _run(
    recipe: Recipe, directory: RunDir, stop: StopRequest, texts: Mapping[str, str], quiet: bool,
    features: FeatureCache | None, checked: bool, shorter: str | None,
    watch: Callable[..., None] | None,
) -> dict[str, Any]:  # fmt: skip
    stored = directory.resolved
    built = build(recipe, steps=stored["steps"] if stored else None)
    if stored is None:
        preflight.check_starts(built, directory.home)
        if hosts.first() and not checked:
            preflight.check_data(built)
    found = None if stored or shorter is None else trunk.find(built, directory.home, shorter)
    names = [s.label for s in recipe.stages]
    directory.settle(
        {
            "stages": names,
            "steps": dict(zip(names, built.steps, strict=True)),
            "flops_per_step": {n: b.train.cost().total for n, b in zip(names, built.stages, strict=True)},
            "info": {s.label: dataclasses.asdict(s.dataset.info) for s in recipe.stages},
            "budget": None if recipe.conversion is None else recipe.conversion.to_json(),
            "trunk": found,
        },
        texts,
    )
    directory.status(state="running", pid=os.getpid(), **directory.where())
    log = MetricsLog(directory.path, quiet=quiet or not hosts.first())
    ledger = Ledger(directory.path / "ledger.jsonl")
    run = Run(built=built, directory=directory, ledger=ledger, log=log, stop=stop, features=features, watch=watch)
    with contextlib.closing(log):
        with metering.metered(directory.path):
            for index in range(len(recipe.stages)):
                run_stage(run, index)
            scores = run_evaluations(run)
        result = summary(run, scores)
        log.events.outcome(directory.config, result, trial=directory.path.name)
    write_atomically(directory.path / "result.json", json.dumps(result, indent=1, sort_keys=True))
    directory.status(state="finished", exit_code=0)
    return result


def run_stage(run: Run, index: int) -> None:
    """Trains one stage to its last step, from its last checkpoint if there is one."""
    stage, built, steps = run.recipe.stages[index], run.built.stages[index], run.built.steps[index]
    leaves, every = trunk.leaves(stage, steps), run.recipe.checkpoint_every
    checkpoints = Checkpoints(run.directory.home / "checkpoints" / stage.label, always=leaves)
    progress = Progress(run.directory.path / "checkpoints" / f"{stage.label}.progress")
    with contextlib.closing(checkpoints), contextlib.closing(progress):
        restored = checkpoints.restore(built.train.args[0])
        first, state = restored if restored is not None else _begin(run, index)
        checkpoints.discard_after(first)
        written = accounting.permanent(first, every=every, leaves=leaves)
        attempt, seconds = accounting.settle(
            run.ledger, stage.role, built.train, progress, first=first, written=written
        )
        run.log.rewind(stage.label, first)
        if first < steps:
            how = {"role": stage.role, "program": built.train, "attempt": attempt, "seconds": seconds}
            with contextlib.closing(Saving(checkpoints, run.ledger, progress, **how)) as saving:
                state = _train(run, index, state, first, saving)
        elif steps == 0:
            checkpoints.save(0, state)
        accounting.record(run.ledger, stage.role, built.train, last=steps, seconds=seconds)
    run.states[stage.label] = {kind: state[kind] for kind in MODEL}


def _begin(run: Run, index: int) -> tuple[int, Tree]:
    """(step, state) at which a new run begins: the end of its trunk, or a new model."""
    found = (run.directory.resolved or {}).get("trunk")
    if found is None or index:
        return 0, _initial(run, index)
    run.log.say(f"{run.recipe.stages[index].label} goes on from step {found['step']} of {found['run']}")
    return trunk.begin(run.built, run.directory.home, found, run.ledger)


def _initial(run: Run, index: int) -> Tree:
    stage, built = run.recipe.stages[index], run.built.stages[index]
    key = jax.random.fold_in(jax.random.key(run.recipe.seed), index)
    state = built.init.compile()(sharding.place(key, built.init.args[0]))
    for number, init in enumerate(stage.init):
        if init.weights:
            source = unflatten(open_folder(init.weights).read()), {}
        else:
            source = run.model(init.stage) if init.stage else load(parent(run.directory.home, init)).values
        state, lines = inherit(built.definition, state, source, select=init.select, allow=init.allow)
        # Copies: the source lives on in `states` while this state's memory is donated to the step.
        model = {kind: state[kind] for kind in MODEL}
        state = {**state, **sharding.copied(model, {kind: built.train.args[0][kind] for kind in MODEL})}
        counts = collections.Counter(line.partition("  ")[0] for line in lines)
        what = f"{stage.label} from {init.source}: {', '.join(f'{n} {k}' for k, n in counts.items())}"
        if init.weights:
            what += f"; FLOPs that went into it: {prior_flops(run.directory.home, init) or 'unknown'}"
        told = [line for line in lines if line.startswith(("left new", "resampled"))]
        run.log.table(f"init-{stage.label}-{number}.txt", lines, show=[what, *told])
    table = stage.optimizer.table(built.definition.params, built.definition.example)
    who = f"{stage.label} {stage.optimizer.name}"
    rows = [f"{who}: {match}  {tensors} tensors  {size} parameters  {how}" for match, tensors, size, how in table]
    run.log.table(f"optimizer-{stage.label}.txt", rows, show=rows)
    return state


def _train(run: Run, index: int, state: Tree, first: int, saving: Saving) -> Tree:
    stage, built, steps = run.recipe.stages[index], run.built.stages[index], run.built.steps[index]
    source = open_source(stage.dataset, stage.split, built.views.features)
    skips.tell_left_out(run.log, stage.label, source)
    skipped = skips.known(run.directory.path, stage, source) if stage.skip_broken else None
    batches = data.Batches(
        source,
        built.views,
        spec=built.spec,
        batch_size=stage.batch_size,
        seed=data.stage_seed(run.recipe.seed, index),
        skipped=skipped,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    data.check_batch(batches[first], sharding.own_rows(built.inputs), stage.label)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.recipe.seed), index), 1)
    call = sharding.place({"key": key, "steps": np.int32(steps)}, built.train.args[2])
    step_fn = built.train.compile()
    flops = built.train.cost().total
    shown = run.log.stage(stage.label, steps=steps, flops_per_step=flops, examples_per_step=stage.batch_size)
    folder = run.directory.path
    take = probes.Probes(run.built, index, folder=folder, ledger=run.ledger, log=run.log, shown=shown)
    leaves, every = trunk.leaves(stage, steps), run.recipe.checkpoint_every
    earlier = zip(run.built.stages[:index], run.built.steps[:index], strict=True)
    spent_before = sum(b.train.cost().total * n for b, n in earlier)
    metrics = None
    with batches.read(first, steps) as reader:
        for step in range(first, steps):
            waited = time.perf_counter()
            batch = sharding.place_rows(next(reader), built.train.args[1])
            shown.waited += time.perf_counter() - waited
            if skipped is not None and skipped.new:
                skips.tell(run.directory.path, run.log, stage.label, skipped)
            if run.watch is not None:
                run.watch(stage.label, step, state=state, batch=batch, call=call)
            state, new = step_fn(state, batch, call)
            saving.reached(step + 1)
            # Looks one step back, so that the device never waits for the host.
            if metrics is not None:
                _check_finite(metrics, stage, step - 1)
            metrics, done = new, step + 1
            last = done == steps
            stopping = run.stop.after(stage.label, done)
            logged = last or done % run.recipe.log_every == 0
            permanent = last or done == accounting.permanent(done, every=every, leaves=leaves)
            if skipped is not None and (logged or permanent or stopping):
                # At steps that all hosts come to, and before what they have read becomes permanent.
                skipped.agree(hosts.union)
                skips.tell(run.directory.path, run.log, stage.label, skipped)
            if logged:
                _check_finite(metrics, stage, step)
                shown.row(
                    done, {n: float(v) for n, v in metrics.items() if n != "health"}, flops=spent_before + done * flops
                )
            if logged or stopping:
                run.directory.status(state="running", pid=os.getpid(), stage=stage.label, step=done, steps=steps)
            if permanent or stopping:
                _check_finite(metrics, stage, step)
                saving.save(done, state, row=permanent)
            try:
                # Their time is not the stage's.
                saving.excuse(take(done, state, flops=spent_before + done * flops))
            except errors.DivergedError:
                saving.count(done)
                raise
            if stopping and not last:
                raise run.stop.error(f"{stage.label} step {done} of {steps}")
    return state


def _check_finite(metrics: Mapping[str, Any], stage: Stage, step: int) -> None:
    if math.isfinite(float(metrics["health"])):
        return
    bad = [name for name, value in metrics.items() if name != "health" and not math.isfinite(float(value))]
    error = errors.DivergedError(
        f"stage {stage.label!r} diverged at step {step}: {', '.join(bad)} is not finite",
        why=f"learning rate {float(metrics['lr']):.3g}, gradient norm {float(metrics['grad_norm']):.3g}",
        fix="a lower learning rate or a longer warm-up; `spendflops replay` writes what went into that step to a file",
    )
    error.where = {"stage": stage.label, "step": step}
    raise error


def run_evaluations(run: Run) -> list[dict[str, Any]]:
    """Scores of all evaluations, in their order."""
    collected: dict[str, evaluate.Collected] = {}
    for prediction in run.built.predictions:
        started, model = time.perf_counter(), run.model(prediction.stage, prediction.weights)
        program, calls = prediction.program, prediction.calls
        shelf = run.features and run.features.shelf(program, *model, calls=calls)
        broken = evaluate.collect(prediction, *model, collected, shelf)
        if broken:
            run.log.say(f"{program.name}: left out {len(broken)} broken: {next(iter(broken.values()))}")
            skips.keep(run.directory.path, program.name, broken)
        found = shelf.found if shelf else 0
        for line in shelf.told(calls) if shelf else ():
            run.log.say(f"{program.name}: {line}")
        entry = accounting.entry("evaluate", program, 0, calls) | {"cached": found}
        if run.ledger.steps(program.name):
            entry |= {"kind": "wasted", "calls": calls - found, "note": "scored again after an interruption"}
        run.ledger.append(Entry(**entry, seconds=time.perf_counter() - started))
        if run.stop.anywhere():
            raise run.stop.error(f"evaluation {program.name}")
    if run.features:
        run.features.trim()
    folder = run.directory.path
    return [evaluate.score(run.built, e, collected[e.label], folder=folder) for e in run.recipe.evaluations]


def summary(run: Run, scores: list[dict[str, Any]]) -> dict[str, Any]:
    """``result.json``: the scores and what they cost."""
    ledger = run.ledger
    stages = []
    for stage, built, steps in zip(run.recipe.stages, run.built.stages, run.built.steps, strict=True):
        available = length(stage.dataset, stage.split)
        stages.append(
            {
                "name": stage.label,
                "role": stage.role,
                "steps": steps,
                "examples": steps * stage.batch_size,
                "available": available,
                "epochs": steps * stage.batch_size / available,
                "skipped": len(skips.read(run.directory.path, stage.label)),
                "flops_per_step": built.train.cost().total,
                "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(built.definition.params)),
            }
        )
    starts = {init.source: init for stage in run.recipe.stages for init in stage.init if not init.stage}
    before = [prior_flops(run.directory.home, init) for init in starts.values()]
    prior = None if None in before else sum(before)
    roles = ("pretrain", "transfer", "evaluate")
    return {
        "seed": run.recipe.seed,
        "budget": None if run.recipe.budget is None else str(run.recipe.budget),
        "stages": stages,
        "scores": scores,
        "probes": probes.read(run.directory.path),
        "flops": {
            "prior": prior,
            **{role: ledger.total(role=role) for role in roles},
            "wasted": ledger.total(kind="wasted"),
            "cached": ledger.cached(role="evaluate"),
            "trunk": ledger.cached(role="pretrain"),
        },
        "phases": {role: ledger.phases(role=role) for role in roles},
        "hardware_flops": {role: ledger.hardware_total(role=role) for role in roles},
        "seconds": {
            "prior": sum(prior_seconds(run.directory.home, init) for init in starts.values()),
            **{role: ledger.seconds(role=role) for role in roles},
            "trunk": ledger.trunk_seconds(),
        },
        "energy": metering.measured(run.directory.path),
        "devices": [d.device_kind for d in jax.devices()],
    }
