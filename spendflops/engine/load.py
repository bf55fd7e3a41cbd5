"""A finished run, or a folder of weights, used again: ``spendflops.load("runs/x").features(images)``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors, registry
from spendflops.contracts.types import DatasetInfo, InputSpec
from spendflops.engine.bare import Bare
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.recipe import InitFrom
from spendflops.engine.rundir import read_json
from spendflops.engine.state import Definition, Tree, define, flatten, transferred, unflatten
from spendflops.engine.state import chosen as which
from spendflops.engine.step import predict_step
from spendflops.weights.folder import is_folder, open_folder


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained model.

    Attributes:
        definition: Its module without values.
        params, stats: Its values, as the method hands them on (``online`` or ``teacher``).
        spec: What it expects of its images.
        stage: The stage that trained it; empty where no stage is known.
        weights: ``"online"`` or ``"teacher"``; None where nobody knows.
        origin: ``backbone`` and ``objective`` as described (no objective: a backbone alone), ``info`` of the data,
            ``step`` and ``flops`` spent up to there (None where unknown), ``source``: where the weights come from.
    """

    definition: Definition
    params: Tree
    stats: Tree
    spec: InputSpec
    stage: str
    weights: str | None
    origin: Mapping[str, Any]

    @property
    def values(self) -> tuple[Tree, Tree]:
        """Parameters and statistics."""
        return self.params, self.stats

    def module(self) -> Any:
        """The objective with its weights, an ``nnx.Module``."""
        return self.definition.merge(self.params, self.stats)

    @functools.cached_property
    def _predict(self) -> Callable[..., dict[str, Any]]:
        outputs = tuple(o for o in ("features", "logits") if o in self.definition.example.outputs)
        return jax.jit(predict_step(self.definition, outputs, (("rows", _Keep()),)))

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of images.

        Args:
            images: uint8 [B H W 3] of the size ``spec.size``.

        Returns:
            ``summary`` [B D], ``mean_tokens`` [B D] and, where the model has a classifier, ``logits`` [B classes].

        Raises:
            errors.ConfigError: Another dtype or size.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (*self.spec.size, 3):
            raise errors.ConfigError(
                f"images are {images.dtype}{list(images.shape)}",
                why=f"this model takes uint8 [B {self.spec.size[0]} {self.spec.size[1]} 3]",
            )
        return jax.device_get(self._predict(self.params, self.stats, {"image": images})["rows"])


class _Keep:
    """An evaluator's ``step`` that keeps what was predicted."""

    def step(self, predictions: Mapping[str, Any], batch: Mapping[str, Any], ctx: Any) -> dict[str, Any]:
        features = predictions["features"]
        kept = {"summary": features.summary, "mean_tokens": features.tokens.mean(1)}
        return {**kept, "logits": predictions["logits"]} if "logits" in predictions else kept


def load(run: str | os.PathLike[str], *, stage: str | None = None, weights: str | None = None) -> Model:
    """The model that a run trained, or that a folder of weights holds.

    Args:
        run: Run directory, or a folder of ``spendflops import``.
        stage: Name of the run's stage; None for the last.
        weights: ``"online"`` or ``"teacher"``; None for the method's own choice.

    Raises:
        errors.DataError: Neither, or no checkpoint that can be read.
        errors.ConfigError: A stage that there is not, weights that a folder does not hold.
    """
    if is_folder(run):
        return _from_folder(Path(run), stage, weights)
    body, name = _described(Path(run), stage)
    names = body["resolved"]["stages"]
    chosen = body["config"]["stages"][names.index(name)]
    definition, _ = planned(run, stage=name)
    state = _restore(Path(run), name)
    params, stats = transferred(definition, state, weights)
    step = int(state["step"])
    origin = {
        "backbone": chosen["backbone"],
        "objective": chosen["objective"],
        "info": body["resolved"]["info"][name],
        "step": step,
        "flops": _spent(Path(run), body, names.index(name), step),
        "source": {"run": Path(run).resolve().name, "stage": name},
    }
    return Model(
        definition=definition,
        params=params,
        stats=stats,
        spec=spec_of(definition),
        stage=name,
        weights=which(definition, weights),
        origin=origin,
    )


def planned(run: str | os.PathLike[str], *, stage: str | None = None) -> tuple[Definition, DatasetInfo]:
    """The model that a run trains, without its values, and the data that it is for.

    Args:
        run: Run directory.
        stage: Name of the run's stage; None for the last.

    Raises:
        errors.DataError: Not a run directory.
        errors.ConfigError: A stage that there is not.
    """
    body, name = _described(Path(run), stage)
    chosen = body["config"]["stages"][body["resolved"]["stages"].index(name)]
    info = DatasetInfo(**body["resolved"]["info"][name])
    return define(*(factory(f"{kind}s", chosen[kind]) for kind in ("backbone", "objective")), info=info), info


def parent(folder: Path, init: InitFrom) -> Path:
    """The folder of the run that a stage of the run in ``folder`` starts from.

    Raises:
        errors.DataError: Not a finished run.
    """
    for place in (folder / (init.run or ""), Path(init.run or "")):
        if (place / "result.json").exists():
            return place
    raise errors.DataError(f"{init.run} is not a finished run", fix="give the directory of a run with result.json")


def prior_flops(folder: Path, init: InitFrom) -> int | None:
    """FLOPs that went into what a stage of the run in ``folder`` starts from; None where nobody knows."""
    if init.weights:
        return open_folder(init.weights).config["flops"]
    flops = (read_json(parent(folder, init) / "result.json") or {})["flops"]
    return None if flops["prior"] is None else flops["prior"] + flops["pretrain"] + flops["transfer"]


def prior_seconds(folder: Path, init: InitFrom) -> float:
    """Seconds that training what a stage starts from took; 0 for imported weights, which do not say it."""
    if init.weights:
        return 0.0
    seconds = (read_json(parent(folder, init) / "result.json") or {})["seconds"]
    return seconds.get("prior", 0.0) + seconds["pretrain"] + seconds["transfer"]


def _described(run: Path, stage: str | None) -> tuple[dict[str, Any], str]:
    """``config.json`` of a run, and the stage that is meant."""
    body = read_json(run / "config.json")
    if body is None:
        raise errors.DataError(
            f"{run} is not a run directory", why="it has no config.json", fix="give the --workdir of a run"
        )
    names = body["resolved"]["stages"]
    if stage is not None and stage not in names:
        raise errors.ConfigError(f"the run has no stage {stage!r}{errors.suggest(stage, names)}")
    return body, stage or names[-1]


def _spent(run: Path, body: Mapping[str, Any], index: int, step: int) -> int | None:
    """FLOPs up to a step of a stage: those of the stages before it, and of what they started from."""
    names, resolved = body["resolved"]["stages"], body["resolved"]
    foreign = any(not init["stage"] for stage in body["config"]["stages"] for init in stage["init"])
    result = read_json(run / "result.json")
    prior = result["flops"]["prior"] if result else None if foreign else 0
    steps = [*(resolved["steps"][n] for n in names[:index]), step]
    own = sum(n * resolved["flops_per_step"][name] for name, n in zip(names, steps, strict=False))
    return None if prior is None else prior + own


def _from_folder(path: Path, stage: str | None, weights: str | None) -> Model:
    found = open_folder(path)
    config = found.config
    if stage is not None or weights not in (None, config["weights"]):
        raise errors.ConfigError(
            f"{path} holds one model, with the weights {config['weights'] or 'that its file had'}",
            fix="leave out stage and weights",
        )
    definition = definition_of(config)
    values = found.read()
    parts = [flatten(part) for part in (definition.params, definition.stats)]
    shapes = {name: tuple(x.shape) for part in parts for name, x in part.items()}
    if {name: value.shape for name, value in values.items()} != shapes:
        raise errors.DataError(
            f"{path} does not fit the model that its config.json describes",
            why="this version of its plugins builds another one",
            fix="import the original file again",
        )
    params, stats = (unflatten({name: values[name] for name in part}) for part in parts)
    return Model(
        definition=definition,
        params=params,
        stats=stats,
        spec=spec_of(definition),
        stage="",
        weights=config["weights"],
        origin={**config, "source": {"weights": path.resolve().name, "of": config["source"]}},
    )


def definition_of(origin: Mapping[str, Any]) -> Definition:
    """The model that is described by a ``backbone``, an ``objective`` or None, and the ``info`` of data."""
    objective = Bare if origin["objective"] is None else factory("objectives", origin["objective"])
    return define(factory("backbones", origin["backbone"]), objective, info=DatasetInfo(**origin["info"]))


def spec_of(definition: Definition) -> InputSpec:
    """What a model expects of its images and texts."""
    example = definition.example
    return dataclasses.replace(example.backbone.spec, tokenizer=getattr(example, "tokenizer", None))


def _restore(run: Path, stage: str) -> Tree:
    folder = run / "checkpoints" / stage
    if not folder.is_dir():
        raise errors.DataError(f"{run} has no checkpoint of stage {stage!r}", fix="let the run get to a checkpoint")
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore_raw()
    finally:
        checkpoints.close()


def factory(group: str, described: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory of a plugin from its stored description."""
    name = described["@"]
    cls = registry.load(group, name if ":" in name else name.partition(".")[2])
    return functools.partial(cls, **{k: _plain(v) for k, v in described.items() if k != "@"})


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_plain(v) for v in value)
    if isinstance(value, dict) and "@" in value:
        raise errors.DataError(f"an option of the stored model is an object ({value['@']}), which cannot be made again")
    return value
