"""Non-maximum suppression: of boxes that overlap, the one of the best score is kept.

No matrix product: the FLOP counters count nothing here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spendflops_plugins.detection.boxes import pairwise_iou


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    valid: Bool[Array, " N"],
    *,
    threshold: float,
    labels: Int[Array, " N"] | None = None,
) -> Bool[Array, " N"]:
    """Which boxes are kept, in the order of the input. No gradient.

    Exactly what the greedy loop keeps: it goes through the boxes by score, of equal scores the first one first, and
    drops those whose IoU with a box that it kept is above (not at) ``threshold``. Here, all boxes decide at once, given
    the decisions of the round before, until nothing changes: after k rounds the decisions hold for all boxes below
    which chains of suppressors have at most k links. That takes a few rounds (at worst N + 1), all of them parallel.
    The order is in the matrix of who may suppress whom, N^2 bytes: the input need not be sorted. Take the best
    few thousand boxes before.

    Args:
        boxes: Any coordinates; a box without area overlaps nothing.
        scores: No NaN.
        valid: Others are not kept and suppress nothing.
        threshold: In 0..1.
        labels: Boxes of different labels leave each other alone.
    """
    place = jnp.arange(len(scores))
    before = (scores[:, None] > scores) | ((scores[:, None] == scores) & (place[:, None] < place))
    suppresses = before & (pairwise_iou(boxes, boxes) > threshold)
    if labels is not None:
        suppresses &= labels[:, None] == labels

    def decide(state):
        keep, _ = state
        now = valid & ~(suppresses & keep[:, None]).any(axis=0)
        return now, (now != keep).any()

    keep, _ = jax.lax.while_loop(lambda state: state[1], decide, (valid, jnp.asarray(True)))
    return keep
