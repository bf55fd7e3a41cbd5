"""What must agree before anything runs: the shapes of what a stage starts from, and what numbers of classes mean.

A label is a number: it means the same class only where the classes are the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spendflops.contracts import errors
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.bare import UNKNOWN
from spendflops.engine.recipe import Evaluation, InitFrom, Stage
from spendflops.engine.state import Definition, flatten, transplant

NAMES = {
    "logits": ("classes", ("label", "labels")),
    "seg_logits": ("mask_classes", ("mask",)),
    "box_labels": ("box_classes", ("box_labels",)),
}
"""Output -> the field of ``DatasetInfo`` that names what it tells apart, and the features that number these."""


def check_classes(evaluation: Evaluation, stage: Stage, made: Mapping[str, Preprocess]) -> None:
    """Looks whether all data of an evaluation, and the model, number the same classes in the same order.

    Args:
        evaluation: What is scored.
        stage: The one that trains the model.
        made: The preprocessing of each role, which says what is read there.

    Raises:
        errors.DataError: Other classes, or another order.
    """
    for output, (kind, features) in NAMES.items():
        classes = {
            f"{dataset.info.name} ({role})": _named(dataset.info, kind)
            for role, (dataset, _) in evaluation.data.items()
            if set(features) & set(made[role].features)
        }
        if output in evaluation.evaluator.requires and not evaluation.evaluator.maps_classes:
            classes[f"{stage.dataset.info.name} (stage {stage.label!r})"] = _named(stage.dataset.info, kind)
        known = [(where, names) for where, names in classes.items() if names]
        for where, names in known[1:]:
            if names != known[0][1]:
                raise errors.DataError(
                    f"evaluation {evaluation.label!r}: {known[0][0]} and {where} have different classes",
                    why=_odd(known[0][1], names),
                    fix=f"use data with the same classes; for a folder, list them: datasets.folder.{kind} = ('a', 'b')",
                )


def check_init(target: Definition, source: tuple[Any, Any], *, select: str, allow: tuple[str, ...] = ()) -> list[str]:
    """The paths that a model takes of the (parameters, statistics) of another, by their shapes.

    Raises:
        errors.ConfigError: It cannot start from them.
    """
    given, resample = (target.params, target.stats), target.example.backbone.resampled
    _, lines = transplant(given, source, select=select, allow=allow, resample=resample)
    return [line.split()[1] for line in lines if line.startswith("taken")]


def check_start(stage: Stage, target: Definition, source: tuple[Any, Any], info: DatasetInfo, init: InitFrom) -> None:
    """Looks whether a stage can start from a model: whether shapes fit, and a head means the same classes.

    Args:
        stage, target: What starts.
        source: Parameters and statistics, or their shapes.
        info: The data that they were trained for.
        init: What is taken.

    Raises:
        errors.ConfigError: Shapes do not fit.
        errors.DataError: A head of other classes, or of the same in another order.
    """
    taken = check_init(target, source, select=init.select, allow=init.allow)
    shapes = flatten(target.params) | flatten(target.stats)
    for output, (kind, _) in NAMES.items():
        own, theirs = _named(stage.dataset.info, kind), _named(info, kind)
        heads = [p for p in taken if not p.startswith("backbone/") and shapes[p].shape[-1:] == (len(own),)]
        known = own and theirs and info.name != UNKNOWN
        if known and own != theirs and heads and output in target.example.outputs:
            raise errors.DataError(
                f"stage {stage.label!r} takes {heads[0]} of {init.source}, which is for other classes",
                why=f"{stage.dataset.info.name} and {info.name}: {_odd(own, theirs)}",
                fix="leave the head out: InitFrom.select = 'backbone/.*'; or use data with the same classes",
            )


def _named(info: DatasetInfo, kind: str) -> tuple[str, ...]:
    """The names of that kind; boxes may be of the classes of images."""
    return tuple(getattr(info, kind) or (info.classes if kind == "box_classes" else ()))


def _odd(one: Sequence[str], other: Sequence[str]) -> str:
    """How two lists of classes differ."""
    odd = [name for name in (*one, *other) if (name in one) != (name in other)]
    return f"only one of them has {', '.join(odd[:5])}" if odd else "their order differs"
