"""Average precision of boxes and masks as COCO computes it (Lin et al., arXiv:1405.0312; pycocotools' ``COCOeval``).

For each class, range of areas, and threshold t = 0.50, 0.55, ..., 0.95 of the intersection over union: detections of
all images, best first, each take the best object of their image that is left and has t or more in common with them. An
object that is a crowd or has an area out of the range is ignored: it is taken where no other will do. What took an
ignored one does not count, nor does what took none and has itself an area out of the range. Precision is made to fall
with recall, read at 101 points of it, and is 0 beyond the last. Crowds may be taken often, and have in common with a
detection the part of it that lies in them.

It is computed by faster-coco-eval (Apache-2.0), which gives what pycocotools gives, and has the rules of LVIS (Gupta et
al., arXiv:1908.03195): a detection counts only where its class is in the image or known not to be, and one without an
object is ignored where not all objects of its class are marked.

Of equal scores that of the image with the lower id comes first: images are sorted here, whatever order they came in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from spendflops_plugins.detection.ground_truth import Runs, Truth

SIZES = ("small", "medium", "large")
"""Up to 32 x 32, up to 96 x 96, and larger, square pixels of the stored image; an area on a bound is in both."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detected:
    """What a model found in an image, best first, in stored pixels; boxes are (left, top, right, bottom)."""

    boxes: Float64[np.ndarray, "m 4"]
    scores: Float32[np.ndarray, " m"]
    labels: Int64[np.ndarray, " m"]
    masks: tuple[Runs, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """Precision [thresholds, 101 recalls, classes, ranges] of the most detections; recall [thresholds, classes, ranges,
    numbers of detections]. The ranges are all areas and :data:`SIZES`; -1 stands where no object counts."""

    precision: Float[np.ndarray, "T R K A"]
    recall: Float[np.ndarray, "T K A N"]


def curves(
    images: Sequence[tuple[Truth, Detected]], *, kind: str, classes: int, most: Sequence[int], federated: bool = False
) -> Curves:
    """Precision and recall over all images.

    Args:
        images: In the order of their ids.
        kind: "box" or "mask".
        classes: How many there are.
        most: Numbers of detections of a class in an image that may count, ascending.
        federated: Whether images were searched for some classes only, as those of LVIS.
    """
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    known = COCO(_annotated(images, kind, classes))
    found = known.loadRes(list(_results(images, kind, federated)))
    metric = COCOeval_faster(known, found, {"box": "bbox", "mask": "segm"}[kind], lvis_style=federated)
    metric.params.maxDets = list(most)
    metric.evaluate()
    metric.accumulate()
    return Curves(precision=metric.eval["precision"][..., -1], recall=metric.eval["recall"])


def figures(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over what counts; a figure for which no object counts (-1 in COCO's own tables) is left out."""
    counted = {name: array[array > -1] for name, array in values.items()}
    return {name: float(array.mean()) for name, array in counted.items() if array.size}


def xywh(boxes: Float64[np.ndarray, "M 4"]) -> list[list[float]]:
    """Left, top, width and height of boxes, as COCO's files have them."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _annotated(images: Sequence[tuple[Truth, Detected]], kind: str, classes: int) -> dict[str, Any]:
    """The objects as a file of COCO, with ids of its own, from 1 on: of an annotation 0 means "no match" to COCO."""
    pictures: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for place, (truth, _) in enumerate(images, 1):
        height, width = truth.size
        federated = {"neg_category_ids": _ids(truth.negative), "not_exhaustive_category_ids": _ids(truth.open)}
        pictures.append({"id": place, "height": height, "width": width, **federated})
        for row, box in enumerate(xywh(truth.boxes)):
            known = {"segmentation": truth.masks[row]} if kind == "mask" else {}
            said = {"category_id": int(truth.labels[row]) + 1, "area": float(truth.area[row]), "bbox": box}
            crowd = {"iscrowd": int(truth.crowd[row])}
            objects.append({"id": len(objects) + 1, "image_id": place, **said, **crowd, **known})
    # The frequency is asked for, but groups of classes are ours: their figures are means over the same curves.
    categories = [{"id": label + 1, "name": str(label), "frequency": "f"} for label in range(classes)]
    return {"images": pictures, "annotations": objects, "categories": categories}


def _results(images: Sequence[tuple[Truth, Detected]], kind: str, federated: bool) -> Iterator[dict[str, Any]]:
    """Detections as results of COCO. Of masks the boxes are left out: the area would be theirs."""
    name = "bbox" if kind == "box" else "segmentation"
    for place, (truth, found) in enumerate(images, 1):
        shapes: Sequence[Any] = xywh(found.boxes) if kind == "box" else found.masks
        known = {*truth.labels.tolist(), *truth.negative}
        for shape, score, label in zip(shapes, found.scores.tolist(), found.labels.tolist(), strict=True):
            # The library drops these, too, but faster-coco-eval 1.8.0 breaks off where an image has only such masks.
            if federated and label not in known:
                continue
            yield {"image_id": place, "category_id": label + 1, "score": score, name: shape}


def _ids(labels: Sequence[int]) -> list[int]:
    return [label + 1 for label in labels]
