"""What is wrong with a sample, whose parts may be read one by one: pixels, label maps, labels, boxes."""

from __future__ import annotations

import numpy as np

from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts.images import decode_mask


def place(sample: Sample, index: int) -> str:
    """What a message calls a sample: the name of its image, else its number."""
    return getattr(sample.get("image"), "name", "") or f"example {index}"


def faults_of(sample: Sample, info: DatasetInfo) -> list[str]:
    """What is wrong with a sample whose parts can all be read.

    Raises:
        DataError: A part cannot be read.
    """
    found = []
    size = sample["image"].size if "image" in sample else None
    if "image" in sample:
        pixels = sample["image"].decode()
        if pixels.shape[:2] != tuple(size):
            found.append(f"its header says {size[0]} x {size[1]} pixels, it has {pixels.shape[0]} x {pixels.shape[1]}")
    if "mask" in sample:
        mask = decode_mask(sample["mask"])
        if size is not None and mask.shape != tuple(size):
            found.append(sizes(mask.shape, tuple(size)))
        if (strange := np.setdiff1d(mask, [*range(len(info.mask_classes)), 255])).size and info.mask_classes:
            found.append(f"mask value {strange[0]} of {len(info.mask_classes)} classes")
    for name, classes in (
        ("label", info.classes),
        ("labels", info.label_names or info.classes),
        ("box_labels", info.box_classes or info.classes),
    ):
        known = len(classes)
        values = np.atleast_1d(sample[name]) if name in sample and known else np.zeros(0, int)
        if values.size and (values.min() < -1 or values.max() >= known):
            found.append(f"{name} {values.tolist()} of {known} classes")
    if len(boxes := np.reshape(sample.get("boxes", ()), (-1, 4))):
        if not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
            found.append("a box without area")
        # Annotations are rounded: a pixel more is not a mistake.
        elif size is not None and ((boxes < -1).any() or (boxes > np.tile(size[::-1], 2) + 1).any()):
            found.append(f"a box outside the image of {size[0]} x {size[1]}")
    return found


def sizes(mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    """The fault of a label map of another size than its image."""
    return f"a mask of {mask[0]} x {mask[1]} pixels for an image of {image[0]} x {image[1]}"
