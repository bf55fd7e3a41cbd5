"""Values against annotations: gin would pass ``steps = '5'`` on as a string."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from typing import Any


class Mismatch(Exception):
    """A value that its annotation does not allow; the argument is the value that does not fit, and the annotation."""

    def __init__(self, value: Any, hint: Any):
        super().__init__(value, hint)
        self.value, self.hint = value, hint


def conform(value: Any, hint: Any) -> Any:
    """``value``, with whole numbers turned into floats where a float is asked for.

    Annotations that cannot be checked (protocols, type variables) accept everything.

    Raises:
        Mismatch: It does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(value, hint, args)
    if origin is typing.Annotated:
        return conform(value, args[0])
    if origin is typing.Literal:
        return _accept(value, hint, any(value == arm and type(value) is type(arm) for arm in args))
    if hint is None or hint is type(None):
        return _accept(value, hint, value is None)
    if hint is float:
        _accept(value, hint, isinstance(value, (int, float)) and not isinstance(value, bool))
        return float(value)
    if hint is int:
        return _accept(value, hint, isinstance(value, int) and not isinstance(value, bool))
    base = origin or hint
    if base is tuple:
        return _tuple(value, hint, args)
    if base is collections.abc.Callable:
        return _accept(value, hint, callable(value))
    if base in (list, collections.abc.Sequence, set, frozenset):
        _accept(value, hint, not isinstance(value, str) and isinstance(value, base))
        return type(value)(conform(v, args[0]) for v in value) if args else value
    if isinstance(base, type) and issubclass(base, collections.abc.Mapping):
        _accept(value, hint, isinstance(value, base))
        return {conform(k, args[0]): conform(v, args[1]) for k, v in value.items()} if len(args) == 2 else value
    if isinstance(base, type):
        try:
            return _accept(value, hint, isinstance(value, base))
        except TypeError:
            return value  # A protocol that cannot be checked at run time.
    return value


def _accept(value: Any, hint: Any, fits: bool) -> Any:
    if not fits:
        raise Mismatch(value, hint)
    return value


def _tuple(value: Any, hint: Any, args: tuple) -> tuple:
    _accept(value, hint, isinstance(value, tuple))
    if not args:
        return value
    if args[-1] is Ellipsis:
        return tuple(conform(v, args[0]) for v in value)
    _accept(value, hint, len(value) == len(args))
    return tuple(conform(v, arm) for v, arm in zip(value, args, strict=True))


def _union(value: Any, hint: Any, args: tuple) -> Any:
    fits = []
    for arm in args:
        try:
            fits.append(conform(value, arm))
        except Mismatch:
            continue
    if not fits:
        raise Mismatch(value, hint)
    return next((f for f in fits if type(f) is type(value)), fits[0])


def repair(value: Any, hint: Any) -> str:
    """How to write the value so that it fits, or an empty string."""
    arms = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    bases = [typing.get_origin(arm) or arm for arm in arms]
    if isinstance(value, list) and tuple in bases:
        return f"write a tuple, {tuple(value)!r}"
    if tuple in bases:
        return f"a tuple of one has a comma: ({value!r},)"
    if isinstance(value, str) and any(b in (int, float, bool) for b in bases):
        return f"write {value} without quotes"
    if isinstance(value, float) and int in bases and value.is_integer():
        return f"write {int(value)}"
    if isinstance(value, int) and bool in bases:
        return f"write {bool(value)}"
    if str in bases:
        return f"write {str(value)!r}, with quotes"
    return ""


def spell(hint: Any) -> str:
    """An annotation as an author writes it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def hints(target: Any) -> dict[str, Any]:
    """The annotations of a constructor's or function's arguments; those that cannot be resolved are left out."""
    source = target
    if inspect.isclass(target) and not hasattr(target, "__dataclass_fields__"):
        source = target.__init__
    try:
        return typing.get_type_hints(source)
    except Exception:  # A name that exists for type checkers only: then one by one.
        space = vars(sys.modules.get(getattr(source, "__module__", ""), types))
        found = {}
        for name, annotation in inspect.get_annotations(source).items():
            try:
                found[name] = eval(annotation, dict(space)) if isinstance(annotation, str) else annotation
            except Exception:
                continue
        return found
