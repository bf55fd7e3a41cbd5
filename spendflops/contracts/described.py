"""Objects that remember the options they were made with, so that a run can write down its data sets and evaluators."""

from __future__ import annotations

import inspect
from typing import Any


class Described:
    """Base of :class:`Dataset` and :class:`Evaluator`: ``described`` holds the constructor's arguments by name.

    Authors do nothing for it. Classes that build an instance without its constructor have no ``described``.
    """

    described: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        own = inspect.signature(cls) if cls.__init__ is not object.__init__ else inspect.Signature()
        try:
            bound = own.bind(*args, **kwargs)
        except TypeError:
            return self  # __init__ says it better; unpickling comes by here, too, and restores ``described`` itself.
        bound.apply_defaults()
        object.__setattr__(self, "described", dict(bound.arguments))
        return self
