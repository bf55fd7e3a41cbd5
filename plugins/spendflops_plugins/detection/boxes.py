"""Boxes: areas, overlaps, and the four numbers that a detector regresses (Girshick et al., arXiv:1311.2524, app. C).

A box is (left, top, right, bottom) in pixels, right and bottom exclusive: its width is right - left. All in float32;
everything is differentiable, and no gradient is NaN, for boxes of padding neither. No matrix product: the FLOP counters
count nothing here.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LIMIT = math.log(1000 / 16)
"""Largest log of a ratio of sides that is decoded, as in detectron2: 16 pixels become at most 1000."""


def area(boxes: Float[Array, "*B 4"]) -> Float[Array, "*B"]:
    """Square pixels; 0 where right is not beyond left, or bottom not beyond top."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def pairwise_iou(a: Float[Array, "N 4"], b: Float[Array, "M 4"]) -> Float[Array, "N M"]:
    """Intersection over union of each box of ``a`` with each of ``b``; 0 where one of the two has no area."""
    width = jnp.minimum(a[:, None, 2], b[:, 2]) - jnp.maximum(a[:, None, 0], b[:, 0])
    height = jnp.minimum(a[:, None, 3], b[:, 3]) - jnp.maximum(a[:, None, 1], b[:, 1])
    shared = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = area(a)[:, None] + area(b) - shared
    # The inner choice keeps 0 / 0 out of the gradient as well.
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: Float[Array, "*B 4"],
    anchors: Float[Array, "*B 4"],
    *,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*B 4"]:
    """(dx, dy, dw, dh) that :func:`decode` turns back into ``boxes``.

    The shift of the centre in widths and heights of the anchor, and the logarithms of the ratios of sides, times
    ``weights``. All four are 0 where a box or an anchor has no area, as padding has.
    """
    centre, extent = _centre(boxes)
    anchor_centre, anchor_extent = _centre(anchors)
    solid = ((extent > 0) & (anchor_extent > 0)).all(axis=-1, keepdims=True)
    unit = jnp.where(solid, anchor_extent, 1)
    shift, growth = (centre - anchor_centre) / unit, jnp.log(jnp.where(solid, extent, 1) / unit)
    deltas = jnp.concatenate([shift, growth], axis=-1) * jnp.asarray(weights, jnp.float32)
    return jnp.where(solid, deltas, 0)


def decode(
    deltas: Float[Array, "*B 4"],
    anchors: Float[Array, "*B 4"],
    *,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    limit: float = LIMIT,
) -> Float[Array, "*B 4"]:
    """The boxes that (dx, dy, dw, dh) mean beside ``anchors``.

    ``deltas`` are divided by ``weights``; dw and dh, then, are cut off above ``limit``, so that no exponential
    overflows. Boxes may lie outside the image (:func:`clip`).
    """
    deltas = deltas / jnp.asarray(weights, jnp.float32)  # bfloat16 becomes float32: pixels need more than 8 bits
    centre, extent = _centre(anchors)
    middle = centre + deltas[..., :2] * extent
    half = extent * jnp.exp(jnp.minimum(deltas[..., 2:], limit)) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def clip(boxes: Float[Array, "*B 4"], size: tuple[int, int] | Int[Array, " 2"]) -> Float[Array, "*B 4"]:
    """The parts of the boxes within an image of ``size`` = (height, width) pixels; without area if there is none."""
    height, width = size
    return jnp.clip(boxes, 0, jnp.asarray([width, height, width, height], boxes.dtype))


def _centre(boxes: Float[Array, "*B 4"]) -> tuple[Float[Array, "*B 2"], Float[Array, "*B 2"]]:
    """Centre (x, y) and extent (width, height)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
