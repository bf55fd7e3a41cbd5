"""Scoring label maps: crops, windows over images larger than the model's input, logits at the pixels of the labels.

On the host an image becomes K windows of the model's size. On the device the logits of the windows are upsampled,
averaged where windows overlap, and read at the centre of every label pixel (bilinear, half-pixel centres, edges held).
All shapes are static: unused windows are marked, labels are a list of pixels that is filled up with ignored ones.
Windows lie along one axis: the other one has the model's size, or is padded to it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import Sample
from spendflops.parts.images import decode_mask, resize
from spendflops.parts.metrics import IGNORE, resize_scores

LONGEST = 4
"""Longer sides are cut down to this many times the model's size: the (2048, 512) of mmsegmentation's tests."""

CHUNK = 1 << 14
"""Label pixels that are read at one time: it bounds the memory, [CHUNK C] float32 a few times an image."""


def label_map(sample: Sample) -> UInt8[np.ndarray, "H W"]:
    """The label map of a sample.

    Raises:
        DataError: Not one 8-bit index a pixel, or another size than the image.
    """
    mask, size = decode_mask(sample["mask"]), tuple(sample["image"].size)
    if mask.shape != size:
        raise DataError(
            f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of {size[1]} x {size[0]}",
            why=f"labels belong to pixels; the image is {getattr(sample['image'], 'name', 'in memory')}",
            fix="restore both files, or resize neither",
        )
    return mask


def mean_canvas(size: tuple[int, int], mean: tuple[float, ...]) -> UInt8[np.ndarray, "H W 3"]:
    """``size`` pixels of the colour that normalisation makes zero, but for rounding."""
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:1] = np.rint(255 * np.asarray(mean)).astype(np.uint8)
    canvas[1:] = canvas[0]  # whole rows at a time: three bytes at a time are slow
    return canvas


@dataclasses.dataclass(frozen=True, kw_only=True)
class CenterCrop(Preprocess):
    """One crop of the model's size from the middle of the stored image, which is not rescaled.

    What a small image lacks, below and at the right, is mean colour, and ignored in the label map. Gives ``image``
    uint8 [H W 3] and ``mask`` uint8 [H W].

    Attributes:
        size: Height and width in pixels of the model's input.
        mean: Of the model's normalisation, on the scale 0..1.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return ("image", "mask")

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        return {"image": ("uint8", (*self.size, 3)), "mask": ("uint8", tuple(self.size))}

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One example."""
        mask = label_map(sample)
        tops = [max(0, old - new) // 2 for old, new in zip(mask.shape, self.size, strict=True)]
        sides = [min(old, new) for old, new in zip(mask.shape, self.size, strict=True)]
        image, labels = mean_canvas(self.size, self.mean), np.full(self.size, IGNORE, np.uint8)
        image[: sides[0], : sides[1]] = sample["image"].decode((*tops, *sides))
        labels[: sides[0], : sides[1]] = mask[tops[0] : tops[0] + sides[0], tops[1] : tops[1] + sides[1]]
        return {"image": image, "mask": labels}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Preprocess):
    """K windows of the model's size over the resized image, and its labels as a list of pixels, row after row.

    Gives ``image`` uint8 [K H W 3]; ``offsets`` int32 [K], where each begins along the axis that they lie along;
    ``valid`` bool [K]; ``turned`` bool [], whether that axis is the columns; ``extent`` int32 [2], height and width of
    the resized image; ``label_size`` int32 [2], those of the label map; ``mask`` uint8 [P], P as large as it may get.

    Attributes:
        size: Height and width in pixels of the model's input.
        windows: K.
        stride: Pixels from one window to the next, by axis; the last one ends where the image does.
        squash: Resizes to the model's size, sides apart: then there is one window. Else the sides keep their ratio,
            the image just covers the model's size, and a side of over ``LONGEST`` times that is cut down to it.
        pixels: Most pixels of a label map, scored as it is stored; None resizes it like the image, by nearest
            neighbour.
        mean: Of the model's normalisation, on the scale 0..1: what small images are padded with.
        interpolation: Of the image.
    """

    size: tuple[int, int]
    windows: int
    stride: tuple[int, int]
    squash: bool
    pixels: int | None
    mean: tuple[float, ...]
    interpolation: str

    def __post_init__(self) -> None:
        if not all(0 < step <= side for step, side in zip(self.stride, self.size, strict=True)):
            raise ConfigError(
                f"windows of {self.size} pixels with a stride of {self.stride}",
                why="pixels between two windows would have no score",
                fix="a stride from 1 to the model's size",
            )
        if self.windows < 1:
            raise ConfigError(f"{self.windows} windows", fix="at least 1, or None for as many as there can be")

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return ("image", "mask")

    @property
    def canvas(self) -> tuple[int, int]:
        """Pixels along the windows, and across: all of them lie within, whichever axis it is."""
        return max(self.size) + (self.windows - 1) * max(self.stride), max(self.size)

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        along, across = self.canvas
        return {
            "image": ("uint8", (self.windows, *self.size, 3)),
            "offsets": ("int32", (self.windows,)),
            "valid": ("bool", (self.windows,)),
            "turned": ("bool", ()),
            "extent": ("int32", (2,)),
            "label_size": ("int32", (2,)),
            "mask": ("uint8", (along * across if self.pixels is None else self.pixels,)),
        }

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One example.

        Raises:
            DataError: More windows or more label pixels than there is room for: which number to set.
        """
        mask = label_map(sample)
        target = self.size if self.squash else covering(mask.shape, self.size)
        axis = int(target[1] - self.size[1] > target[0] - self.size[0])
        begins = window_begins(target[axis], self.size[axis], self.stride[axis])
        if len(begins) > self.windows:
            raise DataError(
                f"an image of {mask.shape[1]} x {mask.shape[0]} pixels needs {len(begins)} windows, there are "
                f"{self.windows}",
                why=f"at {target[1]} x {target[0]} pixels, windows begin every {self.stride[axis]}",
                fix=f"set windows = {len(begins)}, or None for as many as there can be",
            )
        pixels = mean_canvas((max(target[0], self.size[0]), max(target[1], self.size[1])), self.mean)
        pixels[: target[0], : target[1]] = resize(sample["image"].decode(), target, self.interpolation)
        offsets = np.zeros(self.windows, np.int32)
        offsets[: len(begins)] = begins
        cuts = [(offset, 0)[:: -1 if axis else 1] for offset in offsets]
        labels = (mask if self.pixels is not None else resize(mask, target, "nearest")).reshape(-1)
        room = self.entries["mask"][1][0]
        if len(labels) > room:
            raise DataError(
                f"a label map of {mask.shape[1]} x {mask.shape[0]} pixels is larger than {room:,} pixels",
                fix=f"set pixels = {len(labels)}",
            )
        return {
            "image": np.stack([pixels[y : y + self.size[0], x : x + self.size[1]] for y, x in cuts]),
            "offsets": offsets,
            "valid": np.arange(self.windows) < len(begins),
            "turned": np.asarray(bool(axis)),
            "extent": np.array(target, np.int32),
            "label_size": np.array(target if self.pixels is None else mask.shape, np.int32),
            "mask": np.pad(labels, (0, room - len(labels)), constant_values=IGNORE),
        }


def covering(stored: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The size, in the ratio of ``stored``, that just covers ``size``, with a limit for the longer side; rounded."""
    factor = max(new / old for new, old in zip(size, stored, strict=True))
    factor = min(factor, LONGEST * max(size) / max(stored))
    return max(1, int(stored[0] * factor + 0.5)), max(1, int(stored[1] * factor + 0.5))


def window_begins(extent: int, size: int, stride: int) -> list[int]:
    """Where windows of ``size`` begin: every ``stride`` pixels, but the last one ends with the image."""
    count = -(-max(extent - size, 0) // stride) + 1
    return [min(i * stride, max(extent - size, 0)) for i in range(count)]


def most_windows(size: tuple[int, int], stride: tuple[int, int]) -> int:
    """As many windows as an image can need."""
    return max(len(window_begins(LONGEST * max(size), a, b)) for a, b in zip(size, stride, strict=True))


def merge_windows(
    logits: Float[Array, "K H W C"],
    offsets: Int32[Array, " K"],
    valid: Bool[Array, " K"],
    turned: Bool[Array, ""],
    *,
    canvas: tuple[int, int],
) -> Float[Array, "A S C"]:
    """The mean of the windows that cover a pixel, 0 where there is none; rows are along the windows.

    Args:
        logits: Of the windows, at pixels.
        offsets, valid, turned, canvas: As :class:`Windows` gives them.
    """
    side = canvas[1]
    border = [(0, 0), (0, side - logits.shape[1]), (0, side - logits.shape[2]), (0, 0)]
    covered = jnp.pad(valid[:, None, None, None] * jnp.ones((*logits.shape[:3], 1), logits.dtype), border)
    # Not a product: padding may hold anything.
    logits = jnp.pad(jnp.where(valid[:, None, None, None], logits, 0), border)
    parts = jnp.concatenate([logits, covered], axis=-1)
    parts = jnp.where(turned, jnp.swapaxes(parts, 1, 2), parts)
    total = jnp.zeros((*canvas, parts.shape[-1]), logits.dtype)
    for part, offset in zip(parts, offsets, strict=True):
        before = jax.lax.dynamic_slice_in_dim(total, offset, side)
        total = jax.lax.dynamic_update_slice_in_dim(total, before + part, offset, axis=0)
    return total[..., :-1] / jnp.maximum(total[..., -1:], 1)


def classes_of_pixels(
    logits: Float[Array, "A S C"],
    turned: Bool[Array, ""],
    extent: Int32[Array, " 2"],
    label_size: Int32[Array, " 2"],
    *,
    pixels: int,
) -> Int[Array, " P"]:
    """The class with the largest logit at each of the first ``pixels`` label pixels, row after row.

    Args:
        logits: From :func:`merge_windows`.
        turned, extent, label_size: As :class:`Windows` gives them.
    """

    def place(index: Array, axis: int) -> tuple[Array, Array, Array]:
        # (index + 1/2) extent / size - 1/2 in whole numbers: float32 would move pixels of large maps.
        inside, size = extent[axis], label_size[axis]
        doubled = jnp.clip((2 * index + 1) * inside - size, 0, 2 * size * (inside - 1))
        low = doubled // (2 * size)
        return low, jnp.minimum(low + 1, inside - 1), (doubled % (2 * size)) / (2 * size).astype(logits.dtype)

    def value(row: Array, column: Array) -> Array:
        # Whatever lies outside is an ignored pixel: it may have any class.
        return logits.at[jnp.where(turned, column, row), jnp.where(turned, row, column)].get(mode="clip")

    def largest(index: Array) -> Array:
        top, bottom, down = place(index // label_size[1], 0)
        left, right, along = place(index % label_size[1], 1)
        down, along = down[:, None], along[:, None]
        upper = (1 - along) * value(top, left) + along * value(top, right)
        lower = (1 - along) * value(bottom, left) + along * value(bottom, right)
        return jnp.argmax((1 - down) * upper + down * lower, axis=-1)

    chunk = min(CHUNK, pixels)
    chunks = -(-pixels // chunk)
    return jax.lax.map(largest, jnp.arange(chunks * chunk).reshape(chunks, chunk)).reshape(-1)[:pixels]


def classes_of_labels(
    logits: Float[Array, "B K h w C"], batch: dict[str, Array], *, canvas: tuple[int, int]
) -> Int[Array, "B P"]:
    """The predicted class at every label pixel of a batch that :class:`Windows` made.

    Args:
        logits: Of the windows.
        batch: With the entries of :class:`Windows`.
        canvas: As it says.
    """

    def single(logits: Array, offsets: Array, valid: Array, turned: Array, extent: Array, label_size: Array) -> Array:
        full = resize_scores(logits.astype(jnp.float32), (batch["image"].shape[2], batch["image"].shape[3]))
        merged = merge_windows(full, offsets, valid, turned, canvas=canvas)
        return classes_of_pixels(merged, turned, extent, label_size, pixels=batch["mask"].shape[1])

    names = ("offsets", "valid", "turned", "extent", "label_size")
    return jax.vmap(single)(logits, *(batch[name] for name in names))
