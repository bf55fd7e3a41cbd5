"""A finished run, used again: ``spendflops.load("runs/x").features(images)``."""

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
from spendflops.engine.checkpoint import Checkpoints
from spendflops.engine.rundir import read_json
from spendflops.engine.state import Definition, Tree, define, transferred
from spendflops.engine.step import predict_step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained model.

    Attributes:
        definition: Its module without values.
        params, stats: Its values, as the method hands them on (``online`` or ``teacher``).
        spec: What it expects of its images.
        stage: The stage that trained it.
    """

    definition: Definition
    params: Tree
    stats: Tree
    spec: InputSpec
    stage: str

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


def load(run: str | os.PathLike[str], *, stage: str | None = None) -> Model:
    """The model that a run trained.

    Args:
        run: Run directory.
        stage: Name of the stage; None for the last.

    Raises:
        errors.DataError: Not a run, or no checkpoint that can be read.
    """
    body = read_json(Path(run) / "config.json")
    if body is None:
        raise errors.DataError(
            f"{run} is not a run directory", why="it has no config.json", fix="give the --workdir of a run"
        )
    stages = body["config"]["stages"]
    names = body["resolved"]["stages"]
    if stage is not None and stage not in names:
        raise errors.ConfigError(f"the run has no stage {stage!r}{errors.suggest(stage, names)}")
    name = stage or names[-1]
    chosen = stages[names.index(name)]
    info = DatasetInfo(**body["resolved"]["info"][name])
    definition = define(*(factory(f"{kind}s", chosen[kind]) for kind in ("backbone", "objective")), info=info)
    state = _restore(Path(run), name)
    params, stats = transferred(definition, state)
    return Model(definition=definition, params=params, stats=stats, spec=definition.example.backbone.spec, stage=name)


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
