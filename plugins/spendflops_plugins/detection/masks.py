"""Masks of objects: small ones within a box for training, and predictions back in the image.

Full masks never reach the device: the host crops each to its box, 100 objects of 112 x 112 bytes are 1.25 MB.
:func:`mask_targets` has no matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, UInt8


def crop_masks(
    masks: Bool[np.ndarray, "M H W"] | UInt8[np.ndarray, "M H W"], boxes: Float32[np.ndarray, "M 4"], *, size: int
) -> UInt8[np.ndarray, "M S S"]:
    """Each mask within its box, at ``size`` x ``size`` places, as 0 and 1. On the host.

    Bilinear between the middles of pixels, at the middle of each bin, then at least 0.5. Pixels that the box does not
    touch are not read, its outermost ones are held: an object that fills its box fills its crop. What a box without
    area has is that of one pixel.

    Args:
        masks: 0 outside of the object.
        boxes: In pixels of the masks.
        size: S. Bins of the crop should be no larger than those of the targets: 112 for targets of 28.
    """
    boxes, (height, width) = np.asarray(boxes, np.float64), masks.shape[1:]
    top, bottom, down = _places(boxes[:, 1], boxes[:, 3], height, size)
    left, right, across = _places(boxes[:, 0], boxes[:, 2], width, size)
    which, down, across = np.arange(len(masks))[:, None, None], down[:, :, None], across[:, None, :]

    def row(y: np.ndarray) -> np.ndarray:
        first, second = (masks[which, y[:, :, None], x[:, None, :]] != 0 for x in (left, right))
        return first * (1 - across) + second * across

    return (row(top) * (1 - down) + row(bottom) * down >= 0.5).astype(np.uint8)


def mask_targets(
    crops: UInt8[Array, "M S S"],
    truth: Float[Array, "M 4"],
    boxes: Float[Array, "R 4"],
    index: Int32[Array, " R"],
    *,
    size: int,
) -> Float32[Array, "R s s"]:
    """What of its object each box shows, 0 or 1 at the middle of ``size`` x ``size`` bins. On the device, no gradient.

    The crop of the object is read bilinearly, its border held, then at least 0.5; outside of the box of the object,
    all is 0.

    Args:
        crops: Of :func:`crop_masks`, of any side S.
        truth: The boxes that they are within.
        boxes: Where targets are wanted.
        index: The object of each of these.
        size: s.

    Deviation: one sample a bin, of a mask that was sampled before; detectron2 averages as many samples of the whole
    mask as a bin has pixels.
    """
    side, objects = crops.shape[-1], truth[index]
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size

    def places(axis: int):
        start, stop = objects[:, axis, None], objects[:, axis + 2, None]
        place = boxes[:, axis, None] + steps * (boxes[:, axis + 2] - boxes[:, axis])[:, None]
        inside = (place >= start) & (place < stop)
        extent = jnp.where(stop > start, stop - start, 1)
        place = jnp.clip((place - start) / extent * side - 0.5, 0, side - 1)
        low = jnp.floor(place).astype(jnp.int32)
        return inside, low, jnp.minimum(low + 1, side - 1), place - low

    (tall, top, bottom, down), (wide, left, right, across) = places(1), places(0)
    down, across = down[:, :, None], across[:, None, :]

    def row(y: Int32[Array, "R s"]) -> Float32[Array, "R s s"]:
        first, second = (crops[index[:, None, None], y[:, :, None], x[:, None, :]] for x in (left, right))
        return first * (1 - across) + second * across

    seen = row(top) * (1 - down) + row(bottom) * down >= 0.5
    return (seen & tall[:, :, None] & wide[:, None, :]).astype(jnp.float32)


def paste(
    probabilities: Float32[np.ndarray, "h w"],
    box: Float[np.ndarray, " 4"],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "H W"]:
    """A predicted mask in the image: where the probability is at least ``threshold``. On the host.

    As in detectron2: read at the middle of each pixel, bilinear between the middles of cells, with zeros around them.
    Only pixels that a cell reaches are computed.

    Args:
        probabilities: Within the box.
        box: In pixels of the image, which it may leave. One without area shows nothing.
        size: Height and width of the image.
        threshold: Above 0.
    """
    mask = np.zeros(size, bool)
    left, top, right, bottom = (float(edge) for edge in box)
    cells = np.pad(np.asarray(probabilities, np.float32), 1)
    rows, above, down = _reached(top, bottom, probabilities.shape[0], size[0])
    columns, before, across = _reached(left, right, probabilities.shape[1], size[1])
    # The few rows of cells first: then whole rows of pixels are read, which is far faster than single pixels.
    wide = cells[:, before] * (1 - across) + cells[:, before + 1] * across
    down = down[:, None]
    mask[rows, columns] = wide[above] * (1 - down) + wide[above + 1] * down >= threshold
    return mask


def _places(
    start: np.ndarray, stop: np.ndarray, pixels: int, size: int
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, "M S"]]:
    """The two pixels [M S] beside the middle of each bin, and the weight of the second."""
    first = np.clip(np.floor(start), 0, pixels - 1)[:, None]
    last = np.clip(np.ceil(stop)[:, None] - 1, first, pixels - 1)
    steps = (np.arange(size) + 0.5) / size
    place = np.clip(start[:, None] + steps * (stop - start)[:, None] - 0.5, first, last)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, last.astype(np.int64)), (place - low).astype(np.float32)


def _reached(
    start: float, stop: float, cells: int, pixels: int
) -> tuple[slice, Int[np.ndarray, " P"], Float32[np.ndarray, " P"]]:
    """The pixels that cells from ``start`` to ``stop`` reach, half a cell beyond, and where each is read.

    That is the first of the two cells beside it, counted in a row with one more cell at either end, and the weight of
    the second.
    """
    cell = (stop - start) / cells
    first, end = (int(np.clip(np.ceil(x), 0, pixels)) for x in (start - (cell + 1) / 2, stop + (cell - 1) / 2))
    place = np.clip((np.arange(first, end) + 0.5 - start) / cell + 0.5, 0, cells + 1)
    low = np.minimum(place.astype(np.int64), cells)  # rounding may put the last pixel on the far end
    return slice(first, end), low, (place - low).astype(np.float32)
