"""Large-scale jitter: images at a random scale, cropped or padded to the model's size, with their boxes and masks.

Ghiasi et al. 2021 (arXiv 2012.07177) in the form of ViTDet (Li et al. 2022, arXiv 2203.16527): a flip, the image fitted
into the model's size times U(0.1, 2.0), a random crop, boxes made anew from what the crop leaves of the masks. The
range 0.8 to 1.25 is that of TensorFlow's Mask R-CNN, 1 to 1 is none.

Pixels are resized by Pillow's bilinear filter, which grows with the scale when it shrinks, as in detectron2. Only the
window that is seen is made; but for rounding it has the pixels of a crop of the resized image. Masks are never resized
as a whole: an affine map keeps what lies where in a box, so each is read inside its box at the resolution of the
stored image.

Deviation: detectron2 draws one number for both axes of the crop, so that it lies on a diagonal; here each axis has its
own. Its boxes are those of clipped polygons, here of the pixels that polygons or run lengths cover. Both keep all
objects; here there are at most ``objects`` of an image.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float64, UInt8

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.objective import Views
from spendflops.contracts.types import Image, InputSpec, Sample
from spendflops.parts import images
from spendflops.parts.windows import mean_canvas
from spendflops_plugins.detection.masks import crop_masks

BOXES_FROM = ("masks", "boxes")
"""Where boxes come from: around what is left of the masks, or the data set's, cut off at the edges of the crop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionViews(Views):
    """A random scale, crop and flip of an image with the objects in it; what is missing is mean colour.

    Gives ``image`` uint8 [H W 3]; ``boxes`` float32 [M 4], left, top, right, bottom in pixels of it, those of ``valid``
    bool [M] first and zeros behind them; ``box_labels`` int32 [M]; ``masks`` uint8 [M S S], each cropped to its box;
    ``extent`` int32 [2], height and width of what is image, in the upper left corner;
    ``dropped`` int32 [3], objects beyond M, those that vanished (outside the crop, smaller than ``min_area``, without a
    mask), crowds.

    Of more than M objects the M with the largest boxes stay, of equal ones the first; they keep the order of the data
    set. Crowds are no objects to learn and are always left out.

    Attributes:
        scale: Range of the factor on the model's size into which the image is fitted, sides in their ratio.
        flip: Probability of a horizontal flip.
        objects: M.
        mask_size: S; 0 gives no masks.
        boxes_from: One of :data:`BOXES_FROM`.
        crowd: Whether the data set has the feature ``crowd``. Without, every object is one.
        min_area: Square pixels of a box, below which an object has vanished.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5
    objects: int = 100
    mask_size: int = 112
    boxes_from: str = "masks"
    crowd: bool = True
    min_area: float = 1e-3

    def __post_init__(self) -> None:
        if self.boxes_from not in BOXES_FROM:
            near = suggest(self.boxes_from, BOXES_FROM)
            raise ConfigError(f"unknown boxes_from {self.boxes_from!r}{near}", fix=f"use one of {list(BOXES_FROM)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is {self.scale}", fix="a smallest and a largest factor, above 0")
        if self.objects < 1 or self.mask_size < 0 or self.min_area <= 0:
            raise ConfigError(
                f"objects is {self.objects}, mask_size {self.mask_size}, min_area {self.min_area}",
                why="a box without area has no logarithm of its sides",
                fix="at least one object, masks of 0 pixels or more, an area above 0",
            )

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        boxes = ("boxes",) if self.boxes_from == "boxes" else ()
        masks = ("instance_masks",) if self.mask_size or self.boxes_from == "masks" else ()
        return ("image", "box_labels", *boxes, *masks, *(("crowd",) if self.crowd else ()))

    @property
    def optional(self) -> tuple[str, ...]:
        """Which optional inputs are given."""
        return ("masks",) if self.mask_size else ()

    def letters(self, spec: InputSpec) -> dict[str, int]:
        """Sizes of H, W, C, M and S."""
        return {**super().letters(spec), "M": self.objects, "S": self.mask_size}

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        """One example.

        Raises:
            DataError: Masks of another size than the image, features of different numbers of objects, a label that is
                no class of boxes.
        """
        self._check(sample, spec)
        window = _Window.drawn(rng, sample["image"].size, spec.size, scale=self.scale, flip=self.flip)
        labels, masks = np.asarray(sample["box_labels"]), sample.get("instance_masks")
        crowd = np.asarray(sample["crowd"]) if self.crowd else np.zeros(len(labels), bool)
        found = _tight(masks, window.stored) if self.boxes_from == "masks" else np.asarray(sample["boxes"], np.float64)
        # In pixels of the stored image, and of the canvas.
        seen = np.clip(found, np.tile(window.stored[:2], 2), np.tile(window.stored[2:], 2))
        boxes = window.mapped(seen)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        left = np.flatnonzero((areas >= self.min_area) & ~crowd)
        # In whole pixels equal objects are equal: the first of them, and then in their own order again.
        extents = np.prod(seen[left, 2:] - seen[left, :2], axis=1)
        kept = np.sort(left[np.argsort(-extents, kind="stable")[: self.objects]])
        valid = np.arange(self.objects) < len(kept)
        dropped = (len(left) - len(kept), len(labels) - len(left) - crowd.sum(), crowd.sum())
        made = {
            "image": window.painted(sample["image"], spec),
            "boxes": _padded(boxes[kept].astype(np.float32), self.objects),
            "box_labels": _padded(labels[kept].astype(np.int32), self.objects),
            "valid": valid,
            "extent": np.array(window.size, np.int32),
            "dropped": np.array(dropped, np.int32),
        }
        if self.mask_size:
            cropped = crop_masks(masks[kept], seen[kept], size=self.mask_size)
            made["masks"] = _padded(cropped[:, :, ::-1] if window.flipped else cropped, self.objects)
        return made

    def _check(self, sample: Sample, spec: InputSpec) -> None:
        labels, size = np.asarray(sample["box_labels"]), tuple(sample["image"].size)
        name = getattr(sample["image"], "name", "in memory")
        for feature in self.features[2:]:
            if len(sample[feature]) != len(labels):
                raise DataError(
                    f"{feature} of {len(sample[feature])} objects, box_labels of {len(labels)}",
                    why=f"all say something of the same objects; the image is {name}",
                )
        if "instance_masks" in self.features and sample["instance_masks"].shape[1:] != size:
            height, width = sample["instance_masks"].shape[1:]
            raise DataError(
                f"masks of {width} x {height} pixels for an image of {size[1]} x {size[0]}",
                why=f"they say which pixels of it an object covers; the image is {name}",
                fix="restore both files, or resize neither",
            )
        if spec.box_classes and len(labels) and not 0 <= labels.min() <= labels.max() < len(spec.box_classes):
            raise DataError(
                f"box_labels {labels.tolist()} of {len(spec.box_classes)} classes",
                why=f"a label that is no class cannot be learned; the image is {name}",
                fix="correct the labels, or give the data set all its box_classes",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """A part of an image and where it goes.

    Attributes:
        stored: Its edges (left, top, right, bottom) in pixels of the stored image, between pixels, too.
        size: Its height and width in pixels of the canvas, in whose upper left corner it lies.
        flipped: Whether left and right are exchanged there.
    """

    stored: Float64[np.ndarray, " 4"]
    size: tuple[int, int]
    flipped: bool

    @classmethod
    def drawn(
        cls,
        rng: np.random.Generator,
        stored: tuple[int, int],
        canvas: tuple[int, int],
        *,
        scale: tuple[float, float],
        flip: float,
    ) -> _Window:
        factor = rng.uniform(*scale) * min(new / old for new, old in zip(canvas, stored, strict=True))
        whole = np.array([max(1, round(factor * old)) for old in stored])
        size = np.minimum(whole, canvas)
        begin = rng.integers(whole - size + 1)
        # Products come before quotients: at the image's own edge the result is that edge, not a number beside it.
        edges = np.stack([begin, begin + size])[:, ::-1] * stored[::-1] / whole[::-1]
        return cls(stored=edges.ravel(), size=tuple(size.tolist()), flipped=rng.random() < flip)

    def mapped(self, boxes: Float64[np.ndarray, "M 4"]) -> Float64[np.ndarray, "M 4"]:
        """Boxes inside the window, from pixels of the stored image to those of the canvas."""
        begin, end, extent = self.stored[:2], self.stored[2:], np.array(self.size[::-1])
        boxes = (boxes - np.tile(begin, 2)) * np.tile(extent / (end - begin), 2)
        if self.flipped:
            boxes[:, [0, 2]] = extent[0] - boxes[:, [2, 0]]
        return np.clip(boxes, 0, np.tile(extent, 2))  # of rounding

    def painted(self, image: Image, spec: InputSpec) -> UInt8[np.ndarray, "H W 3"]:
        """The canvas with its pixels."""
        whole, (height, width) = PIL.Image.fromarray(image.decode()), self.size
        # Pillow begins between pixels, and looks beyond the box: the same as resizing all and cropping then.
        part = whole.resize((width, height), PIL.Image.Resampling.BILINEAR, box=tuple(self.stored.tolist()))
        pixels = np.asarray(part)
        canvas = mean_canvas(spec.size, spec.mean)
        canvas[:height, :width] = images.flip(pixels) if self.flipped else pixels
        return canvas


def _tight(masks: Bool[np.ndarray, "M H W"], edges: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, "M 4"]:
    """Boxes around the pixels of each mask that a window touches, whole pixels; without area where there are none."""
    left, top = np.floor(edges[:2]).astype(int)
    right, bottom = np.ceil(edges[2:]).astype(int)
    part = masks[:, top:bottom, left:right]
    columns, rows = part.any(axis=1), part.any(axis=2)
    begins = np.stack([side.argmax(axis=1) for side in (columns, rows)], axis=1)
    ends = np.stack([side.shape[1] - side[:, ::-1].argmax(axis=1) for side in (columns, rows)], axis=1)
    ends = np.where(columns.any(axis=1)[:, None], ends, begins)
    return np.concatenate([begins, ends], axis=1) + np.array([left, top, left, top], np.float64)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))
