"""What a recipe is made of, as canonical JSON: stored with every run, and what the id of a run is a hash of.

Works on any object of a recipe, built by gin or in Python. Options that were left out appear with their defaults, so
that a run says what it used, and spelling a default out does not change its id. A field that changes no result has
``metadata={"described": False}`` and is left out.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import os
import sys
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from spendflops.contracts import conformity, errors, registry

CORE = "spendflops."
NAME = "@"
"""The key under which an object's JSON holds the name of its class."""


def describe(value: Any) -> Any:
    """Plain JSON: numbers, strings, lists, and objects with the name of their class under ``"@"``.

    A plugin is named by its selector (``objectives.mae``), a class of the core by its name, all else ``module:name``.

    Raises:
        errors.ConfigError: An object that does not say what it was made with.
    """
    return _describe(value, _selectors(), "the recipe")


def canonical(described: Any) -> str:
    """The one spelling of a description: sorted keys, no spaces."""
    return json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Hex SHA-256 of the description of ``value``."""
    return hashlib.sha256(canonical(describe(value)).encode()).hexdigest()


def _describe(value: Any, names: Mapping[Any, str], where: str) -> Any:
    if isinstance(value, enum.Enum):
        return {NAME: names.get(type(value)) or _name(type(value)), "value": value.name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {NAME: "float", "value": str(value)}
    if isinstance(value, np.generic):
        return _describe(value.item(), names, where)
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {NAME: "array", "dtype": value.dtype.name, "shape": list(value.shape), "sha256": content}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type) and hasattr(value, "api_version"):
        value = functools.partial(value)  # A plugin's class stands for itself with its defaults.
    if isinstance(value, functools.partial):
        return _object(value.func, _bound(value, where), names, where)
    if isinstance(getattr(value, "described", None), dict):
        return _object(type(value), value.described, names, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = (f.name for f in dataclasses.fields(value) if f.metadata.get("described", True))
        fields = {name: getattr(value, name) for name in told}
        return _object(type(value), fields, names, where)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise errors.ConfigError(f"{where} has a dict with keys that are not strings")
        return {key: _describe(value[key], names, f"{where}[{key!r}]") for key in sorted(value)}
    if isinstance(value, Set):
        return sorted((_describe(v, names, where) for v in value), key=canonical)
    if isinstance(value, (list, tuple, collections.deque)):
        return [_describe(v, names, f"{where}[{i}]") for i, v in enumerate(value)]
    # A lambda, a function inside another and a bound method have no name that tells them from others of their kind.
    if isinstance(value, type) or (inspect.isroutine(value) and "<" not in value.__qualname__ and not _bound_to(value)):
        return names.get(value) or _name(value)
    raise errors.ConfigError(
        f"{where} cannot be written down: a {type(value).__name__} does not say what it was made with",
        fix="make its class a dataclass; a function must stand in a module, under its name",
    )


def _object(cls: Any, options: Mapping[str, Any], names: Mapping[Any, str], where: str) -> dict[str, Any]:
    inner = {key: _describe(options[key], names, f"{where}.{key}") for key in sorted(options)}
    return {NAME: names.get(cls) or _name(cls), **inner}


def _bound(value: functools.partial, where: str) -> dict[str, Any]:
    """The options of a partial by name, defaults among them; what the core gives has no default and is left out."""
    signature = conformity.constructor(value.func)
    try:
        bound = signature.bind_partial(*value.args, **value.keywords)
    except TypeError as error:
        raise errors.ConfigError(f"{where}: {_name(value.func)} does not take these options", why=str(error)) from error
    bound.apply_defaults()
    return dict(bound.arguments)


def _bound_to(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    return owner is not None and not inspect.ismodule(owner)


def _selectors() -> dict[Any, str]:
    """The plugin classes that are loaded, by class: nothing is imported to find them."""
    names: dict[Any, str] = {}
    for entry in registry.entries():
        module, _, attribute = entry.value.partition(":")
        target: Any = sys.modules.get(module)
        for part in attribute.split("."):
            target = getattr(target, part, None)
        if target is None:
            continue
        names.setdefault(target, entry.selector)
        views = getattr(target, "views", None) if entry.group == "objectives" else None
        if isinstance(views, type):
            names.setdefault(views, f"{entry.selector}.views")
    return names


def _name(target: Any) -> str:
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", repr(target))
    return name if module.startswith(CORE) else f"{module}:{name}"
