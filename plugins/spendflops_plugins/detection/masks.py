"""Masks of objects: small ones within a box for training, and predictions back in the image.

Full masks never reach the device: the host crops each to its box, 100 objects of 112 x 112 bytes are 1.25 MB.
:func:`mask_targets` has no matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, Int32, UInt8


def crop_masks(
    masks: Bool[np.ndarray, "M H W"] | UInt8[np.ndarray, "M H W"], boxes: Float[np.ndarray, "M 4"], *, size: int
) -> UInt8[np.ndarray, "M S S"]:
    """Each mask within its box, at ``size`` x ``size`` places, as 0 and 1. On the host.

    Bilinear between the middles of pixels, at the middle of each bin, then at least 0.5: RoIAlign's rule with one
    sample a bin. The edge of the image is held.

    Args:
        masks: 0 outside of the object.
        boxes: In pixels of the masks.
        size: S. Bins of the crop should be no larger than those of the targets: 112 for targets of 28.
    """
    made = np.empty((len(masks), size, size), np.uint8)
    centres = (np.arange(size) + 0.5) / size
    for into, mask, (left, top, right, bottom) in zip(made, masks, np.asarray(boxes, np.float64), strict=True):
        above, below, down = _beside(top + centres * (bottom - top) - 0.5, mask.shape[0])
        before, behind, across = _beside(left + centres * (right - left) - 0.5, mask.shape[1])
        # Only the columns of the box: a mask of a large image is mostly elsewhere.
        first, last = before[0], behind[-1] + 1
        upper, lower = ((mask[rows, first:last] != 0).astype(np.float32) for rows in (above, below))
        lines = upper + (lower - upper) * down[:, None]
        start, end = lines[:, before - first], lines[:, behind - first]
        into[:] = start + (end - start) * across >= 0.5
    return made


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


def _beside(places: Float64[np.ndarray, " n"], extent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and behind places between the middles of pixels, and the weight of the latter."""
    places = np.clip(places, 0, extent - 1)
    low = np.floor(places).astype(int)
    return low, np.minimum(low + 1, extent - 1), (places - low).astype(np.float32)


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
