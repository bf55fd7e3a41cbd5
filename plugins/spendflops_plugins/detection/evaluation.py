"""What scores of detections share: predictions back in stored pixels, the files beside a score, its pictures."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import INDEX, Evaluator, Opened
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops_plugins.detection.average_precision import Curves, Detected, curves, xywh
from spendflops_plugins.detection.ground_truth import Fit, Truth, check_labels, metric_masks, run_lengths
from spendflops_plugins.detection.masks import paste
from spendflops_plugins.detection.pictures import Objects, beside

Rows = Mapping[str, np.ndarray]
KINDS = ("box", "mask")
DRAWN = 10
"""The most objects that a picture shows, of the predicted and of the true ones."""


class DetectionEvaluator(Evaluator):
    """Average precision of the outputs ``boxes``, ``box_scores``, ``box_labels`` and ``box_masks``.

    Boxes are clipped to the stored image there, and those without area are left out; masks are pasted where they were
    predicted, at a probability of 0.5. Kept beside the score: ``detections.json``, results in COCO's format under the
    data set's own ids, and ``example_N.jpg``, predicted and true objects of the first images that have any.

    The results hold boxes and masks: before masks are scored by another tool, the boxes must be taken out of them, else
    their areas are those of the boxes.

    Args:
        masks: Scores masks, too.
        primary: "box" or "mask": which average precision ranks models.
        threshold: Only detections with a higher score count. A score of 0 is no detection.
        pictures: How many are kept.

    Raises:
        ConfigError: An unknown ``primary``, or one that is not scored; a ``threshold`` outside 0..1.
    """

    roles: ClassVar[tuple[str, ...]] = ("eval",)
    name: ClassVar[str]
    most: ClassVar[int]
    """Detections of an image that count."""
    federated: ClassVar[bool] = False
    """Whether images were searched for some classes only."""

    def __init__(self, *, masks: bool = False, primary: str = "box", threshold: float = 0.0, pictures: int = 3):
        self.kinds = KINDS if masks else KINDS[:1]
        if primary not in self.kinds:
            raise ConfigError(
                f"{self.name}: primary is {primary!r}",
                why=f"scored are {' and '.join(self.kinds)}",
                fix="'box', or 'mask' with masks = True",
            )
        if not 0 <= threshold < 1:
            raise ConfigError(f"{self.name}: threshold is {threshold}", fix="a score from 0 on, below 1")
        self.masks, self.threshold, self.pictures = masks, threshold, pictures
        self.requires = ("boxes", "box_scores", "box_labels", *["box_masks"] * masks)
        self.primary = f"{primary}_ap"
        self.protocol = f"{self.name}/1:longest_side:score>{threshold:g}:max={self.most}"

    @abc.abstractmethod
    def figures(self, found: Curves, info: DatasetInfo) -> dict[str, float]:
        """The figures of one kind, by their names without ``box_`` or ``mask_``."""

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Fit:
        """The whole image on the model's canvas, and its objects.

        Raises:
            ConfigError: A data set without boxes, or what else is scored; the metric is not installed.
        """
        metric_masks()
        return Fit.of(info=info, spec=spec, masks=self.masks, federated=self.federated, asker=self.name)

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Opened) -> None:
        """Raises a DataError for data without any object that counts."""
        dataset, split = data["eval"]
        source = opened("eval", tuple(f for f in ("boxes", "crowd") if f in dataset.info.features))
        for index in range(len(source)):
            sample = source[index]
            if len(sample["boxes"]) > np.sum(sample.get("crowd", 0)):
                return
        raise _nothing(f"{dataset.info.name}:{split}")

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """The predictions as they are: what becomes of them is the host's business."""
        return {"metrics": {}, "rows": {name: predictions[name] for name in self.requires}}

    def compact(self, role: str, rows: Rows) -> Rows:
        """Detections of each image in its own pixels; their masks as run lengths.

        Raises:
            DivergedError: A detection that is not a number.
        """
        found = np.empty(len(rows["truth"]), object)
        for place, truth in enumerate(rows["truth"]):
            found[place] = self._detected({name: rows[name][place] for name in self.requires}, truth)
        return {"found": found, "truth": rows["truth"], INDEX: rows[INDEX]}

    def result(self, merged: Mapping[str, Any], rows: Mapping[str, Rows], *, info: DatasetInfo) -> dict[str, float]:
        """Figures in 0..1, ``box_ap``, ``mask_ap`` and so on; those for which no object counts are left out.

        Raises:
            DataError: No object at all counts, or a class that the data do not have.
        """
        images = [(truth, found) for _, truth, found in _sorted(rows["eval"])]
        classes = len(_names(info))
        for truth, detected in images:
            check_labels(truth.labels, classes, f"boxes of {info.name}")
            check_labels(detected.labels, classes, "predictions")
        if not any((~truth.crowd).any() for truth, _ in images):
            raise _nothing(info.name)
        values: dict[str, float] = {}
        for kind in self.kinds:
            found = curves(images, kind=kind, classes=classes, most=self.counts, federated=self.federated)
            values |= {f"{kind}_{name}": value for name, value in self.figures(found, info).items()}
        return values

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of detections of a class in an image for which there are figures, ascending."""
        return (self.most,)

    def files(self, rows: Mapping[str, Rows], *, info: DatasetInfo, opened: Opened) -> dict[str, bytes]:
        """``detections.json`` and ``example_N.jpg``."""
        images = _sorted(rows["eval"])
        ids = info.box_class_ids or range(1, len(_names(info)) + 1)
        results = [line for index, truth, found in images for line in _results(index, truth, found, ids)]
        files = {"detections.json": json.dumps(results, separators=(",", ":"), allow_nan=False).encode()}
        # The same images whatever the model found.
        shown = [image for image in images if len(image[1].boxes)] or images
        source = opened("eval", ("image",))
        for number, (index, truth, found) in enumerate(shown[: self.pictures]):
            picture = beside(source[index]["image"].decode(), _best(found, truth), _true(truth), names=_names(info))
            files[f"example_{number}.jpg"] = picture
        return files

    def _detected(self, row: Mapping[str, np.ndarray], truth: Truth) -> Detected:
        chosen = np.flatnonzero(~(row["box_scores"] <= self.threshold))
        scores, placed = row["box_scores"][chosen], row["boxes"][chosen].astype(np.float64)
        if not (np.isfinite(scores).all() and np.isfinite(placed).all()):
            raise DivergedError(
                "a predicted box or its score is not finite", fix="look at the training of the detector"
            )
        (height, width), fitted = truth.size, truth.fitted
        placed *= np.tile([width / fitted[1], height / fitted[0]], 2)
        clipped = np.clip(placed, 0, [width, height, width, height])
        seen = (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        best = np.argsort(np.where(seen, -scores, np.inf), kind="stable")[: min(self.most, seen.sum())]
        masks: list[Any] = []
        if self.masks:
            pasted = (paste(row["box_masks"][chosen[i]], placed[i], truth.size) for i in best)
            masks = [run_lengths(mask) for mask in pasted]
        labels = row["box_labels"][chosen[best]].astype(np.int64)
        return Detected(boxes=clipped[best], scores=scores[best], labels=labels, masks=tuple(masks))


def _names(info: DatasetInfo) -> tuple[str, ...]:
    return info.box_classes or info.classes


def _nothing(data: str) -> DataError:
    return DataError(
        f"no object of {data} counts",
        why="there is none, or all are crowds: the average precision of nothing is not defined",
        fix="choose a split with boxes",
    )


def _sorted(rows: Rows) -> list[tuple[int, Truth, Detected]]:
    """(place in the data, truth, detections) of each image, by the ids of the images: the order in which ties count."""
    images = zip(rows[INDEX].tolist(), rows["truth"], rows["found"], strict=True)
    return sorted(images, key=lambda image: (_id(*image[:2]), image[0]))


def _id(index: int, truth: Truth) -> int:
    """An image without an id goes by its place in the data."""
    return index if truth.image_id is None else truth.image_id


def _results(index: int, truth: Truth, found: Detected, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Detections as COCO exchanges them."""
    for row, box in enumerate(xywh(found.boxes)):
        category, score = int(ids[found.labels[row]]), float(found.scores[row])
        line = {"image_id": _id(index, truth), "category_id": category, "bbox": box, "score": score}
        if found.masks:
            runs = found.masks[row]
            line["segmentation"] = {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}
        yield line


def _best(found: Detected, truth: Truth) -> Objects:
    """The largest of the detections worth showing: as likely as not, or better, and no fewer than there are objects."""
    count = max(int((found.scores >= 0.5).sum()), min(len(truth.boxes), len(found.boxes)))
    boxes = found.boxes[:count]
    rows = _largest(np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1))
    masks = _decoded([found.masks[i] for i in rows] if found.masks else [], truth.size)
    return Objects(
        boxes=boxes[rows], labels=found.labels[rows], scores=found.scores[rows], masks=masks, left_out=count - len(rows)
    )


def _true(truth: Truth) -> Objects:
    rows = _largest(truth.area)
    masks = _decoded([truth.masks[i] for i in rows] if truth.masks else [], truth.size)
    left_out = len(truth.boxes) - len(rows)
    return Objects(boxes=truth.boxes[rows], labels=truth.labels[rows], scores=None, masks=masks, left_out=left_out)


def _largest(area: Float[np.ndarray, " M"]) -> Int[np.ndarray, " m"]:
    """At most :data:`DRAWN` rows, in their order."""
    return np.sort(np.argsort(-area, kind="stable")[:DRAWN])


def _decoded(masks: Sequence[Any], size: tuple[int, int]) -> Bool[np.ndarray, "M H W"]:
    if not masks:
        return np.zeros((0, *size), bool)
    return metric_masks().decode(list(masks)).transpose(2, 0, 1).astype(bool)
