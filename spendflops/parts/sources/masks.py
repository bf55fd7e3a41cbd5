"""Masks: label maps that are remapped when they are decoded, and the masks of instances from polygons and run lengths.

Reading stays lazy: a sample holds a :class:`StoredMask`, whose file is opened by ``decode_mask()``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage

IGNORED = 255
"""The label of pixels that count nowhere."""


VALUES = np.arange(256, dtype=np.int16)
"""The table of a map that stores labels."""


def label_table(labels: Mapping[int, int]) -> Int16[np.ndarray, " values"]:
    """Stored value -> label, -1 for values that must not occur."""
    table = np.full(256, -1, np.int16)
    table[list(labels)] = list(labels.values())
    return table


def class_values(
    names: Sequence[str], *, zero_is_ignored: bool = False, ignore_label: int | None = None
) -> Int16[np.ndarray, " values"]:
    """Stored value -> label, of maps that store the classes ``names`` from 0 on.

    Args:
        names: In the order of the values.
        zero_is_ignored: The value 0 is ignored, and classes begin at 1.
        ignore_label: One more value that is ignored, beside 255.

    Raises:
        ConfigError: A value that is both, two classes of one name, more values than there are.
    """
    first = int(zero_is_ignored)
    classes = {value: value - first for value in range(first, first + len(names))}
    ignored = {255, *([0] if first else []), *([] if ignore_label is None else [ignore_label])}
    wrong = sorted(value for value in ignored if value in classes or not 0 <= value <= 255)
    if wrong or len(set(names)) < len(names):
        what = f"the value {wrong[0]} is to be ignored" if wrong else "two pixel classes have one name"
        raise ConfigError(
            f"{what}, the {len(names)} classes have the values {first} to {first + len(names) - 1}",
            why="values are 0 to 255, each a class or ignored",
            fix="leave names out of mask_classes that are no classes, at the end; correct ignore_label",
        )
    return label_table(classes | dict.fromkeys(ignored, IGNORED))


class StoredMask:
    """A label map in a file, whose values become labels when it is decoded.

    Args:
        file: The encoded map, one 8-bit value a pixel.
        table: From :func:`label_table`.
        image: What it is a map of, where their sizes are to be compared.
    """

    __slots__ = ("_file", "_image", "_table")

    def __init__(self, file: EncodedImage, table: Int16[np.ndarray, " values"], *, image: EncodedImage | None = None):
        self._file, self._table, self._image = file, table, image

    def __repr__(self) -> str:
        return f"StoredMask({self._file.name!r})"

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self._file.name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the header alone.

        Raises:
            DataError: Not an image.
        """
        return self._file.size

    def decode_mask(self) -> UInt8[np.ndarray, "H W"]:
        """The labels, :data:`IGNORED` where a pixel has none.

        Raises:
            DataError: Not a label map, a value without a label, or another size than its image.
        """
        stored = self._file.decode_mask()
        if self._image is not None and stored.shape != self._image.size:
            raise DataError(
                f"mask {self.name} is {_size(stored.shape)}, its image {_size(self._image.size)}",
                why=f"labels of pixels that are not there mean nothing; the image is {self._image.name}",
                fix="restore both files from the archive",
            )
        labels = self._table[stored]
        if labels.size and labels.min() < 0:
            value = int(stored[labels < 0].min())
            known = np.flatnonzero((self._table >= 0) & (self._table != IGNORED))
            raise DataError(
                f"mask {self.name} has the value {value}",
                why=f"its {int((labels < 0).sum()):,} pixel(s) like that have no label: {known[0]}..{known[-1]} do",
                fix="restore the file from the archive; a map that was resized must be resized by nearest neighbour",
            )
        return labels.astype(np.uint8)


class MaskedImages:
    """Samples of image files, their label maps, and columns of numbers.

    Args:
        root: The folder of all files.
        images: Paths below it.
        features: What a sample holds: ``image``, ``mask`` or a column.
        masks: Paths below it, as many; needed for ``mask``.
        table: From :func:`label_table`; by default the values are the labels.
        columns: Feature -> an int for each image.
    """

    def __init__(
        self,
        root: str,
        images: Sequence[str],
        *,
        features: Sequence[str],
        masks: Sequence[str] = (),
        table: Int16[np.ndarray, " values"] = VALUES,
        columns: Mapping[str, np.ndarray] | None = None,
    ):
        self._root, self._images, self._features = root, tuple(images), tuple(features)
        self._masks, self._table, self._columns = tuple(masks), table, dict(columns or {})

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self._images):
            raise IndexError(f"index {index} of {len(self._images)} examples")
        sample: dict[str, Any] = {}
        image = EncodedImage(os.path.join(self._root, self._images[index]))
        for feature in self._features:
            if feature == "image":
                sample[feature] = image
            elif feature == "mask":
                file = EncodedImage(os.path.join(self._root, self._masks[index]))
                # Sizes are compared where the image is read anyway.
                beside = image if "image" in self._features else None
                sample[feature] = StoredMask(file, self._table, image=beside)
            else:
                sample[feature] = int(self._columns[feature][index])
        return sample

    def __repr__(self) -> str:
        return f"MaskedImages({self._root!r}, {len(self)} images)"


def pycocotools_mask() -> Any:
    """The module ``pycocotools.mask``, which draws polygons.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ConfigError(
            "instance_masks needs pycocotools",
            why="polygons are drawn by its rule, the one that scores are computed with",
            fix="pip install 'spendflops[detection]'",
        ) from error
    return mask


def instance_mask(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of one instance as COCO stores it.

    Run lengths are decoded here and not by pycocotools, whose C code reads and writes beyond its buffers where they are
    damaged.

    Args:
        segmentation: A list of polygons ``[x0, y0, x1, y1, ...]`` in pixels, their union is meant, or run lengths
            ``{"size": [H, W], "counts": ...}`` in column-major order: a list that begins with the zeros, or COCO's
            compressed string.
        size: Height and width in pixels of the image.

    Raises:
        ValueError: What is wrong with it.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if fault := outline_fault(segmentation):
        raise ValueError(fault)
    height, width = size
    for polygon in segmentation:
        points = np.asarray(polygon)
        if points.ndim != 1 or points.dtype.kind not in "iuf" or not np.isfinite(points).all():
            raise ValueError("a polygon holds something that is no number")
        x, y = points[0::2], points[1::2]
        # pycocotools walks along every edge: a point at 1e9 takes all memory.
        if x.min() < -width or x.max() > 2 * width or y.min() < -height or y.max() > 2 * height:
            raise ValueError(f"a polygon lies far outside the image of {_size(size)}")
    mask = pycocotools_mask()
    runs = mask.frPyObjects([[float(v) for v in polygon] for polygon in segmentation], height, width)
    return mask.decode(mask.merge(runs)).astype(bool)


def outline_fault(segmentation: Any) -> str:
    """What is wrong with the form of a segmentation, without a look at its numbers; empty if nothing is."""
    if isinstance(segmentation, dict):
        return "" if "size" in segmentation and "counts" in segmentation else "run lengths need size and counts"
    if not isinstance(segmentation, list) or not segmentation:
        return "there is no polygon"
    if any(not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        return "a polygon needs x and y of three points or more"
    return ""


def _from_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    stated, counts = segmentation.get("size"), segmentation.get("counts")
    if stated != list(size):
        raise ValueError(f"its run lengths are of an image of size {stated}, the image has {list(size)}")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or any(type(run) is not int or run < 0 for run in counts):
        raise ValueError("run lengths are whole numbers, none below 0")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"its run lengths sum to {sum(counts)}, an image of {_size(size)} has {size[0] * size[1]}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[1], size[0]).T


def _decompressed(text: str) -> list[int]:
    """COCO's string: 5 bits a character from 48 on, lowest first, 32 says more follow, 16 in the last is the sign.

    From the fourth run on the difference to the last run but one is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its compressed run lengths have the character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths end within a number")
    return counts


def _size(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
