"""Food-101, Bossard et al., ECCV 2014: 101 dishes; the training labels are noisy on purpose, those of the test not."""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource, Files, check_files
from spendflops.parts.sources.published import PublishedDataset, check_classes

CLASSES = tuple(resources.files(__package__).joinpath("classes.txt").read_text("utf-8").split())

INFO = DatasetInfo(
    name="food101",
    features={"image": "uint8 H W C", "label": "int32"},
    classes=CLASSES,
    class_names=tuple(name.replace("_", " ") for name in CLASSES),
    sizes={"train": 75_750, "test": 25_250},
    licence="not stated; images of Foodspotting for scientific use",
    citation="Bossard et al., Food-101: Mining Discriminative Components with Random Forests, ECCV 2014",
    homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
)

FIX = "unpack food-101.tar.gz again"


class Food101(PublishedDataset):
    """The splits ``train`` (750 images a class) and ``test`` (250).

    ``images/<class>/<id>.jpg`` and the lists ``meta/train.json`` and ``meta/test.json``. Labels are ranks of the sorted
    names, so that ``cheese_plate`` comes before ``cheesecake``; some copies have these two the other way round. Samples
    are in the order of the classes, within a class in that of the list.

    Args:
        path: The folder ``food-101``, or the one that it lies in; None where nothing is read.
        partial: The copy is a part: lists may have fewer images and classes. Images that a list names must be there
            all the same.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(INFO, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of ``split``; ``label`` comes with each."""
        inside = os.path.join(root, "food-101")
        root = inside if os.path.isdir(inside) else root
        place = os.path.join(root, "meta", f"{split}.json")
        listed = _read(place)
        check_classes(self.info.name, sorted(listed), self.info.classes, partial=self.partial)
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.info.classes):
            for image in listed.get(name, ()):
                if image.partition("/")[0] != name:
                    raise DataError(f"{place}: {image!r} is listed under {name!r}", fix=FIX)
                files.append(f"{image}.jpg")
                labels.append(label)
        check_files(os.path.join(root, "images"), files, listed=place)
        return ClassSource(Files(os.path.join(root, "images"), files), np.asarray(labels, np.int32))


def _read(path: str) -> dict[str, list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            listed: Any = json.load(file)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", fix="give the folder in which images and meta lie") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix=FIX) from error
    groups = listed.items() if isinstance(listed, dict) else [("", None)]
    for name, images in groups:
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise DataError(f"{path} is not an object of lists of images", why=f"under {name!r}", fix=FIX)
    return listed
