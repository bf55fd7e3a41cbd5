"""Top-1 and top-5 accuracy of a classifier on a test set that has several labels an image, or other classes.

ImageNet-V2 (arXiv 1902.10811): the same classes, one label. ReaL (arXiv 2006.07159): the same classes, ``labels=
"labels"``; a prediction is right if it is among the labels of the image, and images without one do not count.
ObjectNet and its like: ``class_map`` says which classes of the test a class of the model stands for.

A prediction is a class of the model, and right if it stands for a label of the image; the five of the top-5 are classes
of the model, too. Images none of whose labels a class of the model stands for do not count.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Sample
from spendflops.parts.metrics import PARTS, binomial_spread
from spendflops.parts.preprocess import Resize, resize_id

LABELS, UNMAPPED = ("label", "labels"), ("excluded", "wrong")
WRONG, RIGHT, EXCLUDED = 0, 1, 2
"""What the prediction of a class would be for an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdicts(Resize):
    """The image, and ``verdicts`` uint8 [C]: of each class of the model whether it may be predicted and would be right.

    Attributes:
        stands_for: The classes of the test that each class of the model stands for.
        classes: Of the test.
        unmapped: Verdict on classes that stand for none.
    """

    stands_for: tuple[tuple[int, ...], ...] = ()
    classes: int = 0
    unmapped: int = EXCLUDED

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        return {"image": ("uint8", (*self.size, 3)), "verdicts": ("uint8", (len(self.stands_for),))}

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One example.

        Raises:
            DataError: A label that is none of the test's classes; in ``labels``, -1 is padding.
        """
        labels = np.atleast_1d(np.asarray(sample[self.read[1]], np.int64))
        if self.read[1] == "labels":
            labels = labels[labels != -1]
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            raise DataError(
                f"labels {labels.tolist()} of an image are none of the {self.classes} classes",
                fix="check the split: it must be labelled, with the classes that the data set lists",
            )
        verdicts, right = self._prepared
        verdicts = verdicts.copy()
        for label in labels:
            verdicts[right[label]] = RIGHT
        return {"image": self.image(sample), "verdicts": verdicts}

    @functools.cached_property
    def _prepared(self) -> tuple[np.ndarray, list[list[int]]]:
        """Verdicts of an image without a label, and the classes of the model that are right for each of the test."""
        verdicts = np.array([WRONG if stands else self.unmapped for stands in self.stands_for], np.uint8)
        right: list[list[int]] = [[] for _ in range(self.classes)]
        for own, stands in enumerate(self.stands_for):
            for label in stands:
                right[label].append(own)
        return verdicts, right


class MappedAccuracy(Evaluator):
    """``accuracy`` and ``accuracy_top5``; of equal logits the first counts.

    Args:
        labels: The feature that is read: "label", one a image, or "labels", any number.
        class_map: Rows ``(class of the model, class of the test, ...)``, by index or by name; None where the classes
            are the same. Names of the model's are those of the data that it was trained on.
        unmapped: Classes of the model in no row are "excluded", as if it did not have them, or "wrong".
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.

    Raises:
        ConfigError: An argument outside its range, a row without a class of the test, a class in two rows.
    """

    requires: ClassVar[tuple[str, ...]] = ("logits",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(
        self,
        *,
        labels: str = "label",
        class_map: tuple[tuple[int | str, ...], ...] | None = None,
        unmapped: str = "excluded",
        resize: str = "squash",
        crop_fraction: float = 0.875,
    ):
        for option, value, known in (("labels", labels, LABELS), ("unmapped", unmapped, UNMAPPED)):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}"
                )
        rows = None if class_map is None else tuple(tuple(row) for row in class_map)
        if rows is not None and (not rows or min(len(row) for row in rows) < 2):
            raise ConfigError(
                "class_map has a row without a class of the test" if rows else "class_map has no row",
                fix="rows are (class of the model, class of the test, ...); None where the classes are the same",
            )
        self._labels, self._rows, self._unmapped = labels, rows, unmapped
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        self.maps_classes = rows is not None
        """Whether the classes of the test may be others than the model's."""
        mapped = "same" if rows is None else f"{zlib.crc32(repr(sorted(rows, key=repr)).encode()):08x}:{unmapped}"
        self.protocol = f"mapped_accuracy/1:{labels}:map={mapped}:{resize_id(resize, crop_fraction)}"
        self.primary = "accuracy"
        self.spread = f"{PARTS} equal parts of the test images, binomial"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Verdicts:
        """The image at the model's size, and which classes are right.

        Raises:
            ConfigError: Names or indices that are no classes, a model or a data set without a list of classes.
        """
        names = info.label_names if self._labels == "labels" and info.label_names else info.classes
        return Verdicts.of(
            info=info,
            spec=spec,
            read=("image", self._labels),
            asker="mapped_accuracy",
            stands_for=self._stands_for(names, info, spec),
            classes=len(names),
            unmapped=EXCLUDED if self._unmapped == "excluded" else WRONG,
            **self._resize,
        )

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Counts of the batch.

        Raises:
            ConfigError: The model has another number of classes.
        """
        logits, verdicts = predictions["logits"].astype(jnp.float32), batch["verdicts"]
        if logits.shape != verdicts.shape:
            raise ConfigError(
                f"mapped_accuracy: the model has {logits.shape[-1]} logits for {verdicts.shape[-1]} classes",
                fix="give a class_map from the classes that the model was trained with",
            )
        counts = batch["_mask"] & (verdicts == RIGHT).any(axis=-1)
        before = rank_of_best(logits, verdicts)
        seen = counts & ~jnp.isnan(logits).any(axis=-1)
        sums = {"correct": seen & (before == 0), "top5": seen & (before < 5), "count": counts, "all": batch["_mask"]}
        return {"metrics": {name: each.sum(dtype=jnp.int32) for name, each in sums.items()}, "rows": {}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` and ``accuracy_top5`` in 0..1, the binomial ``accuracy_sd`` over ``accuracy_n`` parts, counts.

        ``examples`` are those that count, ``left_out`` those without a label that the model has a class for.

        Raises:
            DataError: No example counts.
        """
        sums = {name: int(value) for name, value in merged["eval"].items()}
        count = sums["count"]
        if count == 0:
            raise DataError(
                f"none of {sums['all']} examples of {info.name} was scored",
                why="none has a label that a class of the model stands for",
                fix="check the split of the evaluation and class_map",
            )
        accuracy = sums["correct"] / count
        return {
            "accuracy": accuracy,
            "accuracy_sd": binomial_spread(accuracy, count),
            "accuracy_n": PARTS,
            "accuracy_top5": sums["top5"] / count,
            "examples": count,
            "left_out": sums["all"] - count,
        }

    def _stands_for(self, names: Sequence[str], info: DatasetInfo, spec: InputSpec) -> tuple[tuple[int, ...], ...]:
        if not names:
            raise ConfigError(f"mapped_accuracy: {info.name} has no list of classes", fix="use a data set that has one")
        if self._rows is None:
            return tuple((label,) for label in range(len(names)))
        if not spec.classes:
            raise ConfigError(
                "mapped_accuracy has a class_map, and the model was trained on data without a list of classes",
                fix="score a stage that trained on classes",
            )
        words = info.class_names if names is info.classes else ()
        made: list[tuple[int, ...]] = [()] * len(spec.classes)
        for row in self._rows:
            own = _index(row[0], spec.classes, (), "the model")
            if made[own]:
                raise ConfigError(f"class_map has two rows of {row[0]!r}", fix="one row a class of the model")
            made[own] = tuple(_index(each, names, words, info.name) for each in row[1:])
        return tuple(made)


def rank_of_best(logits: Float[Array, "B C"], verdicts: Int[Array, "B C"]) -> Int[Array, " B"]:
    """How many classes that may be predicted come before the first right one; of equal logits the first comes first."""
    right = jnp.where(verdicts == RIGHT, logits, -jnp.inf)
    best, at = right.max(axis=-1, keepdims=True), right.argmax(axis=-1)[:, None]
    before = (logits > best) | ((logits == best) & (jnp.arange(logits.shape[-1]) < at))
    return (before & (verdicts != EXCLUDED)).sum(axis=-1, dtype=jnp.int32)


def _index(key: int | str, names: Sequence[str], words: Sequence[str], whose: str) -> int:
    """The index of a class given by index, by name, or by the words for it where these are not shared."""
    if isinstance(key, int):
        if 0 <= key < len(names):
            return key
        raise ConfigError(f"class_map: {whose} has {len(names)} classes, there is no {key}", fix="classes count from 0")
    for known in (names, words):
        if list(known).count(key) == 1:
            return list(known).index(key)
    shared = key in names or key in words
    raise ConfigError(
        f"class_map: {key!r} is {'several classes' if shared else 'no class'} of {whose}"
        f"{'' if shared else suggest(key, [*names, *words])}",
        fix="give the class by its index" if shared else "give its name or its index",
    )
