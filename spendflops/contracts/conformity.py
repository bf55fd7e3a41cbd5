"""The part of a contract that can be read off a class: checked when it is loaded, before anything compiles."""

from __future__ import annotations

import inspect
from typing import Any

from spendflops.contracts import errors

REQUIRED = {
    "backbones": ("__call__", "normalise"),
    "objectives": ("inputs", "loss", "views", "predict"),
    "datasets": ("info", "source"),
    "evaluators": ("requires", "roles", "protocol", "primary", "preprocess", "step", "result"),
    "launchers": ("launch",),
    "layouts": ("title", "rules"),
}
GIVEN = {
    "backbones": ("rngs",),
    "objectives": ("backbone", "info", "rngs"),
    "datasets": (),
    "evaluators": (),
    "launchers": (),
    "layouts": (),
}
"""Constructor arguments that the core gives; all others are the plugin's own options, bound by gin."""


def constructor(cls: Any) -> inspect.Signature:
    """The signature of ``__init__`` without ``self``: nnx's metaclass shows ``*args, **kwargs`` for every module."""
    if inspect.isclass(cls) and cls.__init__ is object.__init__:
        return inspect.Signature()
    if not inspect.isclass(cls) or type(cls).__call__ is type.__call__:
        return inspect.signature(cls)
    signature = inspect.signature(cls.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def options(group: str, cls: type) -> dict[str, inspect.Parameter]:
    """The plugin's own constructor options by name."""
    parameters = constructor(cls).parameters
    return {name: p for name, p in parameters.items() if name not in GIVEN[group]}


def check_signature(group: str, name: str, cls: type) -> None:
    """Raises a PluginError where a class cannot be the plugin that it says it is."""
    place = f"{getattr(cls, '__module__', type(cls).__name__)}:{getattr(cls, '__qualname__', cls)}"
    where = f"{group.rstrip('s')} {name!r} ({place})"
    if not inspect.isclass(cls):
        raise errors.PluginError(f"{where} is not a class", fix="point the entry point at the class")
    missing = [member for member in REQUIRED[group] if not _has(cls, member)]
    if missing:
        raise errors.PluginError(f"{where} lacks {', '.join(missing)}", why="the contract asks for it")
    parameters = constructor(cls).parameters
    loose = [p for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if loose:
        raise errors.PluginError(
            f"{where} takes {loose[0]}",
            why="with a catch-all argument a misspelt gin binding would be accepted in silence",
            fix="list every option as an explicit keyword argument",
        )
    absent = [given for given in GIVEN[group] if given not in parameters]
    if absent:
        raise errors.PluginError(f"{where} does not take {', '.join(absent)}", why="the core gives it to __init__")


def _has(cls: type, member: str) -> bool:
    if member in ("info", "inputs", "requires", "roles", "protocol", "primary"):
        # Data members may be set per instance: then the annotation on the base class is enough here.
        return hasattr(cls, member) or any(member in getattr(c, "__annotations__", {}) for c in cls.__mro__)
    return hasattr(cls, member) if member in ("title", "rules") else callable(getattr(cls, member, None))
