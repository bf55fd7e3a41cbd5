"""Mean intersection over union of an objective's segmentation logits, over all pixels of the data set.

Logits are upsampled to the masks (bilinear, pixel centres at half coordinates) before the argmax. Label 255 is ignored;
classes that occur in neither labels nor predictions are left out of the mean, and how many were averaged is a result.

Label maps are scored at the size of the model's input, resized by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import IGNORE, count_confusion, iou, resize_scores, segmentation_scores
from spendflops.parts.preprocess import Resize


class SegmentationMIoU(Evaluator):
    """``miou``, ``pixel_accuracy``, ``mean_accuracy``, ``classes`` and the IoU of each class."""

    requires: ClassVar[tuple[str, ...]] = ("seg_logits",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(self):
        self.protocol = "segmentation_miou/1:dataset:absent=skipped:masks=input_size"
        self.primary = "miou"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The whole image and its mask at the model's size."""
        return Resize.of(info=info, spec=spec, read=("image", "mask"), asker="segmentation_miou")

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """The confusion matrix of the batch, in integers."""
        logits, masks = predictions["seg_logits"], batch["mask"]
        classes = resize_scores(logits.astype(jnp.float32), (masks.shape[1], masks.shape[2])).argmax(axis=-1)
        labels = jnp.where(batch["_mask"][:, None, None], masks, IGNORE)
        return {"metrics": count_confusion(labels, classes, logits.shape[-1]), "rows": {}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """Scores in 0..1; ``iou/<class>`` only for classes that occur.

        Raises:
            ConfigError: The model has another number of classes than the data set.
            DataError: No labelled pixel, or labels outside the classes.
        """
        confusion, invalid = np.asarray(merged["eval"]["confusion"], np.int64), int(merged["eval"]["invalid"])
        names = info.mask_classes or tuple(str(i) for i in range(len(confusion)))
        if len(names) != len(confusion):
            raise ConfigError(
                f"the model segments {len(confusion)} classes, {info.name} has {len(names)}",
                fix="evaluate on the data set that the head was trained for",
            )
        if invalid or not confusion.sum():
            raise DataError(
                f"{info.name}: {invalid} pixels have a label outside the {len(confusion)} classes"
                if invalid
                else f"no pixel of {info.name} has a label",
                why=f"labels are 0..{len(confusion) - 1}, and {IGNORE} for ignored pixels",
                fix="map the labels where the data set is read",
            )
        classes = {f"iou/{n}": float(v) for n, v in zip(names, iou(confusion), strict=True) if np.isfinite(v)}
        return segmentation_scores(confusion) | classes
