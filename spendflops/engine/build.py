"""From a recipe to programs: everything is built abstractly, nothing is allocated and no data are opened to plan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.evaluator import Evaluator, Preprocess
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import DatasetInfo, InputSpec
from spendflops.engine import data, sharding
from spendflops.engine.agreement import check_classes, check_start
from spendflops.engine.describe import canonical, describe
from spendflops.engine.program import Program
from spendflops.engine.recipe import Evaluation, InitFrom, Recipe, Stage
from spendflops.engine.shared import model_on, training
from spendflops.engine.state import Definition, chosen, create, define, unflatten
from spendflops.engine.step import predict_step
from spendflops.parts.splits import parse_split, select
from spendflops.weights.folder import open_folder


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BuiltStage:
    """A stage with its abstract model and its programs; shared by all runs that differ in budget and seed only."""

    definition: Definition
    views: Views
    spec: InputSpec
    inputs: dict[str, Any]
    init: Program
    train: Program


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """One pass over one split that feeds every evaluation with the same data, preprocessing and weights."""

    stage: str
    weights: str
    dataset: Dataset
    split: str
    preprocess: Preprocess
    batch_size: int
    readers: tuple[tuple[str, str, Evaluator], ...]  # (evaluation, role, evaluator)
    program: Program
    examples: int
    skip_broken: int = 0

    @property
    def calls(self) -> int:
        """Batches."""
        return -(-self.examples // self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Built:
    """A recipe, ready to plan or to run."""

    recipe: Recipe
    stages: tuple[BuiltStage, ...]
    steps: tuple[int, ...]
    predictions: tuple[Prediction, ...]
    probes: tuple[tuple[Prediction, ...], ...] = ()

    def programs(self) -> list[tuple[Program, int, str]]:
        """(program, calls, role) of everything that spends FLOPs, in order."""
        train = [(b.train, n, s.role) for s, b, n in zip(self.recipe.stages, self.stages, self.steps, strict=True)]
        return train + self._probing() + [(p.program, p.calls, "evaluate") for p in self.predictions]

    def _probing(self) -> list[tuple[Program, int, str]]:
        steps = {stage.label: count for stage, count in zip(self.recipe.stages, self.steps, strict=True)}
        return [
            (p.program, p.calls * len(probe.steps(steps[p.stage])), "evaluate")
            for probe, predictions in zip(self.recipe.probes, self.probes, strict=True)
            for p in predictions
        ]


_STAGES: dict[Any, BuiltStage] = {}


def build_stage(stage: Stage) -> BuiltStage:
    """The stage's abstract model and programs. Equal descriptions share one, hence one compilation."""
    wanted = {"name", "objective", "backbone", "views", "batch_size", "accumulate", "optimizer"}
    fields = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage) if f.name in wanted}
    views_of = {"info": stage.dataset.info, "devices": jax.device_count(), "label": stage.label}
    key = (json.dumps(describe({**fields, **views_of}), sort_keys=True), stage.mesh, *_classes(stage))
    if key not in _STAGES:
        _STAGES[key] = _build_stage(stage)
    return _STAGES[key]


def _build_stage(stage: Stage) -> BuiltStage:
    sharding.check_batch(stage.batch_size, parts=stage.accumulate)
    definition = _definition(stage)
    objective = definition.example
    _check_objective(objective, stage)
    _check_accumulation(definition, stage)
    spec = input_spec(objective, stage.dataset.info)
    views = type(objective).views() if stage.views is None else stage.views
    if not isinstance(views, Views):
        raise errors.ConfigError(f"stage {stage.label!r}: views is {views!r}", fix="give Views, in gin with ()")
    check_features(stage.dataset, views.features)
    inputs = data.train_structs(objective, views, spec, stage.batch_size, mesh=stage.mesh)
    train, devices = training(stage, definition, inputs), jax.device_count()
    key, state = stage.mesh.struct((), jax.random.key(0).dtype), sharding.places(train.args[0])

    def init(key: jax.Array) -> Any:
        return create(definition, stage.optimizer, key)

    return BuiltStage(
        definition=definition,
        views=views,
        spec=spec,
        inputs=inputs,
        init=Program(name=f"{stage.label}/init", fn=init, args=(key,), examples=0, places=state, devices=devices),
        train=train,
    )


_DEFINITIONS: dict[Any, Definition] = {}


def _definition(stage: Stage) -> Definition:
    """The abstract model, made once for all stages that differ in their optimiser, views or batches only."""
    parts = [stage.objective, stage.backbone, stage.dataset.info]
    key = (canonical(describe(parts)), *_classes(stage))
    if key not in _DEFINITIONS:
        _DEFINITIONS[key] = define(stage.backbone, stage.objective, info=stage.dataset.info)
    return _DEFINITIONS[key]


def _classes(stage: Stage) -> tuple[Any, ...]:
    # The classes themselves, too: one that was defined again in an interactive session has the name of the old one.
    return tuple(getattr(x, "func", x) for x in (stage.objective, stage.backbone))


def input_spec(objective: Objective, info: DatasetInfo) -> InputSpec:
    """What the views of an objective are told: the backbone's images, the tokenizer, the names of the classes."""
    tokenizer = getattr(objective, "tokenizer", None)
    return dataclasses.replace(
        objective.backbone.spec,
        tokenizer=tokenizer,
        classes=tuple(info.class_names or info.classes),
        label_names=tuple(info.label_names),
        box_classes=tuple(info.box_classes),
    )


def _check_objective(objective: Objective, stage: Stage) -> None:
    if not isinstance(objective, Objective):
        raise errors.PluginError(f"stage {stage.label!r}: {type(objective).__name__} is not an Objective")
    if not isinstance(getattr(objective, "backbone", None), Backbone):
        raise errors.PluginError(f"{type(objective).__name__} does not keep its backbone as self.backbone")
    if objective.teacher and type(objective).teacher_decay is Objective.teacher_decay:
        raise errors.PluginError(f"{type(objective).__name__} has a teacher but no teacher_decay")


def _check_accumulation(definition: Definition, stage: Stage) -> None:
    objective = definition.example
    trained = any(p.startswith("backbone/") for p in stage.optimizer.trained(definition.params, objective))
    if stage.accumulate == 1 or not (objective.couples_batch or (objective.backbone.couples_batch and trained)):
        return
    who = type(objective if objective.couples_batch else objective.backbone).__name__
    raise errors.ConfigError(
        f"stage {stage.label!r} cannot accumulate gradients over {stage.accumulate} micro-batches",
        why=f"in {who} the examples of a batch meet (negatives, batch statistics): a part of it has another loss",
        fix="accumulate = 1; to save memory, more devices or backbones.vit.remat = 'blocks'",
    )


def build(recipe: Recipe, *, steps: Mapping[str, int] | None = None) -> Built:
    """Builds a recipe.

    Args:
        recipe: What to run.
        steps: Steps by stage of a run that already exists: they are never computed again.

    Raises:
        errors.SpendflopsError: Anything that cannot work, before anything compiles.
    """
    stages = tuple(build_stage(s) for s in recipe.stages)
    by_name = {s.label: b.definition for s, b in zip(recipe.stages, stages, strict=True)}
    for stage in recipe.stages:
        for init in (i for i in stage.init if not i.run):
            # On shapes: what does not fit is known before the stage in front of it has spent its share.
            check_start(stage, by_name[stage.label], *_source(init, recipe, by_name), init)
    counts = tuple(
        steps[s.label] if steps is not None else resolve(recipe, s, b)
        for s, b in zip(recipe.stages, stages, strict=True)
    )
    return Built(
        recipe=recipe,
        stages=stages,
        steps=counts,
        predictions=_predictions(recipe.evaluations, recipe, stages),
        probes=tuple(_probe(probe.evaluation, recipe, stages) for probe in recipe.probes),
    )


def _probe(evaluation: Evaluation, recipe: Recipe, stages: tuple[BuiltStage, ...]) -> tuple[Prediction, ...]:
    """Predictions under names of their own: the ledger tells them from those of the finished model."""
    made = _predictions((evaluation,), recipe, stages)
    named = (dataclasses.replace(p.program, name=f"{evaluation.label}/probe/{p.program.name}") for p in made)
    return tuple(dataclasses.replace(p, program=program) for p, program in zip(made, named, strict=True))


def _source(init: InitFrom, recipe: Recipe, by_name: Mapping[str, Definition]) -> tuple[tuple[Any, Any], DatasetInfo]:
    if init.weights:
        found = open_folder(init.weights)
        return (unflatten(found.shapes), {}), DatasetInfo(**found.config["info"])
    stage = next(s for s in recipe.stages if s.label == init.source)
    return (by_name[init.source].params, by_name[init.source].stats), stage.dataset.info


def resolve(recipe: Recipe, stage: Stage, built: BuiltStage) -> int:
    """Steps that the stage's budget pays for.

    Raises:
        errors.ConfigError: The budget is positive and pays for no step.
    """
    allotted = recipe.allotted(stage)
    examples = length(stage.dataset, stage.split) if allotted.unit == "epochs" else None
    # A number of steps is known without looking at what one costs.
    per_step = built.train.cost().total if allotted.unit == "flops" else 0
    steps = allotted.steps(flops_per_step=per_step, examples_per_step=stage.batch_size, examples=examples)
    if steps == 0 and allotted.amount > 0:
        raise errors.ConfigError(
            f"the budget {allotted} pays for no step of stage {stage.label!r}",
            why=f"one step of {stage.batch_size} examples costs {built.train.cost().total:.4g} FLOPs",
            fix="a larger budget, a smaller batch or a smaller model",
        )
    return steps


def _predictions(
    evaluations: tuple[Evaluation, ...], recipe: Recipe, stages: tuple[BuiltStage, ...]
) -> tuple[Prediction, ...]:
    by_name = {s.label: b for s, b in zip(recipe.stages, stages, strict=True)}
    groups: dict[str, list[tuple[Evaluation, str, Preprocess]]] = {}
    for evaluation in evaluations:
        name = evaluation.stage or recipe.stages[-1].label
        objective = by_name[name].definition.example
        missing = [r for r in evaluation.evaluator.requires if r not in objective.outputs]
        if missing:
            raise errors.ConfigError(
                f"evaluation {evaluation.label!r} needs {missing[0]}; "
                f"stage {name!r} offers {', '.join(objective.outputs)}",
                fix="score another stage, or add a transfer stage with the head that it needs",
            )
        weights = chosen(by_name[name].definition, evaluation.weights)
        spec = by_name[name].spec
        made = {
            role: evaluation.evaluator.preprocess(role=role, info=dataset.info, spec=spec)
            for role, (dataset, _) in evaluation.data.items()
        }
        check_classes(evaluation, next(s for s in recipe.stages if s.label == name), made)
        for role, (dataset, split) in evaluation.data.items():
            pre = made[role]
            same = [name, weights, describe(dataset), split, describe(pre), evaluation.batch_size]
            same.append(evaluation.skip_broken)
            groups.setdefault(json.dumps(same, sort_keys=True), []).append((evaluation, role, pre))
    made = tuple(_prediction(members, recipe, by_name) for members in groups.values())
    names = [p.program.name for p in made]
    # The ledger knows programs by their names: passes that differ in preprocessing or weights only are numbered.
    return tuple(
        dataclasses.replace(p, program=dataclasses.replace(p.program, name=f"{name}#{names[:i].count(name) + 1}"))
        if names[:i].count(name)
        else p
        for i, (p, name) in enumerate(zip(made, names, strict=True))
    )


def _prediction(
    members: list[tuple[Evaluation, str, Preprocess]], recipe: Recipe, by_name: Mapping[str, BuiltStage]
) -> Prediction:
    evaluation, role, preprocess = members[0]
    dataset, split = evaluation.data[role]
    stage = evaluation.stage or recipe.stages[-1].label
    definition, mesh = by_name[stage].definition, next(s.mesh for s in recipe.stages if s.label == stage)
    sharding.check_batch(evaluation.batch_size)
    readers = tuple((e.label, r, e.evaluator) for e, r, _ in members)
    want = tuple(dict.fromkeys(w for _, role, e in readers for w in e.wants(role)))

    size = evaluation.batch_size
    batch = {n: mesh.struct((size, *s), np.dtype(d), batch=True) for n, (d, s) in preprocess.entries.items()}
    batch["_mask"] = mesh.struct((size,), np.bool_, batch=True)
    program = Program(
        name=f"{stage}/predict/{dataset.info.name}/{split}",
        fn=predict_step(definition, want, tuple((name, e) for name, _, e in readers), mesh=mesh.devices),
        args=(mesh.state(definition.params), mesh.state(definition.stats), batch),
        places=mesh.replicated,
        examples=size,
        devices=jax.device_count(),
        family=_family(definition, batch, want, readers),
    )
    return Prediction(
        stage=stage,
        weights=chosen(definition, evaluation.weights),
        dataset=dataset,
        split=split,
        preprocess=preprocess,
        batch_size=size,
        readers=readers,
        program=program,
        examples=length(dataset, split),
        skip_broken=evaluation.skip_broken,
    )


def _family(definition: Definition, batch: Mapping[str, Any], want: tuple[str, ...], readers: Any) -> Any:
    """Equal for predictions of the same model, on batches of the same shapes, for the same evaluators."""
    same = model_on(definition, batch)
    return (
        None if same is None else ("predict", same, want, canonical(describe([evaluator for *_, evaluator in readers])))
    )


def check_features(dataset: Dataset, features: tuple[str, ...]) -> None:
    """Raises a ConfigError for a feature that the data set does not have: known without opening it."""
    missing = [f for f in features if f not in dataset.info.features]
    if missing:
        raise errors.ConfigError(
            f"data set {dataset.info.name!r} has no {missing[0]!r}",
            why=f"it has {', '.join(dataset.info.features)}",
            fix="use a method or an evaluator that does not read it, or data that have it",
        )


def open_source(dataset: Dataset, split: str, features: tuple[str, ...]) -> Source:
    """The samples of a split or of a part of it.

    Raises:
        errors.ConfigError: A feature that the data set does not have.
    """
    check_features(dataset, features)
    wanted = parse_split(split)
    return select(dataset.source(wanted.name, features=features), wanted)


def length(dataset: Dataset, split: str) -> int:
    """Examples of a split: from the static information where it is known, else by opening the data."""
    wanted = parse_split(split)
    if wanted.name in dataset.info.sizes:
        begin, end = wanted.bounds(dataset.info.sizes[wanted.name])
        return end - begin
    return len(open_source(dataset, split, ("image",)))
