"""Reassessed labels (ReaL) for the validation images of ImageNet-1K, Beyer et al., arXiv:2006.07159."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts.sources.classes import Images, Picked
from spendflops.parts.sources.imagenet import LICENCE, SIZES, WNIDS, WORDS, file_numbers, open_val
from spendflops.parts.sources.published import PublishedDataset

INFO = DatasetInfo(
    name="imagenet_real",
    features={"image": "uint8 H W C", "labels": "int32 M"},
    classes=WNIDS,
    class_names=WORDS,
    sizes={"val": 46_837},
    licence=f"Apache-2.0 (labels); images: {LICENCE}",
    citation="Beyer et al., Are we done with ImageNet?, 2020, arXiv:2006.07159",
    homepage="https://github.com/google-research/reassessed-imagenet",
)


class RealSource:
    """Samples ``{"image": EncodedImage, "labels": int32 [M]}``, M >= 1.

    Args:
        images: Undecoded.
        labels: Of each image.
    """

    def __init__(self, images: Images, labels: Sequence[Sequence[int]]):
        self._images = images
        self._labels = np.asarray([label for group in labels for label in group], np.int32)
        self._ends = np.cumsum([0, *(len(group) for group in labels)])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} examples")
        labels = self._labels[self._ends[index] : self._ends[index + 1]]
        return {"image": self._images[index], "labels": labels.copy()}

    def __repr__(self) -> str:
        return f"RealSource({self._images!r})"


class ImageNetReal(PublishedDataset):
    """The split ``val``: each image with every label that is right for it, in the order of the file names.

    Images for which no label is right, 3,163 of 50,000, are left out, as its authors do.

    Args:
        path: The folder of ImageNet-1K, in any form that ``imagenet1k`` reads; its own labels are not needed. None
            where nothing is read.
        partial: The copy is a part: images may be missing.
        real_json: The list of labels by file number; by default ``real.json`` in ``path``.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False, real_json: str | None = None):
        super().__init__(INFO, path=path, partial=partial)
        self.real_json = None if real_json is None else os.path.abspath(os.path.expanduser(real_json))

    def open(self, root: str, split: str, features: tuple[str, ...]) -> RealSource:
        """Images with at least one right label."""
        place = self.real_json or os.path.join(root, "real.json")
        groups = _read(place)
        images, _ = open_val(root, WNIDS, partial=self.partial)
        numbers = file_numbers(images)
        expected = SIZES["val"]
        if not self.partial and (len(groups) != expected or len(images) != expected):
            raise DataError(
                f"imagenet_real: {len(images):,} validation images in {root}, {len(groups):,} lists in {place}",
                why=f"there are {expected:,} of both",
                fix="unpack all validation images; partial=True says that a part is meant",
            )
        if numbers.max() > len(groups):
            raise DataError(
                f"{place} has {len(groups):,} lists, none for validation image {numbers.max()}",
                fix="take real.json as it is distributed",
            )
        chosen = [index for index, number in enumerate(numbers) if groups[number - 1]]
        return RealSource(Picked(images, chosen), [groups[numbers[index] - 1] for index in chosen])


def _read(path: str) -> list[list[int]]:
    try:
        with open(path, encoding="utf-8") as file:
            groups: Any = json.load(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is not there",
            why="it holds the labels",
            fix="put real.json beside the images, or give its path as real_json",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix="fetch it again") from error
    if not isinstance(groups, list):
        raise DataError(f"{path} is not a list of lists of labels", fix="take real.json as it is distributed")
    for number, group in enumerate(groups, start=1):
        # Not isinstance: true is an int, too.
        if not isinstance(group, list) or not all(type(x) is int and 0 <= x < len(WNIDS) for x in group):
            raise DataError(
                f"{path}, list {number} has something else than labels 0..{len(WNIDS) - 1}",
                why=f"it is {str(group)[:80]}",
                fix="take real.json as it is distributed",
            )
    return groups
