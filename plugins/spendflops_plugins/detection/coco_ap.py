"""COCO's twelve figures for boxes, and twelve for masks (Lin et al., arXiv:1405.0312), of an objective's detections.

    ap, ap50, ap75                    mean over the thresholds 0.50, 0.55, ..., 0.95; at 0.50; at 0.75
    ap_small, ap_medium, ap_large     of objects up to 32 x 32, 96 x 96, and larger, in stored pixels
    ar1, ar10, ar100                  the highest recall with 1, 10, 100 detections of a class in an image, same mean
    ar_small, ar_medium, ar_large     with 100

How they are computed is said in :mod:`spendflops_plugins.detection.average_precision`. The 100 best detections of an
image count, of all its classes. Areas are those of the data set's annotations, else of masks, else of boxes. All images
count, those without an object as well.

Deviation: a figure for which no object counts is left out, where COCO's own tables say -1. Boxes of the data set are
kept in float32 as corners, widths are their differences: they agree with those of the files to 1e-4 pixels.
"""

from __future__ import annotations

from typing import ClassVar

from spendflops.contracts.types import DatasetInfo
from spendflops_plugins.detection.average_precision import SIZES, Curves, figures
from spendflops_plugins.detection.evaluation import DetectionEvaluator


class CocoAP(DetectionEvaluator):
    """COCO's average precision of boxes and, if wanted, masks; options as in :class:`DetectionEvaluator`."""

    name: ClassVar[str] = "coco_ap"
    most: ClassVar[int] = 100

    @property
    def counts(self) -> tuple[int, ...]:
        """1, 10 and 100."""
        return (1, 10, self.most)

    def figures(self, found: Curves, info: DatasetInfo) -> dict[str, float]:
        """The twelve figures, as far as an object counts for them."""
        precision, recall = found.precision, found.recall
        everywhere = precision[..., 0]
        values = {"ap": everywhere, "ap50": everywhere[0], "ap75": everywhere[5]}
        values |= {f"ap_{size}": precision[..., i] for i, size in enumerate(SIZES, 1)}
        values |= {f"ar{count}": recall[..., 0, i] for i, count in enumerate(self.counts)}
        values |= {f"ar_{size}": recall[..., i, -1] for i, size in enumerate(SIZES, 1)}
        return figures(values)
