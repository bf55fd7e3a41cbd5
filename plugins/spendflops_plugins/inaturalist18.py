"""iNaturalist 2018, Van Horn et al., arXiv:1707.06642: 8,142 species, as its competition distributed them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource, Files, check_files
from spendflops.parts.sources.published import PublishedDataset

INFO = DatasetInfo(
    name="inaturalist18",
    features={"image": "uint8 H W C", "label": "int32"},
    # Ids: the competition hid the names of the species.
    classes=tuple(str(category) for category in range(8_142)),
    sizes={"train": 437_513, "val": 24_426},
    licence="non-commercial research and education; no redistribution",
    citation="Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR 2018, "
    "arXiv:1707.06642",
    homepage="https://github.com/visipedia/inat_comp/tree/master/2018",
)

FIX = "take the files of the competition of 2018, unpacked"


class INaturalist18(PublishedDataset):
    """The splits ``train`` and ``val``; the test images have no public labels.

    ``train2018.json`` and ``val2018.json`` list the images in ``train_val2018/<group>/<category>/``. A label is a
    category id, 0..8141; ``categories.json``, if it lies beside them, gives the species' names as ``class_names``.
    Samples are in the order of the lists.

    Args:
        path: The folder; None where nothing is read.
        partial: The copy is a part: lists may have fewer images and categories. Images that a list names must be
            there all the same.
    """

    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(INFO, path=path, partial=partial)

    @property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # the names are read when first asked for
        """Static, but for the names of the species.

        Raises:
            DataError: ``categories.json`` is there and is not what it should be.
        """
        return dataclasses.replace(self._static, class_names=self._names)

    @info.setter
    def info(self, value: DatasetInfo) -> None:
        self._static = value

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        place = "" if self.path is None else os.path.join(self.path, "categories.json")
        if not os.path.isfile(place):
            return ()
        names = _table(place, _read(place), "id", "name", (str,))
        _check_ids(place, names, len(self._static.classes), partial=False)
        return tuple(names[category] for category in range(len(names)))

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of ``split``; ``label`` comes with each."""
        place = os.path.join(root, f"{split}2018.json")
        content = _read(place)
        if not isinstance(content, dict):
            raise DataError(f"{place} is not an object with images, annotations and categories", fix=FIX)
        categories = _table(f"{place}, categories", content.get("categories"), "id", "name", (str, int))
        _check_ids(place, categories, len(self._static.classes), partial=self.partial)
        files = _table(f"{place}, images", content.get("images"), "id", "file_name", (str,))
        labels = _table(f"{place}, annotations", content.get("annotations"), "image_id", "category_id", (int,))
        lost = [image for image in files if image not in labels] + [image for image in labels if image not in files]
        if lost:
            raise DataError(
                f"{place}: image {lost[0]} is not both in images and in annotations",
                why=f"{len(lost):,} of {len(files):,} have no label, or a label and no image",
                fix=FIX,
            )
        strange = next((image for image, label in labels.items() if label not in categories), None)
        if strange is not None:
            raise DataError(
                f"{place}: image {strange} has the category {labels[strange]}, which is not among the categories",
                fix=FIX,
            )
        check_files(root, list(files.values()), listed=place)
        return ClassSource(Files(root, files.values()), np.asarray([labels[image] for image in files], np.int32))


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", fix=f"give the folder in which it lies; {FIX}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix=FIX) from error


def _table(place: str, entries: Any, key: str, value: str, kinds: tuple[type, ...]) -> dict[int, Any]:
    """``key`` -> ``value`` of a list of objects, in its order."""
    table: dict[int, Any] = {}
    if not isinstance(entries, list):
        raise DataError(f"{place}: there is no list", why=f"it is {str(entries)[:80]}", fix=FIX)
    for number, entry in enumerate(entries):
        fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
        # Not isinstance: true is an int, too.
        if type(fields.get(key)) is not int or type(fields.get(value)) not in kinds or fields[key] in table:
            raise DataError(
                f"{place}, entry {number} has no {key} and {value}, or the {key} of another",
                why=f"it is {str(entry)[:80]}",
                fix=FIX,
            )
        table[fields[key]] = fields[value]
    return table


def _check_ids(path: str, categories: Mapping[int, Any], count: int, *, partial: bool) -> None:
    strange = [category for category in categories if not 0 <= category < count]
    if strange or (len(categories) != count and not partial):
        raise DataError(
            f"{path} does not have the categories 0..{count - 1}",
            why=f"{strange[0]} is one of them" if strange else f"it has {len(categories):,}",
            fix=FIX,
        )
