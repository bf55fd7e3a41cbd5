"""Which object each anchor or proposal is trained on (Ren et al., arXiv:1506.01497, section 3.1.2).

No matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int8, Int32

from spendflops.contracts.errors import ConfigError
from spendflops_plugins.detection.boxes import pairwise_iou


class Match(NamedTuple):
    """What N boxes are matched with.

    Attributes:
        index: The valid object of largest IoU, of equal ones the first; 0 if there is no valid object.
        overlap: That IoU.
        label: 1 positive, 0 negative, -1 neither.
    """

    index: Int32[Array, " N"]
    overlap: Float[Array, " N"]
    label: Int8[Array, " N"]


def match(
    boxes: Float[Array, "N 4"],
    truth: Float[Array, "M 4"],
    valid: Bool[Array, " M"],
    *,
    low: float,
    high: float,
    low_quality: bool,
) -> Match:
    """Matches boxes with objects. No gradient.

    Objects are taken one after the other: the memory is that of a few vectors of N, never of N x M. The price is 10 M N
    elementwise operations.

    Args:
        boxes: Anchors or proposals.
        truth: Boxes of objects; those with ``valid`` False are padding.
        valid: Which objects there are.
        low: A box whose best IoU is below is negative.
        high: A box whose best IoU is this or above is positive.
        low_quality: Each object makes the boxes positive that it overlaps most, all that tie, so that none is lost. As
            in detectron2 and torchvision, ``index`` stays: such a box may be trained on another object, with which its
            own IoU is larger.

    Deviation: an object that overlaps no box at all makes none positive; in detectron2 it makes positive all those that
    it does not overlap.

    Raises:
        ConfigError: ``low`` above ``high``.
    """
    if low > high:
        raise ConfigError(f"boxes are negative below {low} and positive from {high}", fix="give low <= high")
    boxes, truth = jax.lax.stop_gradient((boxes, truth))

    def step(state, row):
        best, index, favourite = state
        number, one, there = row
        # The barrier makes one vector of it: two fusions that round differently would find no box that equals the top.
        overlap = jax.lax.optimization_barrier(jnp.where(there, pairwise_iou(boxes, one[None])[:, 0], -1))
        top = overlap.max(initial=0)
        better = overlap > best
        index = jnp.where(better, number, index)
        return (jnp.maximum(best, overlap), index, favourite | ((overlap == top) & (top > 0))), None

    count = len(boxes)
    start = (jnp.full(count, -1, jnp.result_type(boxes, truth)), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
    rows = (jnp.arange(len(truth), dtype=jnp.int32), truth, valid)
    (best, index, favourite), _ = jax.lax.scan(step, start, rows)
    overlap = jnp.maximum(best, 0)
    positive = (overlap >= high) | favourite if low_quality else overlap >= high
    label = jnp.where(positive, 1, jnp.where(overlap < low, 0, -1))
    return Match(index, overlap, label.astype(jnp.int8))
