"""Images beside a JSON file in COCO's layout: boxes, instance masks, captions, by random access.

The index of ``X.json`` is written beside it as ``X.json.index.npz``, or, where that folder cannot be written, into the
user's cache. It holds the size and the time of the JSON file: one that has changed is read again before a run, and is
an error during one.

What the published files have is not an error: boxes without area (train2017 has two, annotations 918 and 2206849) are
left out and counted (``CocoIndex.dropped``), boxes that reach over the edge of their image are kept as they are, since
transforms clip them, and counted (``CocoIndex.overhanging``). Other annotations that cannot be meant fail, or are
dropped and counted. The annotation id 0 is read like any other, but whoever asks for ``box_ids`` is refused it: COCO's
evaluation takes 0 for "no match", and two perfect boxes with ids 0 and 1 score 0.25.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources.coco_index import ROWS, Categories, CocoIndex, Numbers, Strings, stamp_of
from spendflops.parts.sources.coco_json import NO_AREA, NO_OUTLINE, Faults, make_index
from spendflops.parts.sources.folder import list_images
from spendflops.parts.sources.masks import instance_mask, pycocotools_mask
from spendflops.parts.sources.stored import places, store

VERSION = 2

INVALID = ("fail", "drop")
"""What becomes of annotations that cannot be meant: an error that names the first, or left out and counted."""

BOX_FEATURES = {
    "boxes": "float32 M 4",
    "box_labels": "int32 M",
    "area": "float32 M",
    "crowd": "bool M",
    "box_ids": "int64 M",
    "instance_masks": "bool M H W",
    "labels": "int32 M",
}
FEATURES = {"image": "uint8 H W C", "image_id": "int64", "captions": "str M", **BOX_FEATURES}
"""Feature -> specification. ``area`` is the annotation's own, of the mask; ``labels`` are the different box labels."""


def open_index(path: str | os.PathLike, *, invalid: str = "fail", masks: bool = False) -> CocoIndex:
    """The index of a JSON file, read where it was stored, else made and stored.

    Args:
        path: A file with ``images``, ``annotations`` (boxes or captions; may be absent) and ``categories``.
        invalid: One of :data:`INVALID`. Damage that concerns more than one annotation always fails.
        masks: Counts boxes whose segmentation has not the form of one among the invalid ones.

    Raises:
        DataError: Missing, unreadable, no JSON or cut short; an image or a category that lacks a field or has the id of
            another; an invalid annotation: of an image or a category that is not in the file, with the id of another,
            without a field, with a box that is outside its image, negative or no number.
        ConfigError: Unknown ``invalid``.
    """
    check_invalid(invalid)
    path = os.path.abspath(os.fspath(path))
    stamp, candidates = stamp_of(path), places(path, ".index.npz")
    index = next((found for place in candidates if (found := _load(place, path, stamp)) is not None), None)
    if index is None:
        index = make_index(path, invalid=invalid)
        # What was dropped on demand has to fail where it is not demanded.
        if not set(index.dropped) - {NO_AREA}:
            any(_store(place, index) for place in candidates)
    return _with_outlines(index, invalid) if masks else index


def check_invalid(invalid: str) -> None:
    """Raises a ConfigError for what is not one of :data:`INVALID`."""
    if invalid not in INVALID:
        known = list(INVALID)
        raise ConfigError(f"unknown invalid {invalid!r}{suggest(invalid, known)}", fix=f"use one of {known}")


def index_folder(folder: str) -> CocoIndex:
    """The index of images that have no JSON file: their ids are the numbers at the end of their names.

    Raises:
        DataError: Missing, unreadable, no images, a name without a number or two with the same.
    """
    files = list_images(folder, labels="none").files
    ids: list[int] = []
    for file in files:
        number = re.search(r"(\d{1,18})\.\w+$", file)
        if number is None:
            raise DataError(f"image {file} in {folder} has no id", why="its name does not end in a number")
        ids.append(int(number.group(1)))
    order = np.argsort(np.array(ids, np.int64), kind="stable")
    image_ids, starts = np.array(ids, np.int64)[order], np.zeros(len(ids) + 1, np.int64)
    none = Numbers(np.zeros(0, np.int64), starts)
    if (twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]).size:
        raise DataError(f"{folder} has two images with the id {twice[0]}", why="their names end in the same number")
    return CocoIndex(
        path=folder,
        stamp=(0, 0),
        image_ids=image_ids,
        sizes=np.zeros((len(ids), 2), np.int32),
        files=Strings.of([files[i].encode() for i in order]),
        categories=Categories(ids=(), names=()),
        negative=none,
        open=none,
        rows=np.zeros(0, ROWS),
        starts=starts,
        captions=Strings.of([]),
        caption_starts=starts,
        dropped={},
        overhanging=0,
    )


class CocoSource:
    """Samples in the order of the image ids. Boxes and captions keep the order of their files.

    Args:
        folder: Of the images.
        index: From :func:`open_index`, with ``masks`` where instance masks are wanted.
        features: What a sample holds, of :data:`FEATURES`; of LVIS's files ``neg_labels`` and ``open_labels``, too.
        captions: The index of another file, for ``captions``; by default they are in ``index``, too.
        categories: Which category has which label; by default those of the file.
        annotated_only: Leaves out images without a box.
        repeats: How often each image of the index comes, one copy after the other; in place of ``annotated_only``.

    Raises:
        DataError: ``index`` has categories that ``categories`` has not, ``captions`` lacks an image, or ``box_ids`` are
            asked for and one is 0.
        ConfigError: ``instance_masks`` without pycocotools.
    """

    def __init__(
        self,
        folder: str,
        index: CocoIndex,
        *,
        features: Sequence[str],
        captions: CocoIndex | None = None,
        categories: Categories | None = None,
        annotated_only: bool = False,
        repeats: Int64[np.ndarray, " images"] | None = None,
    ):
        self.folder, self.index, self.features = folder, index, tuple(features)
        self.categories = index.categories if categories is None else categories
        _check_categories(index, self.categories)
        if "box_ids" in features and (index.rows["id"] == 0).any():
            raise DataError(
                f"{index.path} has an annotation with the id 0",
                why="COCO's evaluation takes 0 for a box without a match: scores would be wrong, and nobody would know",
                fix="number the annotations from 1, or do without box_ids",
            )
        if "instance_masks" in features:
            pycocotools_mask()
        if repeats is None:
            repeats = (np.diff(index.starts) > 0).astype(np.int64) if annotated_only else np.ones(len(index), np.int64)
        self._places = np.repeat(np.arange(len(index)), repeats)
        self._spoken = index if captions is None else captions
        at = np.searchsorted(self._spoken.image_ids, index.image_ids)
        lost = at == len(self._spoken)
        lost |= self._spoken.image_ids[np.where(lost, 0, at)] != index.image_ids
        if lost.any():
            raise DataError(
                f"{self._spoken.path} lacks {int(lost.sum()):,} images of {index.path}",
                why=f"the first is image {index.image_ids[lost][0]}",
                fix="fetch both files again: they describe the same images",
            )
        self._spoken_at = at
        # Boxes and masks are right for images of the stated size alone; a header is read in a fraction of a decode.
        self._check_size = "image" in features and any(name in BOX_FEATURES for name in features if name != "labels")

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> annotations of the files that no sample has."""
        return {**self._spoken.dropped, **self.index.dropped}

    def missing(self) -> tuple[str, ...]:
        """The images that are not on the disk, as paths below the folder: every file is looked for."""
        files = (self.index.files[int(i)] for i in np.unique(self._places))
        return tuple(file for file in files if not os.path.isfile(os.path.join(self.folder, file)))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self._places):
            raise IndexError(f"index {index} of {len(self._places)} examples")
        at = int(self._places[index])
        rows = self.index.boxes_of(at)
        return {feature: getattr(self, f"_{feature}")(at, rows) for feature in self.features}

    def __repr__(self) -> str:
        gone = "".join(f", left out {count:,}: {reason}" for reason, count in self.left_out.items())
        return f"CocoSource({self.folder!r}, {self.index.path!r}, {len(self)} images{gone})"

    def _image(self, at: int, rows: np.ndarray) -> EncodedImage:
        image = EncodedImage(os.path.join(self.folder, self.index.files[at]))
        stated = tuple(self.index.sizes[at].tolist())
        if self._check_size and image.size != stated:
            raise DataError(
                f"image {image.name} is {image.size[1]} x {image.size[0]}, {self.index.path} says "
                f"{stated[1]} x {stated[0]}",
                why="its boxes would be in the wrong places",
                fix="use the images as published, not resized or rotated",
            )
        return image

    def _image_id(self, at: int, rows: np.ndarray) -> int:
        return int(self.index.image_ids[at])

    def _captions(self, at: int, rows: np.ndarray) -> tuple[str, ...]:
        return self._spoken.captions_of(int(self._spoken_at[at]))

    def _boxes(self, at: int, rows: np.ndarray) -> np.ndarray:
        return rows["box"].copy()

    def _box_labels(self, at: int, rows: np.ndarray) -> np.ndarray:
        return self.categories.from_id(rows["category"])

    def _area(self, at: int, rows: np.ndarray) -> np.ndarray:
        return rows["area"].copy()

    def _crowd(self, at: int, rows: np.ndarray) -> np.ndarray:
        return rows["crowd"].copy()

    def _box_ids(self, at: int, rows: np.ndarray) -> np.ndarray:
        return rows["id"].copy()

    def _neg_labels(self, at: int, rows: np.ndarray) -> np.ndarray:
        return self.categories.from_id(self.index.negative[at])

    def _open_labels(self, at: int, rows: np.ndarray) -> np.ndarray:
        return self.categories.from_id(self.index.open[at])

    def _labels(self, at: int, rows: np.ndarray) -> np.ndarray:
        return np.unique(self.categories.from_id(rows["category"]))

    def _instance_masks(self, at: int, rows: np.ndarray) -> Bool[np.ndarray, "M H W"]:
        size = tuple(self.index.sizes[at].tolist())
        masks = np.zeros((len(rows), *size), bool)
        for i, segmentation in enumerate(self.index.segmentations_of(at)):
            try:
                masks[i] = instance_mask(segmentation, size)
            except ValueError as error:
                raise DataError(
                    f"{self.index.path}: annotation {rows['id'][i]} has no mask",
                    why=str(error),
                    fix="correct the file, or do without instance_masks",
                ) from error
        return masks


def _check_categories(index: CocoIndex, categories: Categories) -> None:
    known = set(zip(categories.ids, categories.names, strict=True))
    strange = [pair for pair in zip(index.categories.ids, index.categories.names, strict=True) if pair not in known]
    if strange:
        raise DataError(
            f"{index.path} has the category {strange[0][0]} {strange[0][1]!r}, which the data set has not",
            why=f"{len(strange)} of its {len(index.categories.ids)} categories are unknown",
            fix="check the path: these are the annotations of another data set",
        )


def _with_outlines(index: CocoIndex, invalid: str) -> CocoIndex:
    """The index without boxes whose segmentation has not the form of one."""
    bad = ~index.rows["outlined"]
    faults = Faults(index.path, invalid)
    faults.where(bad, index.rows["id"], NO_OUTLINE, "polygons of three points or more, or run lengths, are expected")
    starts = np.concatenate([[0], np.cumsum(~bad)])[index.starts]
    dropped = {**index.dropped, **faults.dropped}
    return dataclasses.replace(index, rows=index.rows[~bad], starts=starts, dropped=dropped)


def _load(place: Path, path: str, stamp: tuple[int, int]) -> CocoIndex | None:
    """The stored index; None where there is none, it is of another file, or it cannot be read."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if int(stored["version"]) != VERSION or tuple(stored["stamp"].tolist()) != stamp:
                return None
            files, names, captions = (
                Strings(stored[f"{name}_data"], stored[f"{name}_starts"]) for name in ("files", "names", "captions")
            )
            negative, incomplete = (
                Numbers(stored[f"{name}_data"], stored[f"{name}_starts"]) for name in ("negative", "open")
            )
            words = tuple(names[i] for i in range(len(names)))
            no_area, overhanging = stored["counts"].tolist()
            return CocoIndex(
                path=path,
                stamp=stamp,
                image_ids=stored["image_ids"],
                sizes=stored["sizes"],
                files=files,
                categories=Categories(ids=tuple(stored["ids"].tolist()), names=words),
                negative=negative,
                open=incomplete,
                rows=stored["rows"].astype(ROWS, copy=False),
                starts=stored["starts"],
                captions=captions,
                caption_starts=stored["caption_starts"],
                dropped={NO_AREA: no_area} if no_area else {},
                overhanging=overhanging,
            )
    except Exception:  # a cache that cannot be read is made again, whatever is wrong with it
        return None


def _store(place: Path, index: CocoIndex) -> bool:
    names = Strings.of([name.encode() for name in index.categories.names])
    many: dict[str, Strings | Numbers] = {"files": index.files, "names": names, "captions": index.captions}
    many |= {"negative": index.negative, "open": index.open}
    arrays: dict[str, Any] = {f"{name}_data": of.data for name, of in many.items()}
    arrays |= {f"{name}_starts": of.starts for name, of in many.items()}
    for name in ("stamp", "image_ids", "sizes", "rows", "starts", "caption_starts"):
        arrays[name] = np.asarray(getattr(index, name))
    counts = np.array([index.dropped.get(NO_AREA, 0), index.overhanging])
    arrays |= {"version": VERSION, "ids": np.array(index.categories.ids, np.int64), "counts": counts}
    return store(place, arrays, like=index.path)
