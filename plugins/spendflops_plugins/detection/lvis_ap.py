"""LVIS's nine figures for boxes, and nine for masks (Gupta et al., arXiv:1908.03195), of an objective's detections.

    ap, ap50, ap75                    mean over the thresholds 0.50, 0.55, ..., 0.95; at 0.50; at 0.75
    ap_small, ap_medium, ap_large     of objects up to 32 x 32, 96 x 96, and larger, in stored pixels
    ap_rare, ap_common, ap_frequent   of classes that 1 to 10, 11 to 100, and more training images show

An image was searched for some classes only. Detections of a class count in the images that have an object of it and in
those known to have none (``neg_labels``); where not all of its objects are marked (``open_labels``), one that took no
object is ignored. The 300 best detections of an image count, of all its classes. How all this is computed is said in
:mod:`spendflops_plugins.detection.average_precision`.

Deviation: a figure for which no object counts is left out, where LVIS's own tables say -1.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from spendflops.contracts.types import DatasetInfo
from spendflops_plugins.detection.average_precision import SIZES, Curves, figures
from spendflops_plugins.detection.evaluation import DetectionEvaluator

RARE, COMMON = 10, 100
"""The most training images that show a rare class, and a common one."""


class LvisAP(DetectionEvaluator):
    """LVIS's average precision of boxes and, if wanted, masks; options as in :class:`DetectionEvaluator`."""

    name: ClassVar[str] = "lvis_ap"
    most: ClassVar[int] = 300
    federated: ClassVar[bool] = True

    def figures(self, found: Curves, info: DatasetInfo) -> dict[str, float]:
        """The nine figures, as far as an object counts for them; those by frequency where it is known."""
        everywhere = found.precision[..., 0]
        values = {"ap": everywhere, "ap50": everywhere[0], "ap75": everywhere[5]}
        values |= {f"ap_{size}": found.precision[..., i] for i, size in enumerate(SIZES, 1)}
        if info.box_counts:
            group = np.searchsorted((RARE, COMMON), info.box_counts, side="left")
            groups = enumerate(("rare", "common", "frequent"))
            values |= {f"ap_{name}": everywhere[..., group == i] for i, name in groups}
        return figures(values)
