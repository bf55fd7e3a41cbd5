"""What detections are compared with: the whole image on the model's canvas, its objects as they are stored.

The image is resized so that it just fits, its sides in their ratio, and lies in the top left corner of a canvas of mean
colour: nothing is cropped. This is how ViTDet is scored (detectron2's ResizeShortestEdge with both lengths the model's
size). Objects are in pixels of the stored image and never leave the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import DatasetInfo, InputSpec, Sample
from spendflops.parts.images import resize
from spendflops.parts.windows import mean_canvas

Runs = dict[str, Any]
"""A mask as COCO's compressed run lengths, ``{"size": [H, W], "counts": bytes}``."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """An image and the objects in it, in pixels of the stored image.

    Attributes:
        size: Height and width.
        fitted: Height and width on the canvas.
        boxes: (left, top, right, bottom).
        labels: Classes of the boxes.
        area: Square pixels: the data set's, else of the mask, else of the box.
        crowd: Boxes around many: detections in them are neither right nor wrong.
        masks: Of the objects; empty where masks are not scored.
        image_id: The data set's, where it has one.
        negative: Classes that are known not to be in the image, where not all classes were looked for.
        open: Classes of which not all objects are marked.
    """

    size: tuple[int, int]
    fitted: tuple[int, int]
    boxes: Float64[np.ndarray, "M 4"]
    labels: Int64[np.ndarray, " M"]
    area: Float64[np.ndarray, " M"]
    crowd: Bool[np.ndarray, " M"]
    masks: tuple[Runs, ...] = ()
    image_id: int | None = None
    negative: tuple[int, ...] = ()
    open: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(Preprocess):
    """The image on the canvas, and on the host its :class:`Truth`.

    Gives ``image`` uint8 [H W 3] and ``extent`` int32 [2], height and width of the image on it.

    Attributes:
        size: Height and width of the canvas.
        mean: Of the model's normalisation, on the scale 0..1.
        read: The features of the data set that are read.
        masks: Whether masks are scored.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    read: tuple[str, ...]
    masks: bool

    @classmethod
    def of(cls, *, info: DatasetInfo, spec: InputSpec, masks: bool, federated: bool, asker: str) -> Fit:
        """For a data set and a model.

        Args:
            info: Of the data.
            spec: Of the model.
            masks: Whether masks are scored.
            federated: Whether the data must say which classes an image was searched for.
            asker: Who asks, for the error.

        Raises:
            ConfigError: The data set lacks a feature.
        """
        needed = ["image", "boxes", "box_labels"]
        needed += ["instance_masks"] * masks + ["neg_labels", "open_labels"] * federated
        if missing := [name for name in needed if name not in info.features]:
            raise ConfigError(
                f"{asker} needs {' and '.join(missing)}",
                why=f"data set {info.name} has {', '.join(info.features)}",
                fix="choose another data set for it, or another evaluator",
            )
        useful = ["crowd", "area", "image_id"]
        if "area" not in info.features:
            useful.append("instance_masks")
        read = (*needed, *(name for name in useful if name in info.features and name not in needed))
        return cls(size=spec.size, mean=spec.mean, read=read, masks=masks)

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return self.read

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what goes to the device."""
        return {"image": ("uint8", (*self.size, 3)), "extent": ("int32", (2,))}

    @property
    def kept(self) -> tuple[str, ...]:
        """``truth``."""
        return ("truth",)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """One example."""
        pixels = sample["image"].decode()
        size = pixels.shape[:2]
        scale = min(new / old for new, old in zip(self.size, size, strict=True))
        height, width = (max(1, int(side * scale + 0.5)) for side in size)
        canvas = mean_canvas(self.size, self.mean)
        canvas[:height, :width] = resize(pixels, (height, width), "bilinear")
        extent = np.array([height, width], np.int32)
        return {"image": canvas, "extent": extent, "truth": self._truth(sample, size, (height, width))}

    def _truth(self, sample: Sample, size: tuple[int, int], fitted: tuple[int, int]) -> Truth:
        boxes = np.asarray(sample["boxes"], np.float64).reshape(-1, 4)
        masks: Any = sample.get("instance_masks")
        area = sample.get("area")
        if area is None:
            area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if masks is None else masks.sum(axis=(1, 2))
        return Truth(
            size=size,
            fitted=fitted,
            boxes=boxes,
            labels=np.asarray(sample["box_labels"], np.int64),
            area=np.asarray(area, np.float64),
            crowd=np.asarray(sample.get("crowd", np.zeros(len(boxes))), bool),
            masks=tuple(run_lengths(mask) for mask in masks) if self.masks else (),
            image_id=int(sample["image_id"]) if "image_id" in sample else None,
            negative=tuple(int(label) for label in sample.get("neg_labels", ())),
            open=tuple(int(label) for label in sample.get("open_labels", ())),
        )


def check_labels(labels: Sequence[int] | np.ndarray, classes: int, who: str) -> None:
    """Raises a DataError for a label that is none of ``classes``."""
    given = np.asarray(labels)
    if (bad := given[(given < 0) | (given >= classes)]).size:
        raise DataError(
            f"{who} say class {bad[0]}",
            why=f"the data have {classes} classes of boxes, 0 to {classes - 1}",
            fix="score on data with the classes that the model was trained on",
        )


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> Runs:
    """A mask as run lengths."""
    return metric_masks().encode(np.asfortranarray(mask, np.uint8))


def metric_masks() -> Any:
    """The module of the metric for masks.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ConfigError(
            "scores of boxes need faster-coco-eval",
            why="average precision is computed by it, as pycocotools does, several times as fast",
            fix="pip install 'spendflops[detection]'",
        ) from error
    return mask
