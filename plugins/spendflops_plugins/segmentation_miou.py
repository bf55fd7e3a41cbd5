"""Mean intersection over union of an objective's segmentation logits, over all pixels of the data set.

Logits are upsampled to the masks (bilinear, pixel centres at half coordinates) before the argmax. Label 255 is ignored;
classes that occur in neither labels nor predictions are left out of the mean, and how many were averaged is a result.
ViNy (arXiv:2512.03862) averages scores of single images instead, and counts an absent class as 0: ``average="image"``,
``absent="zero"``.

Label maps are scored at the size of the model's input, resized by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import IGNORE, count_confusion, iou, resize_scores, segmentation_scores
from spendflops.parts.preprocess import Resize

AVERAGES, ABSENT = ("dataset", "image"), ("skipped", "zero")


class SegmentationMIoU(Evaluator):
    """``miou``, ``pixel_accuracy``, ``mean_accuracy``, ``classes`` and the IoU of each class.

    Args:
        average: "dataset": one confusion matrix of all pixels. "image": ``miou`` and ``pixel_accuracy`` are means over
            images, the other scores are of all pixels.
        absent: A class in neither labels nor predictions is "skipped" in the mean over classes, or counts as "zero".

    Raises:
        ConfigError: Another word.
    """

    requires: ClassVar[tuple[str, ...]] = ("seg_logits",)
    roles: ClassVar[tuple[str, ...]] = ("eval",)

    def __init__(self, *, average: str = "dataset", absent: str = "skipped"):
        for option, value, known in (("average", average, AVERAGES), ("absent", absent, ABSENT)):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}"
                )
        self.average, self.absent = average, absent
        self.protocol = f"segmentation_miou/1:{average}:absent={absent}:masks=input_size"
        self.primary = "miou"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The whole image and its mask at the model's size."""
        return Resize.of(info=info, spec=spec, read=("image", "mask"), asker="segmentation_miou")

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """The confusion matrix of the batch, in integers."""
        logits, masks = predictions["seg_logits"], batch["mask"]
        classes = resize_scores(logits.astype(jnp.float32), (masks.shape[1], masks.shape[2])).argmax(axis=-1)
        labels = jnp.where(batch["_mask"][:, None, None], masks, IGNORE)
        metrics = count_confusion(labels, classes, logits.shape[-1])
        if self.average == "dataset":
            return {"metrics": metrics, "rows": {}}
        single = jax.vmap(lambda one, other: count_confusion(one, other, logits.shape[-1]))(labels, classes)
        return {"metrics": metrics, "rows": {"confusion": single["confusion"]}}

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
        scores = segmentation_scores(confusion, absent=self.absent)
        if self.average == "image":
            images = [segmentation_scores(one, absent=self.absent) for one in rows["eval"]["confusion"] if one.sum()]
            scores |= {name: float(np.mean([s[name] for s in images])) for name in ("miou", "pixel_accuracy")}
        return scores | classes
