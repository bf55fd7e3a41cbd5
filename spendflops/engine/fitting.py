"""What would fit where a training step did not: the same step for less memory, with its price in FLOPs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from spendflops.contracts import errors
from spendflops.engine.build import build_stage
from spendflops.engine.host import Limit, memory_limits
from spendflops.engine.program import Program
from spendflops.engine.recipe import Recipe, Stage
from spendflops.engine.remedies import REMEDIES


def memory() -> Limit | None:
    """Of all devices together; of the host where they are its processor; None where nobody says."""
    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    if devices[0].platform == "cpu":
        return min(memory_limits(), key=lambda limit: limit.size, default=None)
    return None if None in limits else Limit(size=sum(limits), source="the devices")


def explained(recipe: Recipe, error: errors.OutOfMemoryError) -> errors.OutOfMemoryError:
    """The error with what would fit, for the training step that holds most; as it is where nothing can be said."""
    limit = memory()
    size = None if limit is None else limit.size
    try:
        stage = max(recipe.stages, key=lambda stage: build_stage(stage).train.held)
        here = build_stage(stage).train.held
        found = list(_smaller(stage, size))
    except errors.SpendflopsError:
        return error
    room = "" if limit is None else f" of {limit.size / 1e9:.3g} GB ({limit.source})"
    why = f"{error.why}; a step of {stage.label} holds at most {here / 1e9:.3g} GB{room} before anything is fused"
    fix = "; or ".join(found) if found else "a smaller model: no smaller batch of this one fits either"
    return errors.OutOfMemoryError(error.what, why=why, fix=fix)


def _smaller(stage: Stage, limit: int | None) -> Iterator[str]:
    """The weakest form of each remedy that fits, and a smaller batch, which is another recipe."""
    own = build_stage(stage).train
    for remedy in REMEDIES:
        with contextlib.suppress(errors.ConfigError):  # it does not apply
            for setting, changed in remedy.smaller(stage):
                found = build_stage(changed).train
                if _fits(found, own, limit):
                    held, price = found.held / 1e9, _price(found, own, remedy.share(stage, changed))
                    yield f"{setting}: at most {held:.3g} GB for {price} a step"
                    break
    for size in (stage.batch_size // 2**k for k in range(1, stage.batch_size.bit_length())):
        with contextlib.suppress(errors.ConfigError):  # devices cannot share it
            found = build_stage(dataclasses.replace(stage, batch_size=size)).train
            if _fits(found, own, limit):
                held, price = found.held / 1e9, _price(found, own, 1)
                yield f"another recipe, Stage.batch_size = {size}: at most {held:.3g} GB for {price} a step"
                return


def _fits(found: Program, own: Program, limit: int | None) -> bool:
    return found.held < own.held if limit is None else found.held <= limit


def _price(found: Program, own: Program, times: int) -> str:
    """FLOPs of ``times`` the found step, beside the stage's own."""
    ours, theirs = own.with_recomputation.total, found.with_recomputation.total
    if ours is None or theirs is None:
        return "FLOPs that are not known"
    ratio = times * theirs / ours
    if abs(ratio - 1) < 0.005:
        return "the same FLOPs"
    return f"{ratio - 1:.0%} more FLOPs" if ratio > 1 else f"{ratio:.0%} of the FLOPs"
