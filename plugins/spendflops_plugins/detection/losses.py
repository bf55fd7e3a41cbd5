"""The losses of two-stage detectors, on given logits, deltas, matches and samples.

Girshick 2015 (Fast R-CNN, arXiv 1504.08083) eq. 1 to 3, Ren et al. 2015 (Faster R-CNN, arXiv 1506.01497) eq. 1, He et
al. 2017 (Mask R-CNN, arXiv 1703.06870) section 3, with the denominators of detectron2: RPN by the samples asked for,
the box head by the regions that were sampled, the mask head by the pixels of the foreground. Zhou et al. 2021 (arXiv
2103.07461) section 4 for the federated loss of LVIS.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

REGRESSIONS = ("l1", "smooth_l1", "huber")
AVERAGES = ("samples", "coordinates")
"""What losses of boxes are divided by: the anchors or regions that were sampled, of objects or not (detectron2), or the
coordinates of those of objects (TensorFlow's Mask R-CNN, whose proposal network adds up the means of its levels)."""


def regression(x: Float[Array, "*B"], kind: str, beta: float) -> Float[Array, "*B"]:
    """|x|, or below ``beta`` a parabola; beyond it "smooth_l1" has slope 1 (Fast R-CNN eq. 3), "huber" ``beta``."""
    if kind == "l1":
        return jnp.abs(x)
    size = jnp.abs(x)
    smooth = jnp.where(size < beta, 0.5 * x**2 / beta, size - 0.5 * beta)
    return smooth if kind == "smooth_l1" else beta * smooth


def binary(logits: Float[Array, "*B"], targets: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Binary cross-entropy of logits."""
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def objectness(
    logits: Float[Array, "B N"], positive: Bool[Array, "B N"], negative: Bool[Array, "B N"], *, samples: int
) -> Float[Array, ""]:
    """Binary cross-entropy of the sampled anchors, divided by the number asked for: ``samples`` of each image."""
    each = jnp.where(positive | negative, binary(logits, positive.astype(logits.dtype)), 0)
    return jnp.sum(each) / (samples * len(logits))


def offsets(
    deltas: Float[Array, "*N 4"],
    targets: Float[Array, "*N 4"],
    positive: Bool[Array, "*N"],
    *,
    count: Array | int | None,
    kind: str,
    beta: float,
) -> Float[Array, ""]:
    """The regression of the boxes of objects.

    Args:
        deltas: Predicted.
        targets: Those of the matched objects; read where ``positive``.
        positive: Which anchors or regions are an object's.
        count: What the sum is divided by; None for the mean over the coordinates of all that are positive.
        kind, beta: See :func:`regression`.
    """
    # Not a product with the mask: targets of anchors without an object mean nothing.
    total = jnp.sum(regression(jnp.where(positive[..., None], deltas - targets, 0), kind, beta))
    return total / jnp.maximum(4 * jnp.sum(positive) if count is None else count, 1)


def softmax_classes(
    logits: Float[Array, "R C"], labels: Int[Array, " R"], valid: Bool[Array, " R"]
) -> Float[Array, ""]:
    """Softmax cross-entropy, a mean over the valid regions; the last of the C classes is the background."""
    taken = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(valid, taken, 0)) / jnp.maximum(jnp.sum(valid), 1)


def sigmoid_classes(
    logits: Float[Array, "R C"], labels: Int[Array, " R"], valid: Bool[Array, " R"], counted: Bool[Array, "R K"]
) -> Float[Array, ""]:
    """Binary cross-entropy of each of the K = C - 1 classes that ``counted`` names, by the number of valid regions."""
    classes = counted.shape[1]
    # The background's label is K: a row of zeros.
    each = binary(logits[:, :classes], jax.nn.one_hot(labels, classes, dtype=logits.dtype))
    return jnp.sum(jnp.where(counted & valid[:, None], each, 0)) / jnp.maximum(jnp.sum(valid), 1)


def federated(
    labels: Int[Array, " R"], valid: Bool[Array, " R"], weights: Float[Array, " K"], key: Array, *, count: int
) -> Bool[Array, " K"]:
    """The classes that the loss of one image looks at: all that its regions have, others drawn up to ``count``.

    Drawn without replacement with probabilities in the ratio of ``weights`` (square roots of the number of images of a
    class), by the largest of log-weights plus Gumbel noise. As in detectron2 the background takes one of the places.

    Args:
        labels: Of the regions; K is the background.
        valid: Which regions there are.
        weights: Of each class.
        key: Random key.
        count: Classes in all, 50 for LVIS.
    """
    classes = len(weights)
    present = jnp.zeros(classes + 1, bool).at[jnp.where(valid, labels, classes + 1)].set(True, mode="drop")
    priority = jnp.log(weights) + jax.random.gumbel(key, (classes,), weights.dtype)
    priority = jnp.where(present[:classes], -jnp.inf, priority)
    rank = jnp.zeros(classes, jnp.int32).at[jnp.argsort(-priority)].set(jnp.arange(classes, dtype=jnp.int32))
    drawn = (rank < count - jnp.sum(present)) & jnp.isfinite(priority)
    return present[:classes] | drawn


def masks(
    logits: Float[Array, "R S S"], targets: Float[Array, "R S S"], positive: Bool[Array, " R"]
) -> Float[Array, ""]:
    """Binary cross-entropy of the true class's map, a mean over the pixels of the foreground, 0 without any."""
    each = jnp.mean(binary(logits, targets), axis=(1, 2))
    return jnp.sum(jnp.where(positive, each, 0)) / jnp.maximum(jnp.sum(positive), 1)
