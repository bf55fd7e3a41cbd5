"""Evaluations: one pass over each split, every evaluator that shares it is fed from the same predictions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Source
from spendflops.contracts.evaluator import INDEX, Evaluator, Opened
from spendflops.engine import data, sharding, skips
from spendflops.engine.build import Built, Prediction, open_source
from spendflops.engine.describe import NAME, canonical, describe
from spendflops.engine.feature_cache import Shelf
from spendflops.engine.program import translate
from spendflops.engine.recipe import Evaluation, Stage
from spendflops.engine.rundir import plain, write_atomically
from spendflops.engine.state import Tree

FOLDER = "evaluations"
"""Of the run directory: holds what evaluators keep beside their scores, in a folder an evaluation."""


@dataclasses.dataclass
class Collected:
    """What one evaluation has gathered: sums by role and name, rows by role and name, broken examples by role."""

    metrics: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    rows: dict[str, dict[str, list[np.ndarray]]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(
        self, role: str, outputs: Mapping[str, Any], mask: np.ndarray, *, host: Mapping[str, np.ndarray],
        evaluator: Evaluator,
    ) -> None:  # fmt: skip
        """Adds a batch: metrics exactly (integers stay integers), rows without padding and as the evaluator wants them.

        Args:
            role: Which role it is of.
            outputs: What ``step`` gave.
            mask: bool [B], which examples count.
            host: Rows that never left the host.
            evaluator: Makes rows compact.

        Raises:
            errors.PluginError: ``step`` gives a row under the name of one of ``host``.
        """
        sums = self.metrics.setdefault(role, {})
        for name, value in outputs.get("metrics", {}).items():
            array = np.asarray(value)
            wide = array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)
            sums[name] = sums[name] + wide if name in sums else wide
        computed = outputs.get("rows", {})
        if twice := sorted(set(computed) & set(host)):
            who = type(evaluator).__name__
            raise errors.PluginError(f"{who}.step gives the row {twice[0]!r}", why="the host has one of that name")
        rows = {name: np.asarray(value)[mask] for name, value in {**computed, **host}.items()}
        kept = self.rows.setdefault(role, {})
        for name, part in evaluator.compact(role, rows).items():
            kept.setdefault(name, []).append(part)

    def joined(self) -> dict[str, dict[str, np.ndarray]]:
        """The rows of all batches: role -> name -> [examples ...]."""
        return {r: {name: np.concatenate(parts) for name, parts in rows.items()} for r, rows in self.rows.items()}


def predict(
    prediction: Prediction, source: Source, params: Tree, stats: Tree, skipped: skips.Skipped | None = None,
    shelf: Shelf | None = None,
) -> Iterator[tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]]:  # fmt: skip
    """(outputs by evaluation, mask, rows that never leave the host) of each batch.

    Raises:
        errors.DataError: An image that cannot be read.
        errors.OutOfMemoryError: Does not fit.
    """
    compiled = functools.cache(prediction.program.compile)  # nothing is compiled where all outputs are found
    shapes = prediction.program.args[2]

    def run(batch: Mapping[str, np.ndarray]) -> Tree:
        executable = compiled()
        try:
            return jax.device_get(executable(params, stats, sharding.place(batch, shapes)))
        except Exception as error:
            raise translate(error) from error

    checked = False
    for batch in data.padded(source, prediction.preprocess, batch_size=prediction.batch_size, skipped=skipped):
        host = {name: batch.pop(name) for name in (INDEX, *prediction.preprocess.kept)}
        if not checked:
            data.check_batch(batch, shapes, prediction.program.name)
            checked = True
        yield run(batch) if shelf is None else shelf.outputs(batch, run), batch["_mask"], host


def collect(
    prediction: Prediction, params: Tree, stats: Tree, into: dict[str, Collected], shelf: Shelf | None = None
) -> dict[int, str]:
    """Runs one pass, or finds its outputs on a shelf, and hands them to the evaluations that read it.

    Returns:
        The broken examples that were left out, by index.
    """
    source = open_source(prediction.dataset, prediction.split, prediction.preprocess.features)
    skipped = skips.Skipped(source, limit=prediction.skip_broken) if prediction.skip_broken else None
    for outputs, mask, host in predict(prediction, source, params, stats, skipped, shelf):
        for evaluation, role, evaluator in prediction.readers:
            collected = into.setdefault(evaluation, Collected())
            collected.add(role, outputs[evaluation], mask, host=host, evaluator=evaluator)
    found = skipped.found if skipped else {}
    for evaluation, role, _ in prediction.readers if found else ():
        into[evaluation].skipped[role] = len(found)
    return found


def _opened(evaluation: Evaluation) -> Opened:
    return lambda role, features: open_source(*evaluation.data[role], features)


def protocol(built: Built, evaluation: Evaluation) -> str:
    """The evaluator's protocol id with what else gives a score its meaning.

    That is the size at which the model sees the images, the weights if others than the method's own were asked for, and
    of a model that a transfer stage trained, how: its objective, data, batch, augmentation and optimiser. Its learning
    rate, weight decay and length are no part of it: they are tuned or paid for. The last checkpoint is always meant.
    """
    names = [s.label for s in built.recipe.stages]
    place = names.index(evaluation.stage or names[-1])
    stage, (height, width) = built.recipe.stages[place], built.stages[place].spec.size
    weights = f":{evaluation.weights}" if evaluation.weights else ""
    trained = f":{_trained(stage)}" if stage.role == "transfer" else ""
    return f"{evaluation.evaluator.protocol}@{height}x{width}px{weights}{trained}"


def _trained(stage: Stage) -> str:
    """``supervised[shapes:probe]#1a2b3c``: readable, and a hash of everything else that is fixed."""
    optimizer = dict(describe(stage.optimizer))
    rate = optimizer.pop("lr")
    optimizer.pop("weight_decay")
    schedule = {name: value for name, value in rate.items() if name != "peak"} if isinstance(rate, dict) else ""
    objective = describe(stage.objective)
    data = f"{stage.dataset.info.name}:{stage.split}"  # not its folder, which is another on another machine
    fixed = [objective, describe(stage.views), data, stage.batch_size, optimizer, schedule]
    digest = hashlib.sha256(canonical(fixed).encode()).hexdigest()[:6]
    return f"{objective[NAME].rpartition('.')[2]}[{data}]#{digest}"


def score(
    built: Built, evaluation: Evaluation, collected: Collected, *, folder: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """The scores of one evaluation with everything that tells what they mean.

    Args:
        built: The recipe.
        evaluation: Which.
        collected: What its passes gave.
        folder: The run directory, to keep the evaluator's files in; None for a score that keeps none.

    Raises:
        errors.PluginError: The evaluator gives no primary score, or a file without a plain name.
        errors.DataError: What it was given cannot be scored, or a file cannot be written.
    """
    evaluator, rows = evaluation.evaluator, collected.joined()
    # What is scored comes last: after a bank, after prompts.
    reference = evaluation.evaluator.roles[-1]
    dataset = evaluation.data[reference][0]
    values = evaluator.result(collected.metrics, rows, info=dataset.info)
    if evaluator.primary not in values:
        raise errors.PluginError(
            f"{type(evaluator).__name__}.result gives {', '.join(values)}", why=f"primary is {evaluator.primary!r}"
        )
    scored = {
        "evaluation": evaluation.label,
        "protocol": protocol(built, evaluation),
        "primary": evaluator.primary,
        "higher_is_better": evaluator.higher_is_better,
        "unit": evaluator.unit,
        "spread": evaluator.spread,
        "data": {role: f"{d.info.name}:{split}" for role, (d, split) in evaluation.data.items()},
        "skipped": dict(collected.skipped),
        "values": {name: float(value) for name, value in values.items()},
    }
    if folder is None:
        return scored
    files = evaluator.files(rows, info=dataset.info, opened=_opened(evaluation))
    return {**scored, "files": keep(files, folder / FOLDER / evaluation.label)}


def keep(files: Mapping[str, bytes], folder: Path) -> list[str]:
    """Writes the files of an evaluation, each whole or not at all, and gives their names in order.

    Raises:
        errors.PluginError: A name that is a path.
        errors.DataError: Cannot be written.
    """
    for name in files:
        if not plain(name):
            raise errors.PluginError(f"an evaluation keeps the file {name!r}", fix="a plain name without folders")
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return sorted(files)
