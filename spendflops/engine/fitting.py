"""What would fit where a training step did not: the same step for less memory, with its price in FLOPs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator

import jax

from spendflops.contracts import conformity, errors
from spendflops.engine.build import build_stage
from spendflops.engine.program import Program
from spendflops.engine.recipe import Recipe, Stage


def memory() -> int | None:
    """Bytes of all devices together; of this machine where they are its processor; None where nobody says."""
    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    if devices[0].platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None
    return None if None in limits else sum(limits)


def explained(recipe: Recipe, error: errors.OutOfMemoryError) -> errors.OutOfMemoryError:
    """The error with what would fit, for the training step that holds most; as it is where nothing can be said."""
    limit = memory()
    try:
        stage = max(recipe.stages, key=lambda stage: build_stage(stage).train.held)
        here = build_stage(stage).train.held
        found = [text for size, text in _others(stage) if limit is None or size <= limit][:3]
    except errors.ConfigError:
        return error
    room = "" if limit is None else f" of {limit / 1e9:.3g} GB"
    why = f"{error.why}; a step of {stage.label} holds at most {here / 1e9:.3g} GB{room} before anything is fused"
    fix = "; or ".join(found) if found else "a smaller model: no smaller batch of this one fits either"
    return errors.OutOfMemoryError(error.what, why=why, fix=fix)


def _others(stage: Stage) -> Iterator[tuple[int, str]]:
    """Other ways to take steps, the nearest first: (bytes held at most, what to do and what it costs)."""
    own = build_stage(stage).train
    for parts in itertools.takewhile(lambda n: n <= stage.batch_size, (2**k for k in range(1, 12))):
        found = _built(stage, accumulate=parts)
        if found is not None and found.held < own.held:
            yield found.held, f"Stage.accumulate = {parts}: {_gigabytes(found)} for the same FLOPs a step"
    recomputing = _recomputing(stage)
    if recomputing is not None:
        more = recomputing.with_recomputation.total / own.cost().total - 1
        what = f"remat = 'blocks' of the backbone: {_gigabytes(recomputing)}, {more:.0%} more FLOPs a step"
        yield recomputing.held, what
    for part in itertools.takewhile(lambda n: n < stage.batch_size, (2**k for k in range(1, 12))):
        found = _built(stage, batch_size=stage.batch_size // part)
        if found is not None:
            size, share = stage.batch_size // part, found.cost().total / own.cost().total
            yield found.held, f"Stage.batch_size = {size}: {_gigabytes(found)} for {share:.0%} of the FLOPs a step"


def _built(stage: Stage, **changes: object) -> Program | None:
    """The training step of a changed stage, None where it is refused."""
    try:
        return build_stage(dataclasses.replace(stage, **changes)).train
    except errors.ConfigError:
        return None


def _recomputing(stage: Stage) -> Program | None:
    """The step that computes the blocks of its backbone twice, where the backbone can and does not yet."""
    backbone = stage.backbone
    cls, keywords = (backbone.func, backbone.keywords) if isinstance(backbone, functools.partial) else (backbone, {})
    if "remat" not in conformity.options("backbones", cls) or keywords.get("remat", "none") != "none":
        return None
    return _built(stage, backbone=functools.partial(cls, **{**keywords, "remat": "blocks"}))


def _gigabytes(program: Program) -> str:
    return f"at most {program.held / 1e9:.3g} GB"
