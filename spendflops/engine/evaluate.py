"""Evaluations: one pass over each split, every evaluator that shares it is fed from the same predictions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Source
from spendflops.engine import data, sharding
from spendflops.engine.build import Built, Prediction, open_source
from spendflops.engine.describe import NAME, canonical, describe
from spendflops.engine.program import translate
from spendflops.engine.recipe import Evaluation, Stage
from spendflops.engine.state import Tree


@dataclasses.dataclass
class Collected:
    """What one evaluation has gathered: sums by role and name, rows by role and name, broken examples by role."""

    metrics: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    rows: dict[str, dict[str, list[np.ndarray]]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, role: str, outputs: Mapping[str, Any], mask: np.ndarray) -> None:
        """Adds a batch: metrics exactly (integers stay integers), rows without padding."""
        sums = self.metrics.setdefault(role, {})
        for name, value in outputs.get("metrics", {}).items():
            array = np.asarray(value)
            wide = array.astype(np.int64 if array.dtype.kind in "iub" else np.float64)
            sums[name] = sums[name] + wide if name in sums else wide
        rows = self.rows.setdefault(role, {})
        for name, value in outputs.get("rows", {}).items():
            rows.setdefault(name, []).append(np.asarray(value)[mask])


def predict(
    prediction: Prediction, source: Source, params: Tree, stats: Tree, skipped: data.Skipped | None = None
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """(outputs by evaluation, mask) of each batch.

    Raises:
        errors.DataError: An image that cannot be read.
        errors.OutOfMemoryError: Does not fit.
    """
    run = prediction.program.compile()
    shapes = prediction.program.args[2]
    checked = False
    for batch in data.padded(source, prediction.preprocess, batch_size=prediction.batch_size, skipped=skipped):
        if not checked:
            data.check_batch(batch, shapes, prediction.program.name)
            checked = True
        try:
            outputs = run(params, stats, sharding.place(batch, batch=True))
        except Exception as error:
            raise translate(error) from error
        yield jax.device_get(outputs), batch["_mask"]


def collect(prediction: Prediction, params: Tree, stats: Tree, into: dict[str, Collected]) -> dict[int, str]:
    """Runs one pass and hands its outputs to the evaluations that read it.

    Returns:
        The broken examples that were left out, by index.
    """
    source = open_source(prediction.dataset, prediction.split, prediction.preprocess.features)
    skipped = data.Skipped(source, limit=prediction.skip_broken) if prediction.skip_broken else None
    for outputs, mask in predict(prediction, source, params, stats, skipped):
        for evaluation, role, _ in prediction.readers:
            into.setdefault(evaluation, Collected()).add(role, outputs[evaluation], mask)
    found = skipped.found if skipped else {}
    for evaluation, role, _ in prediction.readers if found else ():
        into[evaluation].skipped[role] = len(found)
    return found


def check_data(built: Built) -> None:
    """Opens what later stages train on and what is scored: what is missing or empty is known before FLOPs are spent.

    Raises:
        errors.DataError: Missing, empty, or not what an evaluator can score.
    """
    later = zip(built.recipe.stages[1:], built.stages[1:], strict=True)
    wanted = [(s.dataset, s.split, b.views.features, f"stage {s.label!r}") for s, b in later]
    passes = (*built.predictions, *(p for predictions in built.probes for p in predictions))
    wanted += [(p.dataset, p.split, p.preprocess.features, p.program.name) for p in passes]
    for dataset, split, features, who in wanted:
        if not len(open_source(dataset, split, features)):
            raise errors.DataError(f"{dataset.info.name}:{split} is empty", why=f"{who} reads it", fix="another split")
    probed = (probe.evaluation for probe in built.recipe.probes)
    for evaluation in (*built.recipe.evaluations, *probed):
        data = evaluation.data
        evaluation.evaluator.check(data, lambda role, features, data=data: open_source(*data[role], features))


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


def score(built: Built, evaluation: Evaluation, collected: Collected) -> dict[str, Any]:
    """The scores of one evaluation with everything that tells what they mean."""
    evaluator = evaluation.evaluator
    rows = {
        role: {name: np.concatenate(parts) for name, parts in names.items()} for role, names in collected.rows.items()
    }
    # What is scored comes last: after a bank, after prompts.
    reference = evaluation.evaluator.roles[-1]
    dataset = evaluation.data[reference][0]
    values = evaluator.result(collected.metrics, rows, info=dataset.info)
    if evaluator.primary not in values:
        raise errors.PluginError(
            f"{type(evaluator).__name__}.result gives {', '.join(values)}", why=f"primary is {evaluator.primary!r}"
        )
    return {
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
