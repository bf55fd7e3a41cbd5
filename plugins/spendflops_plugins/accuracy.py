"""Top-1 accuracy of an objective's class logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import PARTS, binomial_spread, count_correct
from spendflops.parts.preprocess import Resize, resize_id


class Accuracy(Evaluator):
    """``accuracy``: the part of the examples whose largest logit is at the label; of equal logits the first counts.

    Args:
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.

    Raises:
        ConfigError: An argument outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("logits",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(self, *, resize: str = "squash", crop_fraction: float = 0.875):
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        self.protocol = f"accuracy/1:top1:{resize_id(resize, crop_fraction)}"
        self.primary = "accuracy"
        self.spread = f"{PARTS} equal parts of the test images, binomial"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size, and its label."""
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="accuracy", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Counts of the batch."""
        return {"metrics": count_correct(predictions["logits"], batch["label"], batch["_mask"]), "rows": {}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` in 0..1, its binomial ``accuracy_sd`` over ``accuracy_n`` parts of the test, and ``examples``.

        Raises:
            DataError: No examples, or labels that are none of the model's classes.
        """
        correct, count, invalid = (int(merged["eval"][name]) for name in ("correct", "count", "invalid"))
        if count == 0:
            raise DataError(f"no example of {info.name} was scored", fix="check the split of the evaluation")
        if invalid:
            raise DataError(
                f"{invalid} of {count} labels of {info.name} are none of the model's classes",
                why="the model was built for another set of classes, or examples have no label",
                fix="evaluate on the data set whose classes the model has",
            )
        deviation = binomial_spread(correct / count, count)
        return {"accuracy": correct / count, "accuracy_sd": deviation, "accuracy_n": PARTS, "examples": count}
