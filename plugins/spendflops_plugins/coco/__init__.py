"""COCO, Lin et al., arXiv:1405.0312: 118,287 training and 5,000 validation images with boxes, masks and captions."""

from __future__ import annotations

import os
from importlib import resources

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.coco import BOX_FEATURES, FEATURES, CocoSource, check_invalid, index_folder, open_index
from spendflops.parts.sources.coco_index import Categories
from spendflops.parts.sources.published import PublishedDataset

_LINES = resources.files(__package__).joinpath("categories.txt").read_text("utf-8").splitlines()
_PAIRS = [line.split(" ", 1) for line in _LINES]
CATEGORIES = Categories(ids=tuple(int(i) for i, _ in _PAIRS), names=tuple(name for _, name in _PAIRS))
"""80 things; their ids go from 1 to 90 with gaps, their labels from 0 to 79."""

SIZES = {
    2014: {"train": 82_783, "val": 40_504, "test": 40_775},
    2017: {"train": 118_287, "val": 5_000, "test": 40_670},
}
ANNOTATED = {2014: {"train": 82_081, "val": 40_137}, 2017: {"train": 117_266, "val": 4_952}}
"""Images with a box."""

KINDS = ("instances", "captions")
TEST_FEATURES = ("image", "image_id")


class COCO(PublishedDataset):
    """The splits ``train``, ``val`` and, without annotations, ``test``, in the order of the image ids.

    Read are ``{train,val,test}2017/*.jpg``, in ``path`` or in ``path/images``, and from ``path/annotations`` only what
    the features need: ``instances_{train,val}2017.json``, ``captions_{train,val}2017.json``,
    ``image_info_test2017.json`` (where it is missing, test images are listed and numbered by their names).

    ``boxes`` are left, top, right, bottom in pixels, not clipped; ``box_labels`` are 0..79, ``categories.to_id`` gives
    their ids; ``area`` is the mask's, as in the file; ``crowd`` marks boxes around many; ``labels`` are the different
    labels of an image, for multi-label objectives, crowds among them. ``captions`` are all captions, unchanged. An
    image without boxes has arrays of length 0. Two boxes of train2017 have no area and are left out.

    Args:
        path: The folder; None where nothing is read.
        partial: The copy is a part: the annotations may have fewer images.
        year: 2014 or 2017: the same photographs, split differently.
        annotated_only: Only images with a box: 117,266 and 4,952 in 2017.
        invalid: ``fail``, or ``drop``: annotations that cannot be meant are left out and counted, see
            :mod:`spendflops.parts.sources.coco`.

    Raises:
        ConfigError: Unknown ``year`` or ``invalid``.
    """

    categories = CATEGORIES

    def __init__(
        self,
        *,
        path: str | None = None,
        partial: bool = False,
        year: int = 2017,
        annotated_only: bool = False,
        invalid: str = "fail",
    ):
        if year not in SIZES:
            raise ConfigError(f"COCO has no year {year!r}", fix=f"use one of {list(SIZES)}")
        check_invalid(invalid)
        self._year, self._annotated_only, self._invalid = year, annotated_only, invalid
        info = DatasetInfo(
            name="coco",
            features=FEATURES,
            classes=CATEGORIES.names,
            box_classes=CATEGORIES.names,
            box_class_ids=CATEGORIES.ids,
            sizes=(ANNOTATED if annotated_only else SIZES)[year],
            licence="annotations CC-BY-4.0; images under the terms of Flickr, each with its own licence",
            citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, arXiv:1405.0312",
            homepage="https://cocodataset.org",
        )
        super().__init__(info, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> CocoSource:
        """Samples of ``split``."""
        name = f"{split}{self._year}"
        folder = _images(root, name)
        if split == "test":
            return self._open_test(root, folder, name, features)
        instances, spoken = (os.path.join(root, "annotations", f"{kind}_{name}.json") for kind in KINDS)
        boxes = self._annotated_only or any(feature in BOX_FEATURES for feature in features)
        captions = "captions" in features
        if not (boxes or captions):
            # Both files list the images: either will do.
            boxes = os.path.isfile(instances) or not os.path.isfile(spoken)
        said = open_index(spoken, invalid=self._invalid) if captions or not boxes else None
        if boxes or said is None:
            index = open_index(instances, invalid=self._invalid, masks="instance_masks" in features)
        else:
            index = said
        return CocoSource(
            folder,
            index,
            features=features,
            captions=said,
            categories=CATEGORIES,
            annotated_only=self._annotated_only,
        )

    def _open_test(self, root: str, folder: str, name: str, features: tuple[str, ...]) -> CocoSource:
        for feature in features:
            if feature not in TEST_FEATURES:
                raise ConfigError(
                    f"coco: the split test has no {feature!r}",
                    why="annotations of the test images were never published",
                    fix=f"use {list(TEST_FEATURES)}, or another split",
                )
        listed = os.path.join(root, "annotations", f"image_info_{name}.json")
        index = open_index(listed) if os.path.isfile(listed) else index_folder(folder)
        return CocoSource(folder, index, features=features, categories=CATEGORIES)


def _images(root: str, name: str) -> str:
    places = [os.path.join(root, name), os.path.join(root, "images", name)]
    for place in places:
        if os.path.isdir(place):
            return place
    raise DataError(
        f"coco: {root} has no folder {name}",
        why=f"neither {places[0]} nor {places[1]} is there",
        fix=f"unpack {name}.zip into the folder of the data set, beside the folder annotations",
    )
