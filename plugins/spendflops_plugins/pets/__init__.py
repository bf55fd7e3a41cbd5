"""Oxford-IIIT Pets, Parkhi et al., CVPR 2012: 37 breeds of cats and dogs, with the outline of the animal."""

from __future__ import annotations

import os
from importlib import resources

import numpy as np

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import check_files
from spendflops.parts.sources.masks import IGNORED, MaskedImages, label_table
from spendflops.parts.sources.published import PublishedDataset

CLASSES = tuple(resources.files(__package__).joinpath("classes.txt").read_text("utf-8").splitlines())
"""In the order of the class ids 1..37, which is the alphabet's; names of cats begin with a capital."""

LISTS = {"train": "trainval", "test": "test"}

MASKS = {
    "class": (label_table({1: 0, 2: 1, 3: 2}), ("pet", "background", "border")),
    "ignore": (label_table({1: 0, 2: 1, 3: IGNORED}), ("pet", "background")),
}


class Pets(PublishedDataset):
    """The splits ``train`` (the official trainval) and ``test``, in the order of their lists.

    Read are ``annotations/{trainval,test}.txt``, lines ``name class species breed`` and comments after ``#``,
    ``images/<name>.jpg`` and ``annotations/trimaps/<name>.png``. The lists say what belongs: the folders hold other
    files, too. Some files are no JPEG though they are called so: the bytes decide, as everywhere. ``label`` is the
    breed, ``species`` 0 for cats and 1 for dogs. In masks, 1, 2, 3 become 0 pet, 1 background, 2 border.

    Args:
        path: The folder of ``images`` and ``annotations``; None where nothing is read.
        partial: The lists are shorter than published.
        border: ``class``: pixels of the border, which the annotators left open, are a class. ``ignore``: they are 255.

    Raises:
        ConfigError: Unknown ``border``.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False, border: str = "class"):
        if border not in MASKS:
            raise ConfigError(f"unknown border {border!r}{suggest(border, list(MASKS))}", fix=f"use {list(MASKS)}")
        self._table, mask_classes = MASKS[border]
        info = DatasetInfo(
            name="pets",
            features={"image": "uint8 H W C", "label": "int32", "species": "int32", "mask": "uint8 H W"},
            classes=CLASSES,
            class_names=tuple(name.replace("_", " ") for name in CLASSES),
            mask_classes=mask_classes,
            sizes={"train": 3_680, "test": 3_669},
            licence="CC-BY-SA-4.0",
            citation="Parkhi et al., Cats and Dogs, CVPR 2012",
            homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        )
        super().__init__(info, path=path, partial=partial)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> MaskedImages:
        """Samples of ``split``.

        Raises:
            DataError: A list is missing, has a line that is wrong, or names files that are not there.
        """
        listed = os.path.join(root, "annotations", f"{LISTS[split]}.txt")
        names, labels, species = _read(listed)
        images = tuple(f"images/{name}.jpg" for name in names)
        masks = tuple(f"annotations/trimaps/{name}.png" for name in names)
        check_files(root, images, listed=listed)
        if "mask" in features:
            check_files(root, masks, listed=listed)
        columns = {"label": np.array(labels, np.int32), "species": np.array(species, np.int32)}
        return MaskedImages(root, images, features=features, masks=masks, table=self._table, columns=columns)


def _read(path: str) -> tuple[list[str], list[int], list[int]]:
    """Names, labels and species of a list."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read", why=why, fix="unpack annotations.tar.gz there") from error
    rows: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        if fault := _fault(fields, rows):
            raise DataError(f"{path}, line {number}: {fault}", why=f"it reads {line!r}", fix="unpack it again")
        rows[fields[0]] = int(fields[1]) - 1, int(fields[2]) - 1
    return list(rows), [label for label, _ in rows.values()], [species for _, species in rows.values()]


def _fault(fields: list[str], seen: dict[str, tuple[int, int]]) -> str:
    if len(fields) != 4 or not all(field.isdecimal() for field in fields[1:]):
        return "a name, a class, a species and a breed are expected"
    name, label, species = fields[0], int(fields[1]), int(fields[2])
    if not 1 <= label <= len(CLASSES):
        return f"class {label} is not in 1..{len(CLASSES)}"
    if name.rpartition("_")[0] != CLASSES[label - 1]:
        return f"class {label} is {CLASSES[label - 1]}, the name says {name.rpartition('_')[0]!r}"
    if species != (1 if name[0].isupper() else 2):
        return f"species {species} is not that of {CLASSES[label - 1]}: 1 is a cat, 2 a dog"
    return f"{name} is there twice" if name in seen else ""
