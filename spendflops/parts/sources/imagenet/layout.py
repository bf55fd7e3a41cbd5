"""Where the images of ImageNet-1K lie: extracted, in Kaggle's folders, or in the archives as they are distributed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.classes import (
    ClassSource,
    Files,
    Images,
    Members,
    Picked,
    is_image,
    open_archive,
    open_folders,
)
from spendflops.parts.sources.folder import has_images, list_images
from spendflops.parts.sources.tar import open_index

KAGGLE = os.path.join("ILSVRC", "Data", "CLS-LOC")
TRAIN_FOLDERS = ("train", os.path.join(KAGGLE, "train"), "ILSVRC2012_img_train")
VAL_FOLDERS = ("val", os.path.join(KAGGLE, "val"), "ILSVRC2012_img_val")
TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"

_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def open_train(root: str, classes: Sequence[str], *, partial: bool) -> ClassSource:
    """The training images, in the order of the classes, then of the names.

    Looked for in this order: ``train/<wnid>/``, Kaggle's ``ILSVRC/Data/CLS-LOC/train/<wnid>/``,
    ``ILSVRC2012_img_train/`` with a folder or a tar a class, ``ILSVRC2012_img_train.tar``.

    Args:
        root: The folder.
        classes: The 1000 WordNet ids, sorted.
        partial: Classes may be missing.

    Raises:
        DataError: None of these is there, or what is there is not complete or has what does not belong.
    """
    folder = _first(root, TRAIN_FOLDERS)
    if folder is not None:
        return open_folders(folder, classes, name="imagenet1k", partial=partial)
    archive = os.path.join(root, TRAIN_ARCHIVE)
    if os.path.isfile(archive):
        return open_archive(archive, classes, name="imagenet1k", partial=partial)
    raise _nothing(root, "training", (*TRAIN_FOLDERS, TRAIN_ARCHIVE))


def open_val(root: str, classes: Sequence[str], *, partial: bool) -> tuple[Images, Int32[np.ndarray, " images"] | None]:
    """The validation images in the order of their file names, and their labels where these are the folders.

    Looked for in this order: ``val/``, Kaggle's ``ILSVRC/Data/CLS-LOC/val/``, ``ILSVRC2012_img_val/``, each with class
    folders or flat, then ``ILSVRC2012_img_val.tar``. Arguments and errors as :func:`open_train`.
    """
    folder = _first(root, VAL_FOLDERS)
    if folder is not None and not has_images(folder):
        source = open_folders(folder, classes, name="imagenet1k", partial=partial)
        names = [source.images.name(i) for i in range(len(source))]
        order = sorted(range(len(source)), key=names.__getitem__)
        return Picked(source.images, order), source.labels[order]
    if folder is not None:
        return Files(folder, sorted(list_images(folder, labels="none").files, key=_own)), None
    archive = os.path.join(root, VAL_ARCHIVE)
    if not os.path.isfile(archive):
        raise _nothing(root, "validation", (*VAL_FOLDERS, VAL_ARCHIVE))
    index = open_index(archive)
    members = [member for member, name in enumerate(index.names) if is_image(name)]
    if not members:
        raise DataError(f"{archive} has no images", fix="take the archive as it is distributed")
    return Members([index], sorted(members, key=lambda member: _own(index.names[member]))), None


def file_numbers(images: Images) -> Int64[np.ndarray, " images"]:
    """The number of each validation image, 1.., from ``ILSVRC2012_val_00000001.JPEG``: what lists of labels go by.

    Raises:
        DataError: Another name, or a number twice.
    """
    numbers = np.zeros(len(images), np.int64)
    for index in range(len(images)):
        match = _VAL_NAME.match(images.name(index))
        if match is None or int(match[1]) == 0:
            raise DataError(
                f"{images[index].name} is not named as a validation image of ImageNet",
                why="labels go by the number in ILSVRC2012_val_00000001.JPEG",
                fix="keep the names of the archive, or sort the images into class folders",
            )
        numbers[index] = int(match[1])
    twice = np.flatnonzero(np.diff(np.sort(numbers)) == 0)
    if len(twice):
        number = int(np.sort(numbers)[twice[0]])
        raise DataError(
            f"validation image {number} of ImageNet is there twice",
            why=f"{len(images):,} images, {len(images) - len(twice):,} different numbers, in {images!r}",
            fix="remove the copies",
        )
    return numbers


def _own(path: str) -> str:
    return path.rpartition("/")[2]


def _first(root: str, folders: Sequence[str]) -> str | None:
    return next((path for path in (os.path.join(root, name) for name in folders) if os.path.isdir(path)), None)


def _nothing(root: str, which: str, looked_for: Sequence[str]) -> DataError:
    there = sorted(name for name in os.listdir(root) if not name.startswith("."))
    return DataError(
        f"{root} has no {which} images of ImageNet-1K",
        why=f"it holds {', '.join(there[:5]) or 'nothing'}",
        fix=f"give the folder in which one of these lies: {', '.join(looked_for)}",
    )
