"""Values against annotations: gin would pass ``steps = '5'`` on as a string."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from typing import Any

_UNIONS = (typing.Union, types.UnionType)


class Mismatch(Exception):
    """A value that its annotation does not allow: the innermost of both."""

    def __init__(self, value: Any, hint: Any):
        super().__init__(value, hint)
        self.value, self.hint = value, hint


def conform(value: Any, hint: Any) -> Any:
    """``value``, with whole numbers turned into floats where a float is asked for.

    Annotations that cannot be checked (protocols, type variables) accept everything.

    Raises:
        Mismatch: It does not fit.
    """
    args = typing.get_args(hint)
    base = types.NoneType if hint is None else typing.get_origin(hint) or hint
    if base in _UNIONS:
        return _union(value, hint, args)
    if base is float and type(value) is int:
        return float(value)
    try:
        fits = (
            any(value == arm and type(value) is type(arm) for arm in args)
            if base is typing.Literal
            else not isinstance(base, type)
            or (
                isinstance(value, base)
                and not (base is int and isinstance(value, bool))
                and not (base is collections.abc.Sequence and isinstance(value, str))
            )
        )
    except TypeError:  # A protocol that cannot be checked at run time.
        return value
    if not fits:
        raise Mismatch(value, hint)
    if isinstance(value, tuple) and base is tuple and args:
        arms = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(arms) != len(value):
            raise Mismatch(value, hint)
        return tuple(conform(v, arm) for v, arm in zip(value, arms, strict=True))
    if isinstance(value, (list, tuple)) and len(args) == 1:
        return type(value)(conform(v, args[0]) for v in value)
    if isinstance(value, dict) and len(args) == 2:
        return {conform(k, args[0]): conform(v, args[1]) for k, v in value.items()}
    return value


def _union(value: Any, hint: Any, arms: tuple) -> Any:
    fits = []
    for arm in arms:
        try:
            fits.append(conform(value, arm))
        except Mismatch:
            continue
    if not fits:
        raise Mismatch(value, hint)
    return next((f for f in fits if type(f) is type(value)), fits[0])


def repair(value: Any, hint: Any) -> str:
    """How to write the value so that it fits, or an empty string."""
    arms = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    bases = [typing.get_origin(arm) or arm for arm in arms]
    if tuple in bases:
        return f"write the tuple {tuple(value) if isinstance(value, (list, tuple)) else (value,)!r}"
    if isinstance(value, str) and {int, float, bool} & {b for b in bases if isinstance(b, type)}:
        return f"write {value} without quotes"
    if isinstance(value, float) and int in bases and value.is_integer():
        return f"write {int(value)}"
    if isinstance(value, int) and bool in bases:
        return f"write {bool(value)}"
    return f"write {str(value)!r}, with quotes" if str in bases else ""


def spell(hint: Any) -> str:
    """An annotation as an author writes it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def hints(target: Any) -> dict[str, Any]:
    """The annotations of a constructor's or function's arguments; those that cannot be resolved are left out."""
    plain = inspect.isclass(target) and not hasattr(target, "__dataclass_fields__")
    source = target.__init__ if plain else target
    try:
        return typing.get_type_hints(source)
    except Exception:  # A name that exists for type checkers only: then one by one.
        space, found = dict(vars(sys.modules[source.__module__])), {}
        for name, annotation in inspect.get_annotations(source).items():
            try:
                found[name] = typing.get_type_hints(types.SimpleNamespace(__annotations__={name: annotation}), space)[
                    name
                ]
            except Exception:
                continue
        return found
