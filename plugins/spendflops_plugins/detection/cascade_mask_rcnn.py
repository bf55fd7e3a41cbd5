"""Cascade R-CNN with masks (Cai and Vasconcelos 2018, arXiv 1712.00726), as ViTDet has it (Li et al. 2022).

Three stages of the box head, each on the regions that the one before it moved and with a higher overlap; one box serves
all classes. Scores are means over the stages, boxes those of the last. The mask head is trained on the regions of the
first stage.
"""

from __future__ import annotations

from spendflops_plugins.detection.mask_rcnn import BoxStage, MaskRCNN


class CascadeMaskRCNN(MaskRCNN):
    """Mask R-CNN with three box heads; see there for the options."""

    stages = tuple(
        BoxStage(overlap=overlap, weights=(10.0 * n, 10.0 * n, 5.0 * n, 5.0 * n))
        for n, overlap in enumerate((0.5, 0.6, 0.7), start=1)
    )
    agnostic = True
