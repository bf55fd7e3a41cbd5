"""Modules <-> state: the only place (with ``step``) that splits and merges modules.

A state is nested dicts with string keys: ``{"step", "params", "stats", "ema", "opt"}``. A parameter's path is its keys
joined by ``/``: ``backbone/blocks/0/attn/qkv/kernel``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from spendflops.contracts import errors
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.objective import Objective
from spendflops.contracts.types import DatasetInfo

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Definition:
    """A module without its values: what is needed to make one again.

    Attributes:
        graph: Flax's static description.
        init: Key -> (params, stats), pure: may run under ``jit`` or ``eval_shape``.
        params, stats: Shapes and dtypes.
        example: A module that holds shapes only; its static attributes may be read.
    """

    graph: Any
    init: Callable[[jax.Array], tuple[Tree, Tree]]
    params: Tree
    stats: Tree
    example: Objective

    def merge(self, params: Tree, stats: Tree) -> Objective:
        """A module with these values."""
        return nnx.merge(self.graph, _from_strings(params), _from_strings(stats))

    def params_of(self, module: Objective) -> Tree:
        """The values of a module's parameters."""
        _, params, _ = nnx.split(module, nnx.Param, ...)
        return _to_strings(nnx.to_pure_dict(params))

    def stats_of(self, module: Objective) -> Tree:
        """The values of a module's non-gradient state."""
        _, _, stats = nnx.split(module, nnx.Param, ...)
        return _to_strings(nnx.to_pure_dict(stats))


def define(backbone: Callable[..., Backbone], objective: Callable[..., Objective], *, info: DatasetInfo) -> Definition:
    """Builds an objective on a backbone without allocating anything.

    Args:
        backbone, objective: Factories, classes with their options bound.
        info: The data set that the objective trains on.
    """
    kept: dict[str, Any] = {}

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        trunk = backbone(rngs=_rngs(jax.random.fold_in(key, 0)))
        module = objective(trunk, info=info, rngs=_rngs(jax.random.fold_in(key, 1)))
        graph, params, stats = nnx.split(module, nnx.Param, ...)
        # The graph holds no arrays: it is the same whatever the key.
        kept["graph"] = graph
        return _to_strings(nnx.to_pure_dict(params)), _to_strings(nnx.to_pure_dict(stats))

    params, stats = jax.eval_shape(init, jax.ShapeDtypeStruct((), jax.random.key(0).dtype))
    example = nnx.merge(kept["graph"], _from_strings(params), _from_strings(stats))
    _check_stats(stats)
    return Definition(graph=kept["graph"], init=init, params=params, stats=stats, example=example)


class _Stream(nnx.RngStream):
    """Flax's keys, counted in Python.

    Flax looks at its own count, an array, at every key; while it is traced, that takes longer the more was traced
    before: 0.9 s for a ViT-L, where this takes 0.1 s.
    """

    def __call__(self) -> jax.Array:
        self.drawn = getattr(self, "drawn", -1) + 1
        return jax.random.fold_in(self.key[...], self.drawn)


def _rngs(key: jax.Array) -> nnx.Rngs:
    rngs = nnx.Rngs(key)
    rngs.default = _Stream(key, tag="default")
    return rngs


def _check_stats(stats: Tree) -> None:
    random = [p for p in flatten(stats) if p.endswith(("/count", "/key")) and "rngs" in p]
    if random:
        raise errors.PluginError(
            f"the module keeps a random state ({random[0]})",
            why="results would depend on the history of calls",
            fix="take keys from ctx.fork(name) instead of a stateful Rngs or Dropout(rngs=...)",
        )


def _to_strings(tree: Any) -> Any:
    # Module lists give integer keys, which a checkpoint gives back as strings: they are strings from the start.
    return {str(k): _to_strings(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _from_strings(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {int(k) if k.isdigit() else k: _from_strings(v) for k, v in tree.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": x}}`` to ``{"a/b": x}``, in sorted order."""
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        path = f"{prefix}{key}"
        if isinstance(tree[key], Mapping):
            flat |= flatten(tree[key], f"{path}/")
        else:
            flat[path] = tree[key]
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of :func:`flatten`."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = functools.reduce(lambda n, k: n.setdefault(k, {}), parents, tree)
        node[last] = value
    return tree


def teacher_of(objective: Objective, params: Tree) -> Tree:
    """The parameters that have an EMA copy."""
    missing = [name for name in objective.teacher if name not in params]
    if missing:
        raise errors.PluginError(
            f"{type(objective).__name__}.teacher names {missing[0]!r}", why=f"its submodules are {', '.join(params)}"
        )
    return {name: params[name] for name in objective.teacher}


def create(definition: Definition, optimizer: Any, key: jax.Array) -> Tree:
    """The state at step 0. Pure: may run under ``jit`` with output shardings."""
    params, stats = definition.init(key)
    independent = definition.example.teacher_init == "independent"
    # Another key than any that init derives from this one.
    start = definition.init(jax.random.fold_in(key, 2))[0] if independent else params
    return begin(definition, optimizer, params, stats, start)


def begin(definition: Definition, optimizer: Any, params: Tree, stats: Tree, start: Tree) -> Tree:
    """The state at step 0 of a model with these values; the copies of a teacher begin as those in ``start``."""
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "stats": stats,
        "ema": copies(definition, start),
        "opt": optimizer.init(params, definition.example),
    }


def transferred(definition: Definition, state: Tree, weights: str | None = None) -> tuple[Tree, Tree]:
    """The parameters and statistics that go to later stages and evaluators; ``weights`` as in :func:`chosen`."""
    ema = state["ema"] if chosen(definition, weights) == "teacher" else {}
    return {**state["params"], **ema}, state["stats"]


def chosen(definition: Definition, weights: str | None) -> str:
    """``"online"`` or ``"teacher"``; None is the method's own choice.

    Raises:
        errors.ConfigError: Another word, or the teacher of a method without one.
    """
    choice = weights or definition.example.transfer
    if choice not in ("online", "teacher"):
        raise errors.ConfigError(f"weights must be 'online' or 'teacher', not {choice!r}")
    if choice == "teacher" and not definition.example.teacher:
        raise errors.ConfigError("weights = 'teacher'", why=f"{type(definition.example).__name__} has no teacher")
    return choice


def inherit(
    definition: Definition, state: Tree, source: tuple[Tree, Tree], *, select: str, allow: tuple[str, ...] = ()
) -> tuple[Tree, list[str]]:
    """A state at step 0 that starts from the (parameters, statistics) of another model; see :func:`transplant`.

    Statistics go along with parameters, and the EMA copies start from the parameters that were taken.
    """
    resample = definition.example.backbone.resampled
    given = (state["params"], state["stats"])
    new, lines = transplant(given, source, select=select, allow=allow, resample=resample)
    params, stats = (unflatten({path: new[path] for path in flatten(state[kind])}) for kind in ("params", "stats"))
    return {**state, "params": params, "stats": stats, "ema": copies(definition, params)}, lines


def copies(definition: Definition, params: Tree) -> Tree:
    """EMA copies that start at ``params``, in float32: in bfloat16 they would stand still."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), teacher_of(definition.example, params))


def transplant(
    target: tuple[Tree, Tree], source: tuple[Tree, Tree], *, select: str, allow: tuple[str, ...] = (),
    resample: Callable[[str, Any], Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Copies what in ``source`` has a path that matches over what ``target`` has there. Works on shapes alone, too.

    Args:
        target: Parameters and statistics of the new stage.
        source: Those of the stage before.
        select: Regular expression over paths, matched in full. Every target path that matches must be found.
        allow: Regular expressions of target paths that may be missing in the source or have another shape.
        resample: ``Backbone.resampled``, tried on tensors of the backbone whose shapes differ.

    Returns:
        Everything of the target by path, and a line for each path: taken, resampled, left, or not used.

    Raises:
        errors.ConfigError: A selected path is missing or has another shape and no exception lists it.
    """
    new, old = (flatten(params) | flatten(stats) for params, stats in (target, source))
    wanted = [p for p in new if re.fullmatch(select, p)]
    if not wanted:
        raise errors.ConfigError(
            f"init from an earlier stage selects nothing: {select!r}",
            why=f"the parameters are {', '.join(list(new)[:5])}, ...",
            fix="a regular expression over whole paths, e.g. 'backbone/.*'",
        )
    lines, bad = [], []
    for path in wanted:
        if path in old and old[path].shape == new[path].shape:
            new[path] = old[path]
            lines.append(f"taken     {path} {tuple(old[path].shape)}")
            continue
        changed = None if resample is None or path not in old else _resampled(resample, path, old[path])
        if changed is not None and changed.shape == new[path].shape:
            new[path] = changed
            lines.append(f"resampled {path} {tuple(old[path].shape)} to {tuple(changed.shape)}")
            continue
        reason = "absent in the source" if path not in old else f"{tuple(old[path].shape)} there"
        if any(re.fullmatch(a, path) for a in allow):
            lines.append(f"left new  {path} {tuple(new[path].shape)}: {reason}")
        else:
            bad.append(f"{path} {tuple(new[path].shape)}: {reason}")
    if bad:
        raise errors.ConfigError(
            f"{len(bad)} of {len(wanted)} tensors cannot be taken from the earlier stage",
            why="; ".join(bad[:4]) + ("; ..." if len(bad) > 4 else ""),
            fix="use the same backbone in both stages, or list the exceptions in InitFrom.allow",
        )
    lines += [f"not used  {path} {tuple(old[path].shape)}" for path in old if path not in wanted]
    return new, lines


def _resampled(resample: Callable[[str, Any], Any], path: str, value: Any) -> Any:
    owner, _, name = path.partition("/")
    if owner != "backbone":
        return None
    if not hasattr(value, "__array__"):
        # Shapes alone: of a stage that is planned, or of a file that is not read.
        return jax.eval_shape(lambda x: resample(name, x), jax.ShapeDtypeStruct(value.shape, value.dtype))
    return resample(name, jnp.asarray(value))
