"""Layouts: how other people's files name and lay out the weights of a model that can be built here.

A layout is a list of rules. Each says of what tensors of theirs one tensor of ours is made, and is read in both
directions: to import and to export. There is no code for a direction that the other one does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.registry import API_VERSION

BACKBONE = "backbone/"
"""Where the paths of a backbone's parameters begin."""


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout that loses nothing: ``backward`` is the inverse of ``forward``, bit for bit.

    Attributes:
        name: For messages.
        forward: Their tensors -> ours.
        backward: Ours -> theirs, always a tuple.
    """

    name: str
    forward: Callable[..., np.ndarray]
    backward: Callable[[np.ndarray], tuple[np.ndarray, ...]]

    def then(self, after: Transform) -> Transform:
        """This one, and ``after`` on its result."""
        return Transform(
            f"{self.name}, {after.name}",
            lambda *x: after.forward(self.forward(*x)),
            lambda y: self.backward(*after.backward(y)),
        )


AS_IS = Transform("as it is", lambda x: x, lambda x: (x,))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The model that weights are for, built without values.

    Attributes:
        shapes: Of all parameters and statistics, by path.
        model: The objective, with shapes in the place of arrays; its static attributes may be read.
        bare: Whether it is a backbone alone.
    """

    shapes: Mapping[str, tuple[int, ...]]
    model: Any
    bare: bool

    def attribute(self, dotted: str) -> Any:
        """An attribute of the model: ``"backbone.blocks.0.attn.heads"``.

        Raises:
            AttributeError: The model has no such thing.
        """
        value = self.model
        for name in dotted.split("."):
            try:
                value = value[int(name)] if name.isdigit() else getattr(value, name)
            except (IndexError, TypeError) as error:
                raise AttributeError(f"no {name} in {dotted}") from error
        return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """One tensor of ours, or one for each number, and what it is made of.

    Attributes:
        theirs: Keys. ``{i}`` stands for a number, the same in all of them and in ``ours``.
        ours: Path, e.g. ``backbone/blocks/{i}/attn/qkv/kernel``.
        transform: From theirs to ours.
        constant: What the key must hold where the model has no such parameter (a fixed table of positions): it is
            compared, and written on export. None, or a function that gives None, where the model must have it.
        resize: (value, target, name of a rule) -> the value for the target's image size, ValueError where it cannot be;
            None where sizes must agree.
    """

    theirs: tuple[str, ...]
    ours: str
    transform: Transform = AS_IS
    constant: Callable[[Target], np.ndarray | None] | None = None
    resize: Callable[[np.ndarray, Target, str], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Root:
    """A place in a file where the weights of one model are.

    Attributes:
        prefix: Of their keys, with the dot: ``"teacher."``.
        weights: ``"online"`` or ``"teacher"``, where the file says it.
    """

    prefix: str
    weights: str | None = None


class Layout:
    """Names and shapes of one family of files. All is data; an entry point of ``spendflops.layouts`` names the class.

    A nested file is read as one flat dict whose keys are joined by dots: ``model.blocks.0.norm1.weight``.
    """

    api_version: ClassVar[int] = API_VERSION
    title: ClassVar[str]
    """What these files are, for people."""
    rules: ClassVar[tuple[Rule, ...]]
    roots: ClassVar[tuple[Root, ...]] = ()
    """Where the weights are in nested files, the preferred place first; a file without any of them is flat."""
    prefixes: ClassVar[tuple[str, ...]] = ()
    """Taken off at the beginning of all keys of a root, where all have it (``"module."``)."""
    trunk: ClassVar[str] = ""
    """Beginning of the backbone's keys in files that hold more than the backbone; absent in those of a backbone."""
    ignored: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(regular expression of a key, why it is of no use here)."""
    expects: ClassVar[Mapping[str, Any]] = {}
    """Attributes that no tensor shows, as these files need them: ``{"backbone.blocks.0.norm1.eps": 1e-6}``; a value, or
    a function of the target."""

    def config(self, target: Target) -> dict[str, Any]:
        """What the ``config.json`` beside such a file says: written on export, compared on import field by field."""
        return {}
