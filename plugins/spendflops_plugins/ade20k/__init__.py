"""SceneParse150, the benchmark of ADE20K, Zhou et al., CVPR 2017: 20,210 training and 2,000 validation images."""

from __future__ import annotations

import os
from importlib import resources

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.folder import list_images
from spendflops.parts.sources.masks import IGNORED, MaskedImages, label_table
from spendflops.parts.sources.published import PublishedDataset

CLASSES = tuple(resources.files(__package__).joinpath("classes.txt").read_text("utf-8").splitlines())
"""In the order of ``objectInfo150.txt``, of each the first word."""

LABELS = label_table({0: IGNORED} | {value: value - 1 for value in range(1, len(CLASSES) + 1)})
"""Stored 0 is "other" and counts nowhere; 1 is "wall", label 0."""

FOLDERS = {"train": "training", "val": "validation"}

INFO = DatasetInfo(
    name="ade20k",
    features={"image": "uint8 H W C", "mask": "uint8 H W"},
    mask_classes=CLASSES,
    sizes={"train": 20_210, "val": 2_000},
    licence="images for non-commercial research and education; annotations BSD-3-Clause",
    citation="Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017",
    homepage="http://sceneparsing.csail.mit.edu",
)


class ADE20K(PublishedDataset):
    """The splits ``train`` and ``val`` of ``ADEChallengeData2016``, in the order of the file names.

    Read are ``images/{training,validation}/*.jpg`` and, where masks are asked for,
    ``annotations/{training,validation}/*.png``. The 150 classes have the labels 0..149; what was stored as 0 is 255.
    This is done here, once: there must be no ``reduce_zero_label`` further on.

    Args:
        path: The folder ``ADEChallengeData2016``; None where nothing is read.
        partial: The copy is a part: images may be missing. Every image that is there needs its mask.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(INFO, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> MaskedImages:
        """Samples of ``split``.

        Raises:
            DataError: The folder is that of the full ADE20K, or its parent's; an image without a mask, or, unless
                ``partial``, a mask without an image.
        """
        _check_release(root)
        images = _listed(root, "images", split)
        masks = _pairs(root, split, images, partial=self.partial) if "mask" in features else ()
        return MaskedImages(root, images, features=features, masks=masks, table=LABELS)


def _listed(root: str, kind: str, split: str) -> tuple[str, ...]:
    folder = f"{kind}/{FOLDERS[split]}"
    files = list_images(os.path.join(root, folder), labels="none").files
    if coded := [file for file in files if file.endswith("_seg.png")]:
        raise _full(root, f"{folder}/{coded[0]}")
    return tuple(f"{folder}/{file}" for file in files)


def _pairs(root: str, split: str, images: tuple[str, ...], *, partial: bool) -> tuple[str, ...]:
    masks = {_stem(file): file for file in _listed(root, "annotations", split)}
    stems = [_stem(image) for image in images]
    without = [image for image, stem in zip(images, stems, strict=True) if stem not in masks]
    spare = [] if partial else sorted(set(masks) - set(stems))
    if without or spare:
        first = without[0] if without else masks[spare[0]]
        raise DataError(
            f"ade20k at {root}: {first} has no {'mask' if without else 'image'}",
            why=f"{len(without):,} images are without a mask, {len(spare):,} masks without an image",
            fix="unpack the rest of ADEChallengeData2016.zip" + ("" if partial else ", or set partial=True"),
        )
    return tuple(masks[stem] for stem in stems)


def _stem(file: str) -> str:
    """``a`` of ``images/training/a.jpg``."""
    return os.path.splitext(file.split("/", 2)[2])[0]


def _check_release(root: str) -> None:
    inner = os.path.join(root, "ADEChallengeData2016")
    if os.path.isdir(inner):
        raise DataError(f"ade20k: {root} is not the data set", why="it holds it", fix=f"give the path {inner}")
    if os.path.isdir(os.path.join(root, "images", "ADE")):
        raise _full(root, "images/ADE")


def _full(root: str, found: str) -> DataError:
    return DataError(
        f"ade20k: {root} is the full ADE20K, with over 3,000 names",
        why=f"it has {found}: such files hold colours that stand for names, not the 150 classes of the benchmark",
        fix="fetch ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu",
    )
