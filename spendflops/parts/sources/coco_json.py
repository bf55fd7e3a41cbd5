"""From a JSON file in COCO's layout, or in LVIS's, to its index, and what such a file can have wrong.

LVIS has ``coco_url`` in place of ``file_name``, whose last two parts are the path (``val2017/000000000139.jpg``), lists
of categories with every image, and no ``iscrowd``. An annotation without that one marks no crowd, as in COCO's own
evaluation.

The file is read element by element, so that 900,000 annotations never exist as Python objects.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.coco_index import ROWS, Categories, CocoIndex, Numbers, Strings, changed, stamp_of
from spendflops.parts.sources.json_scan import elements
from spendflops.parts.sources.masks import outline_fault

NO_AREA = "a box without area"
NO_OUTLINE = "a segmentation that is none"
WRONG_FIELD = "a missing or wrong field"

_IMAGE = struct.Struct("<qii")
_IMAGES = np.dtype([("id", "<i8"), ("size", "<i4", 2)])
_CAPTION = struct.Struct("<qq")
_CAPTIONS = np.dtype([("id", "<i8"), ("image", "<i8")])
_BOX = struct.Struct("<qqq5dqqI?")
_BOXES = np.dtype(
    [
        ("id", "<i8"),
        ("image", "<i8"),
        ("category", "<i8"),
        ("box", "<f8", 4),
        ("area", "<f8"),
        ("crowd", "<i8"),
        ("start", "<i8"),
        ("size", "<u4"),
        ("outlined", "?"),
    ]
)
_IMAGE_FIELDS = {"id": int, "height": int, "width": int}
_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
_CAPTION_FIELDS = {"id": int, "image_id": int, "caption": str}
_BOX_FIELDS = {"id": int, "image_id": int, "category_id": int, "bbox": list, "area": (int, float)}
_OUT_OF_RANGE = "a bbox that is not four numbers, or a number out of range"
_UNCLEAR = "it is not clear which of them is meant"


class Faults:
    """Raises at the first annotation that cannot be meant, or counts them: ``dropped``, by reason."""

    def __init__(self, path: str, invalid: str):
        self._path, self._fail = path, invalid == "fail"
        self.dropped: dict[str, int] = {}

    def found(self, which: str, reason: str, *, count: int = 1, why: str = "") -> None:
        """``count`` annotations, the first of them ``which``; boxes without area never raise."""
        if self._fail and reason != NO_AREA:
            raise DataError(
                f"{self._path}: annotation {which} has {reason}",
                why=why,
                fix="correct the file, or set invalid='drop', which leaves such annotations out and counts them",
            )
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def where(self, bad: Bool[np.ndarray, " rows"], ids: np.ndarray, reason: str, why: str = "") -> None:
        """:meth:`found` for the rows that are ``bad``."""
        if count := int(bad.sum()):
            shown = f"{why}; " if why else ""
            self.found(str(ids[np.argmax(bad)]), reason, count=count, why=f"{shown}{count:,} in the file are like that")


def make_index(path: str, *, invalid: str = "fail") -> CocoIndex:
    """The index of a JSON file from its text.

    Arguments and errors are those of :func:`~spendflops.parts.sources.coco.open_index`.
    """
    stamp, faults = stamp_of(path), Faults(path, invalid)
    images, boxes, spoken = bytearray(), bytearray(), bytearray()
    files: list[bytes] = []
    captions: list[bytes] = []
    lists: tuple[list[list[int]], ...] = tuple([] for _ in _LISTS)
    categories: dict[int, str] = {}
    for key, number, value, start, end in elements(path, ("images", "annotations", "categories")):
        if key == "images":
            row, file, named = _image(path, number, value)
            images += row
            files.append(file)
            for into, ids in zip(lists, named, strict=True):
                into.append(ids)
        elif key == "categories":
            _category(path, number, value, categories)
        elif isinstance(value, dict) and "caption" in value:
            try:
                caption = value["caption"].encode()
                spoken += _CAPTION.pack(value["id"], value["image_id"])
                captions.append(caption)
            except (KeyError, AttributeError, struct.error, UnicodeEncodeError):
                why = _field_fault(value, _CAPTION_FIELDS) or "a caption with half a character, or an id out of range"
                faults.found(f"(entry {number})", WRONG_FIELD, why=why)
        else:
            try:
                ids = value["id"], value["image_id"], value["category_id"]
                outlined, many = not outline_fault(value.get("segmentation")), value.get("iscrowd", 0)
                boxes += _BOX.pack(*ids, *value["bbox"], value["area"], many, start, end - start, outlined)
            except (KeyError, TypeError, AttributeError, OverflowError, struct.error):
                crowd = {"iscrowd": int} if isinstance(value, dict) and "iscrowd" in value else {}
                why = _field_fault(value, {**_BOX_FIELDS, **crowd}) or _OUT_OF_RANGE
                faults.found(f"(entry {number})", WRONG_FIELD, why=why)
    if stamp_of(path) != stamp:
        raise changed(path)
    if not files:
        raise DataError(f"{path} has no images", why="its list 'images' is absent or empty", fix="fetch it again")
    table = np.frombuffer(images, _IMAGES)
    order = np.argsort(table["id"], kind="stable")
    image_ids, sizes = table["id"][order], table["size"][order]
    if (twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]).size:
        raise DataError(f"{path} has the image id {twice[0]} twice", why=_UNCLEAR, fix="correct the file")
    known = Categories(ids=tuple(sorted(categories)), names=tuple(categories[i] for i in sorted(categories)))
    negative, incomplete = (_lists(path, field, of, order, known) for field, of in zip(_LISTS, lists, strict=True))
    rows, starts, overhanging = _boxes(faults, np.frombuffer(boxes, _BOXES), image_ids, sizes, known)
    kept, caption_starts = _captions(faults, np.frombuffer(spoken, _CAPTIONS), image_ids)
    return CocoIndex(
        path=path,
        stamp=stamp,
        image_ids=image_ids,
        sizes=sizes,
        files=Strings.of([files[i] for i in order]),
        categories=known,
        negative=negative,
        open=incomplete,
        rows=rows,
        starts=starts,
        captions=Strings.of([captions[i] for i in kept]),
        caption_starts=caption_starts,
        dropped=faults.dropped,
        overhanging=overhanging,
    )


def _field_fault(value: Any, fields: Mapping[str, Any]) -> str:
    if not isinstance(value, dict):
        return f"it is {str(value)[:60]!r}"
    named = f" (its id is {value['id']})" if "id" in value else ""
    for name, kind in fields.items():
        if name not in value:
            return f"there is no {name!r}{named}"
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            return f"{name!r} is {str(value[name])[:60]!r}{named}"
    return ""


def _image(path: str, number: int, value: Any) -> tuple[bytes, bytes, list[list[int]]]:
    """What is stored of an image: id and size, its file, and its :data:`_LISTS`."""
    source = "coco_url" if isinstance(value, dict) and "file_name" not in value and "coco_url" in value else "file_name"
    fault = _field_fault(value, {source: str, **_IMAGE_FIELDS})
    if not fault:
        name = "/".join(value[source].split("/")[-2:]) if source == "coco_url" else value[source]
        named = [value.get(field, []) for field in _LISTS]
        if min(value["height"], value["width"]) < 1:
            fault = f"its size is {value['width']} x {value['height']}"
        elif not name or os.path.isabs(name) or ".." in name.split("/") or "\0" in name:
            fault = f"its {source} {value[source]!r} is no path below the folder of the images"
        elif not all(isinstance(ids, list) and all(type(i) is int for i in ids) for ids in named):
            fault = f"{' or '.join(_LISTS)} is no list of ids"
    try:
        if not fault:
            return _IMAGE.pack(value["id"], value["height"], value["width"]), name.encode(), named
    except (struct.error, UnicodeEncodeError) as error:
        fault = f"a field is out of range: {error}"
    raise DataError(
        f"{path}: image (entry {number}) has {WRONG_FIELD}", why=fault, fix="correct the file, or fetch it again"
    )


def _lists(path: str, field: str, lists: list[list[int]], order: np.ndarray, categories: Categories) -> Numbers:
    """The lists of category ids in the order of the images."""
    try:
        found = Numbers.of([lists[i] for i in order])
        categories.from_id(found.data)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: {field} of an image names no category", why=str(error), fix="correct the file"
        ) from error
    return found


def _category(path: str, number: int, value: Any, categories: dict[int, str]) -> None:
    fault = _field_fault(value, {"id": int, "name": str})
    if not fault and (value["id"] in categories or value["name"] in categories.values()):
        fault = f"the id or the name of {value['id']} {value['name']!r} is that of another"
    try:
        if not fault:
            struct.pack("<q", value["id"])
            value["name"].encode()
    except (struct.error, UnicodeEncodeError) as error:
        fault = f"a field is out of range: {error}"
    if fault:
        raise DataError(f"{path}: category (entry {number}) has {WRONG_FIELD}", why=fault, fix="correct the file")
    categories[value["id"]] = value["name"]


def _boxes(
    faults: Faults, rows: np.ndarray, image_ids: np.ndarray, sizes: np.ndarray, categories: Categories
) -> tuple[np.ndarray, np.ndarray, int]:
    """The rows that are valid, by image; where those of each image begin; how many reach over an edge."""
    ids, stored = rows["id"], rows["box"]
    image, known = _find(image_ids, rows["image"])
    with np.errstate(over="ignore", invalid="ignore"):
        box = np.concatenate([stored[:, :2], stored[:, :2] + stored[:, 2:]], axis=1).astype(np.float32)
        area = rows["area"].astype(np.float32)
        finite = np.isfinite(box).all(1) & np.isfinite(area)
        negative = (stored[:, 2:] < 0).any(1) | (area < 0)
        empty = (box[:, 2:] <= box[:, :2]).any(1)
        edge = sizes[image][:, ::-1]
        outside = ((box[:, 2:] <= 0) | (box[:, :2] >= edge)).any(1) & ~empty
        over = ((box[:, :2] < 0) | (box[:, 2:] > edge)).any(1)
    category_ids = np.asarray(categories.ids, np.int64)
    ltwh = "a bbox is left, top, width and height in pixels of its image"
    bad = np.zeros(len(rows), bool)
    for reason, found, why in (
        ("an image_id that is not in the file", ~known, ""),
        ("a category_id that is not in the file", ~_find(category_ids, rows["category"])[1], ""),
        ("the id of another", _repeated(ids), _UNCLEAR),
        ("a bbox or an area that is no number", ~finite, ""),
        ("a negative width, height or area", negative, ltwh),
        ("an iscrowd that is neither 0 nor 1", (rows["crowd"] != 0) & (rows["crowd"] != 1), ""),
        ("a box outside its image", outside, ltwh),
        (NO_AREA, empty, ""),
    ):
        faults.where(found & ~bad, ids, reason, why)
        bad |= found
    order = np.flatnonzero(~bad)
    order = order[np.argsort(image[order], kind="stable")]
    kept = np.zeros(len(order), ROWS)
    kept["box"], kept["area"] = box[order], area[order]
    for name in ("category", "crowd", "outlined", "id", "start", "size"):
        kept[name] = rows[name][order]
    return kept, np.searchsorted(image[order], np.arange(len(image_ids) + 1)), int(over[order].sum())


def _captions(faults: Faults, rows: np.ndarray, image_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are valid, by image; where those of each image begin."""
    image, known = _find(image_ids, rows["image"])
    repeated = known & _repeated(rows["id"])
    faults.where(~known, rows["id"], "an image_id that is not in the file")
    faults.where(repeated, rows["id"], "the id of another", _UNCLEAR)
    order = np.flatnonzero(known & ~repeated)
    order = order[np.argsort(image[order], kind="stable")]
    return order, np.searchsorted(image[order], np.arange(len(image_ids) + 1))


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``known``, which ascends, and whether they are right (0 where not)."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found = known[at] == wanted
    return np.where(found, at, 0), found


def _repeated(ids: np.ndarray) -> Bool[np.ndarray, " ids"]:
    """True for all but the first of equal ids."""
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated
