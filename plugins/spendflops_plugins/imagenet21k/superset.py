"""Two sets of images with classes as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spendflops.parts.sources.classes import ClassSource, Joined, Picked


def join(
    first: ClassSource,
    second: ClassSource,
    *,
    classes: Sequence[str],
    of: tuple[Sequence[str], Sequence[str]],
    union: bool,
) -> ClassSource:
    """All of ``first``, then ``second``, with labels among ``classes``.

    Args:
        first: Images by class.
        second: The same.
        classes: Of both together, sorted.
        of: The classes of each.
        union: Leaves out images of ``second`` whose class and file name ``first`` has.
    """
    labels = [
        np.searchsorted(np.asarray(classes), np.asarray(own))[source.labels].astype(np.int32)
        for source, own in zip((first, second), of, strict=True)
    ]
    images = second.images
    if union:
        keep = np.flatnonzero(~_in_both(first, labels[0], second, labels[1]))
        images, labels[1] = Picked(images, keep), labels[1][keep]
    return ClassSource(Joined(first.images, images), np.concatenate(labels))


def _in_both(first: ClassSource, labels: np.ndarray, second: ClassSource, others: np.ndarray) -> np.ndarray:
    """Which images of ``second`` are in ``first``, a class at a time: the names of all at once need gigabytes."""
    copies = np.zeros(len(second), bool)
    for label in np.unique(others):
        # Both are in the order of their classes, and so are the labels.
        here = {_stem(first.images.name(i)) for i in range(*np.searchsorted(labels, (label, label + 1)))}
        for i in range(*np.searchsorted(others, (label, label + 1))):
            copies[i] = _stem(second.images.name(i)) in here
    return copies


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
