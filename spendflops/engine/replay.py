"""A run that diverged, again up to the step at which it did: what went into that step, in a file that repeats it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.engine import sharding
from spendflops.engine.build import build
from spendflops.engine.loop import run_recipe
from spendflops.engine.recipe import Recipe
from spendflops.engine.rundir import locked, read_json
from spendflops.engine.state import Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """What the step of a file does.

    Attributes:
        file: ``replay/<stage>-<step>.npz`` in the run's folder: state before the step, batch, key.
        metrics: Of the step.
        before, batch, after: Names of the arrays that are not finite, before the step, in the batch, and after it.
    """

    file: Path
    metrics: dict[str, float]
    before: tuple[str, ...]
    batch: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def diverges(self) -> bool:
        """Whether the step is one at which a run stops."""
        return not np.isfinite(self.metrics["health"])


class _Over(Exception):
    """The replay is past its step."""


def replay(recipe: Recipe, workdir: str | os.PathLike[str]) -> Replay:
    """Runs a recipe again from its last checkpoint to the step at which it diverged, beside its folder.

    Args:
        recipe: Of the run.
        workdir: Its folder, in which the file is written; nothing else in it changes.

    Raises:
        errors.DataError: The run did not diverge, or does not again, as on another machine; no room beside it.
        errors.InUseError: Another process works on the run.
    """
    folder = Path(workdir)
    said = read_json(folder / "status.json") or {}
    if said.get("exit_code") != errors.DivergedError.exit_code or "step" not in said:
        why = f"it is {said.get('state', 'new')}"
        raise errors.DataError(f"{folder} is not a run that diverged at a step", why=why)
    stage, step = said["stage"], said["step"]
    seen: list[dict[str, Any]] = []

    def watch(name: str, number: int, **parts: Tree) -> None:
        if (name, number) == (stage, step):
            seen.append(jax.device_get(parts))
        elif name == stage and number > step + 1:
            raise _Over

    # Beside it: what a run starts from may be named relative to its folder.
    copy = folder.with_name(f".replay-{folder.resolve().name}")
    with locked(folder):
        shutil.rmtree(copy, ignore_errors=True)  # of a replay that was killed
        try:
            _copy(folder, copy)
            with contextlib.suppress(errors.DivergedError, _Over):
                run_recipe(recipe, copy, quiet=True, checked=True, watch=watch)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    if not seen:
        raise errors.DataError(f"{folder} does not come to step {step} of {stage} again")
    file = folder / "replay" / f"{stage}-{step}.npz"
    file.parent.mkdir(exist_ok=True)
    np.savez(file, **_named(seen[0]))
    found = again(recipe, file)
    if not found.diverges:
        raise errors.DataError(
            f"step {step} of {stage} is finite this time",
            why="bits depend on the machine and on the versions: environment.json names those of the run",
            fix="replay it where it ran",
        )
    return found


def _copy(folder: Path, copy: Path) -> None:
    """What a run needs to go on, beside it. Files of checkpoints, which nobody writes into, are there a second time
    without taking room, where the file system has links."""

    def place(source: str, target: str) -> None:
        if len(Path(source).relative_to(folder).parts) > 3:  # checkpoints/<stage>/<step>/...
            with contextlib.suppress(OSError):
                os.link(source, target)
                return
        shutil.copy2(source, target)

    def unread(inside: str, names: list[str]) -> set[str]:
        return {"events", "evaluations", "logs", "replay"} if Path(inside) == folder else set()

    try:
        shutil.copytree(folder, copy, copy_function=place, ignore=unread)
    except (OSError, shutil.Error) as error:
        raise errors.DataError(f"cannot copy {folder} to {copy}", why=str(error), fix="make room beside it") from error


def again(recipe: Recipe, file: str | os.PathLike[str]) -> Replay:
    """Takes the step of a replay file: a call of the stage's program, with the bits that it had.

    Raises:
        errors.DataError: The file is of another model or another batch.
    """
    path = Path(file)
    stage = path.stem.rpartition("-")[0]
    built = build(recipe)
    program = built.stages[[s.label for s in recipe.stages].index(stage)].train
    like = dict(zip(("state", "batch", "call"), program.args, strict=True))
    with np.load(path) as arrays:
        stored = dict(arrays)
    if stored.keys() != _names(like):
        raise errors.DataError(f"{path} is not of stage {stage!r} of this recipe", fix="give the recipe of its run")
    leaves, tree = jax.tree_util.tree_flatten_with_path(like)
    values = [_restored(stored[jax.tree_util.keystr(place)], leaf) for place, leaf in leaves]
    parts = jax.tree_util.tree_unflatten(tree, values)
    before, batch = (_broken(parts[name]) for name in ("state", "batch"))
    state, metrics = program.compile()(*sharding.place(tuple(parts[name] for name in like), program.args))
    return Replay(
        file=path,
        metrics={name: float(value) for name, value in metrics.items()},
        before=before,
        batch=batch,
        after=_broken(jax.device_get(state)),
    )


def _named(parts: Tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(parts)
    return {jax.tree_util.keystr(place): _plain(value) for place, value in leaves}


def _names(parts: Tree) -> set[str]:
    return {jax.tree_util.keystr(place) for place, _ in jax.tree_util.tree_flatten_with_path(parts)[0]}


def _plain(value: Any) -> np.ndarray:
    """An array as numpy keeps it: keys as their words, narrow floats as bytes."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value))
    array = np.asarray(value)
    return array if array.dtype.isbuiltin else array.view(f"V{array.dtype.itemsize}")


def _restored(array: np.ndarray, like: Any) -> Any:
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array)
    return array.view(like.dtype) if array.dtype != like.dtype else array


def _broken(parts: Tree) -> tuple[str, ...]:
    """The arrays that hold a number that is not finite."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(parts)
    floats = ((place, x) for place, x in leaves if jax.dtypes.issubdtype(x.dtype, np.inexact))
    return tuple(jax.tree_util.keystr(place) for place, x in floats if not np.isfinite(np.asarray(x, np.float64)).all())
