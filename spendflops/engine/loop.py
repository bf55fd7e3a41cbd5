"""The loop: one function a stage, no callbacks. What a run does, from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.accounts.ledger import Entry, Ledger
from spendflops.contracts import errors
from spendflops.engine import data, evaluate, sharding
from spendflops.engine.build import Built, BuiltStage, build, length, open_source
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.describe import describe
from spendflops.engine.metrics import MetricsLog
from spendflops.engine.program import Program, translate
from spendflops.engine.recipe import InitFrom, Recipe, Stage
from spendflops.engine.rundir import Progress, RunDir, read_json, write_atomically
from spendflops.engine.state import Tree, transferred, transplant


class StopRequest:
    """SIGTERM and SIGINT ask the loop to save and leave; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Installs the handlers for the time of a run (in the main thread: others cannot)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def note(number: int, frame: Any) -> None:
            if self.signal == signal.SIGINT == number:
                raise KeyboardInterrupt
            self.signal = number

        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def error(self, where: str) -> errors.SpendflopsError:
        """The error to leave with."""
        kind = errors.Preempted if self.signal == signal.SIGTERM else errors.Interrupted
        return kind(f"stopped at {where}, everything is saved", fix="the same command goes on from here")


@dataclasses.dataclass(kw_only=True)
class Run:
    """What the parts of a running recipe share."""

    built: Built
    directory: RunDir
    ledger: Ledger
    log: MetricsLog
    stop: StopRequest
    models: dict[str, tuple[Tree, Tree]] = dataclasses.field(default_factory=dict)
    prior: list[int | None] = dataclasses.field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """What is run."""
        return self.built.recipe


def run_recipe(
    recipe: Recipe, workdir: str | os.PathLike[str], *, texts: Mapping[str, str] | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs a recipe in a directory, or goes on with it, and returns its result.

    Args:
        recipe: What to run.
        workdir: The run directory. A finished run is not run again.
        texts: Files to keep beside the configuration, ``{"config.gin": ...}``.
        quiet: Shows no progress.

    Raises:
        errors.SpendflopsError: See ``contracts.errors``; ``status.json`` holds the exit code.
    """
    directory = RunDir.open(workdir, describe(recipe))
    finished = directory.result()
    if finished is not None:
        return finished
    with directory.locked(), StopRequest().listening() as stop:
        try:
            return _run(recipe, directory, stop, texts or {}, quiet)
        except Exception as error:
            shown = translate(error)
            code = getattr(shown, "exit_code", 1)
            with contextlib.suppress(errors.DataError):
                directory.status(state="stopped" if code in (75, 130) else "failed", exit_code=code, error=str(shown))
            if shown is error:
                raise
            raise shown from error


def _run(recipe: Recipe, directory: RunDir, stop: StopRequest, texts: Mapping[str, str], quiet: bool) -> dict[str, Any]:
    stored = directory.resolved
    built = build(recipe, steps=stored["steps"] if stored else None)
    names = [s.label for s in recipe.stages]
    directory.settle(
        {
            "steps": dict(zip(names, built.steps, strict=True)),
            "flops_per_step": {n: b.train.cost().total for n, b in zip(names, built.stages, strict=True)},
            "info": {s.label: dataclasses.asdict(s.dataset.info) for s in recipe.stages},
        },
        texts,
    )
    directory.status(state="running", pid=os.getpid())
    log = MetricsLog(directory.path, quiet=quiet)
    run = Run(built=built, directory=directory, ledger=Ledger(directory.path / "ledger.jsonl"), log=log, stop=stop)
    with contextlib.closing(log):
        for index in range(len(recipe.stages)):
            run_stage(run, index)
        scores = run_evaluations(run)
    result = summary(run, scores)
    write_atomically(directory.path / "result.json", json.dumps(result, indent=1, sort_keys=True))
    directory.status(state="finished", exit_code=0)
    return result


def run_stage(run: Run, index: int) -> None:
    """Trains one stage to its last step, from its last checkpoint if there is one."""
    stage, built, steps = run.recipe.stages[index], run.built.stages[index], run.built.steps[index]
    checkpoints = Checkpoints(run.directory.path / "checkpoints" / stage.label)
    progress = Progress(run.directory.path / "checkpoints" / f"{stage.label}.progress")
    with contextlib.closing(checkpoints), contextlib.closing(progress):
        restored = checkpoints.restore(built.train.args[0])
        first, state = restored if restored is not None else (0, _initial(run, index))
        checkpoints.discard_after(first)
        attempt = _settle_accounts(run, stage, built, progress, first)
        if first < steps:
            state = _train(run, index, state, first, checkpoints, progress, attempt)
        elif steps == 0:
            checkpoints.save(0, state)
        if run.ledger.steps(built.train.name) < steps:
            _record(run, stage, built.train, last=steps, seconds=None)
    run.models[stage.label] = transferred(built.definition, state)
    run.models[f"{stage.label}:online"] = (state["params"], state["stats"])
    if built.definition.example.teacher:
        run.models[f"{stage.label}:teacher"] = transferred(built.definition, state, "teacher")


def _initial(run: Run, index: int) -> Tree:
    stage, built = run.recipe.stages[index], run.built.stages[index]
    key = jax.random.fold_in(jax.random.key(run.recipe.seed), index)
    state = built.init.compile()(sharding.place(key, batch=False))
    for init in stage.init:
        source = run.models[init.stage][0] if init.stage else _from_run(run, init)
        params, lines = transplant(state["params"], source, select=init.select, allow=init.allow)
        # The source may live on in `models` while this state's memory is donated to the step.
        state = {**state, "params": jax.tree.map(lambda x: sharding.place(np.asarray(x), batch=False), params)}
        run.log.lines(f"init-{stage.label}.txt", lines)
    for match, tensors, size, treatment in stage.optimizer.table(built.definition.params, built.definition.example):
        run.log.lines(f"optimizer-{stage.label}.txt", [f"{match}  {tensors} tensors  {size} parameters  {treatment}"])
    return state


def _from_run(run: Run, init: InitFrom) -> Tree:
    from spendflops.engine.load import final_params

    result = read_json(Path(init.run or "") / "result.json")
    if result is None:
        raise errors.DataError(f"{init.run} is not a finished run", fix="give the directory of a run with result.json")
    flops = result["flops"]
    run.prior.append(None if flops["prior"] is None else flops["prior"] + flops["pretrain"] + flops["transfer"])
    return final_params(init.run or "")


def _settle_accounts(run: Run, stage: Stage, built: BuiltStage, progress: Progress, first: int) -> int:
    """Writes what a killed attempt lost, and the rows that its checkpoint had made permanent. Gives the attempt."""
    attempt, reached = progress.read()
    lost = Entry(**{**_entry(stage, built.train, first, reached), "kind": "wasted", "note": f"attempt {attempt}"})
    if reached > first and lost not in run.ledger.entries:
        run.ledger.append(lost)
    every = run.recipe.checkpoint_every
    permanent = first - first % every
    if permanent > run.ledger.steps(built.train.name):
        _record(run, stage, built.train, last=permanent, seconds=None)
    run.log.rewind(stage.label, first)
    progress.write(attempt + 1, first)
    return attempt + 1


def _entry(stage: Stage, program: Program, first: int, last: int) -> dict[str, Any]:
    cost, hardware = program.cost(), program.cost(hardware=True)
    return {
        "program": program.name,
        "role": stage.role,
        "calls": last - first,
        "first": first,
        "last": last,
        "flops": cost.total,
        "phases": dict(cost.phases),
        "hardware_flops": hardware.total,
        "counter": f"{cost.counter} {hardware.counter}",
        "target": jax.default_backend(),
        "note": "" if hardware.total is not None else f"not counted: {', '.join(hardware.unknown)}",
    }


def _record(run: Run, stage: Stage, program: Program, *, last: int, seconds: float | None) -> None:
    first = run.ledger.steps(program.name)
    run.ledger.append(Entry(**_entry(stage, program, first, last), seconds=seconds))


def _train(
    run: Run, index: int, state: Tree, first: int, checkpoints: Checkpoints, progress: Progress, attempt: int
) -> Tree:
    stage, built, steps = run.recipe.stages[index], run.built.stages[index], run.built.steps[index]
    source = open_source(stage.dataset, stage.split, built.views.features)
    batches = data.Batches(
        source, built.views, spec=built.spec, batch_size=stage.batch_size, seed=data.stage_seed(run.recipe.seed, index)
    )
    data.check_batch(batches[first], built.inputs, stage.label)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.recipe.seed), index), 1)
    call = sharding.place({"key": key, "steps": np.int32(steps)}, batch=False)
    step_fn = built.train.compile()
    flops = built.train.cost().total
    shown = run.log.stage(stage.label, steps=steps, flops_per_step=flops, examples_per_step=stage.batch_size)
    spent_before = run.ledger.total() - flops * run.ledger.steps(built.train.name)
    started, metrics = time.perf_counter(), None
    with batches.read(first, steps) as reader:
        for step in range(first, steps):
            waited = time.perf_counter()
            batch = sharding.place(next(reader), batch=True)
            shown.waited += time.perf_counter() - waited
            state, new = step_fn(state, batch, call)
            progress.write(attempt, step + 1)
            # Looks one step back, so that the device never waits for the host.
            if metrics is not None:
                _check_finite(metrics, stage, step - 1)
            metrics, done = new, step + 1
            last = done == steps
            if last or done % run.recipe.log_every == 0:
                _check_finite(metrics, stage, step)
                shown.row(done, {n: float(v) for n, v in metrics.items()}, flops=spent_before + done * flops)
                run.directory.status(state="running", pid=os.getpid(), stage=stage.label, step=done, steps=steps)
            if last or done % run.recipe.checkpoint_every == 0:
                _check_finite(metrics, stage, step)
                checkpoints.save(done, state)
                seconds, started = time.perf_counter() - started, time.perf_counter()
                _record(run, stage, built.train, last=done, seconds=seconds)
            elif run.stop.signal is not None:
                _check_finite(metrics, stage, step)
                checkpoints.save(done, state)
            if run.stop.signal is not None and not last:
                raise run.stop.error(f"{stage.label} step {done} of {steps}")
    return state


def _check_finite(metrics: Mapping[str, Any], stage: Stage, step: int) -> None:
    if math.isfinite(float(metrics["loss"])) and math.isfinite(float(metrics["grad_norm"])):
        return
    bad = [name for name, value in metrics.items() if not math.isfinite(float(value))]
    raise errors.DivergedError(
        f"stage {stage.label!r} diverged at step {step}: {', '.join(bad)} is not finite",
        why=f"learning rate {float(metrics['lr']):.3g}, gradient norm {float(metrics['grad_norm']):.3g}",
        fix="a lower learning rate or a longer warm-up; the same command replays it from the last checkpoint",
    )


def run_evaluations(run: Run) -> list[dict[str, Any]]:
    """Scores of all evaluations, in their order."""
    collected: dict[str, evaluate.Collected] = {}
    for prediction in run.built.predictions:
        weights = f"{prediction.stage}:{prediction.weights}" if prediction.weights else prediction.stage
        if weights not in run.models:
            raise errors.ConfigError(f"stage {prediction.stage!r} has no {prediction.weights} weights")
        started = time.perf_counter()
        evaluate.collect(prediction, *run.models[weights], collected)
        done = run.ledger.steps(prediction.program.name)
        if done < prediction.calls:
            stage = next(s for s in run.recipe.stages if s.label == prediction.stage)
            entry = _entry(stage, prediction.program, done, prediction.calls)
            run.ledger.append(Entry(**{**entry, "role": "evaluate"}, seconds=time.perf_counter() - started))
        if run.stop.signal is not None:
            raise run.stop.error(f"evaluation {prediction.program.name}")
    return [evaluate.score(run.built, e, collected[e.label]) for e in run.recipe.evaluations]


def summary(run: Run, scores: list[dict[str, Any]]) -> dict[str, Any]:
    """``result.json``: the scores and what they cost."""
    ledger = run.ledger
    stages = []
    for stage, built, steps in zip(run.recipe.stages, run.built.stages, run.built.steps, strict=True):
        examples = length(stage.dataset, stage.split)
        stages.append(
            {
                "name": stage.label,
                "role": stage.role,
                "steps": steps,
                "examples": steps * stage.batch_size,
                "epochs": steps * stage.batch_size / examples,
                "flops_per_step": built.train.cost().total,
                "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(built.definition.params)),
            }
        )
    prior = None if None in run.prior else sum(p for p in run.prior if p is not None)
    roles = ("pretrain", "transfer", "evaluate")
    return {
        "seed": run.recipe.seed,
        "budget": None if run.recipe.budget is None else str(run.recipe.budget),
        "stages": stages,
        "scores": scores,
        "flops": {
            "prior": prior,
            **{role: ledger.total(role=role) for role in roles},
            "wasted": ledger.total(kind="wasted"),
        },
        "phases": {role: ledger.phases(role=role) for role in roles},
        "hardware_flops": {role: ledger.hardware_total(role=role) for role in roles},
        "seconds": {role: ledger.seconds(role=role) for role in roles},
        "devices": [d.device_kind for d in jax.devices()],
    }
