"""Classification with several labels an image: targets as (labels, weights), never as vectors over all classes.

``labels`` int32 [B M] are padded with -1; ``weights`` [B M] are 0 there. With smoothing a and C classes the target is

    y = (1 - a) sum_j weights_j one_hot(labels_j) + a / C                                                            (1)

(optax's ``smooth_labels``), and an image without any label does not count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Bool, Float, Int


def averaged(labels: Int[Array, "B M"], *, unique: bool = False) -> Float[Array, "B M"]:
    """Weights 1 / k for k labels, so that a label that occurs twice weighs double; with ``unique`` it counts once."""
    valid = (_first(labels) if unique else labels >= 0).astype(float)
    return valid / jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)


def multi_hot(labels: Int[Array, "B M"]) -> Float[Array, "B M"]:
    """Weight 1 for every label, once."""
    return _first(labels).astype(float)


def mixed(
    labels: Int[Array, "B M"], weights: Float[Array, "B M"], part: Float[Array, ""]
) -> tuple[Int[Array, "B 2M"], Float[Array, "B 2M"]]:
    """``part`` of each image's target and ``1 - part`` of that of its partner in the reversed batch.

    Where one of the two has no label, the target is the other's.
    """
    labelled = jnp.any(weights > 0, axis=1, keepdims=True)
    own, other = jnp.where(labelled[::-1], part, 1), jnp.where(labelled, 1 - part, 1)
    return (
        jnp.concatenate([labels, labels[::-1]], axis=1),
        jnp.concatenate([own * weights, other * weights[::-1]], axis=1),
    )


def softmax_cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, "B M"], weights: Float[Array, "B M"], *, smoothing: float = 0.0
) -> Float[Array, ""]:
    """-sum_c y_c log softmax(logits)_c, averaged over images; the weights of an image sum to 1."""
    log_p = jax.nn.log_softmax(_wide(logits), axis=-1)
    return _mean(-_product(log_p, labels, weights, smoothing), weights)


def sigmoid_cross_entropy(
    logits: Float[Array, "B C"], labels: Int[Array, "B M"], weights: Float[Array, "B M"], *, smoothing: float = 0.0
) -> Float[Array, ""]:
    """-sum_c [y_c log s(logits)_c + (1 - y_c) log(1 - s(logits)_c)] with the sigmoid s, averaged over images."""
    z = _wide(logits)
    return _mean(jnp.sum(jax.nn.softplus(z), axis=-1) - _product(z, labels, weights, smoothing), weights)


def softmax_floor(
    labels: Int[Array, "B M"], weights: Float[Array, "B M"], *, classes: int, smoothing: float
) -> Float[Array, ""]:
    """The least softmax cross-entropy that any logits reach: the entropy of the targets."""
    return _entropy(labels, weights, classes, smoothing, entr)


def sigmoid_floor(
    labels: Int[Array, "B M"], weights: Float[Array, "B M"], *, classes: int, smoothing: float
) -> Float[Array, ""]:
    """The least sigmoid cross-entropy that any logits reach."""
    return _entropy(labels, weights, classes, smoothing, lambda y: entr(y) + entr(jnp.maximum(1 - y, 0)))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _first(labels: Int[Array, "B M"]) -> Bool[Array, "B M"]:
    """True at labels that are none of those before them in their image, nor padding."""
    earlier = jnp.tril(jnp.ones((labels.shape[1],) * 2, bool), -1)
    repeated = jnp.any((labels[:, :, None] == labels[:, None, :]) & earlier, axis=-1)
    return (labels >= 0) & ~repeated


def _product(scores: Float[Array, "B C"], labels: Array, weights: Array, smoothing: float) -> Float[Array, " B"]:
    """The product of equation (1) with ``scores``; a label beyond the classes gives NaN."""
    picked = jnp.take_along_axis(scores, jnp.maximum(labels, 0), axis=-1)
    chosen = jnp.sum(jnp.where(weights > 0, weights * picked, 0), axis=-1)
    return (1 - smoothing) * chosen + smoothing * jnp.mean(scores, axis=-1)


def _entropy(labels: Array, weights: Array, classes: int, smoothing: float, of) -> Float[Array, ""]:
    same = labels[:, :, None] == labels[:, None, :]
    mass = jnp.sum(jnp.where(same, weights[:, None, :], 0), axis=-1)
    first, rest = _first(labels), jnp.asarray(smoothing / classes, weights.dtype)
    named = jnp.sum(jnp.where(first, of((1 - smoothing) * mass + rest), 0), axis=-1)
    return _mean(named + (classes - jnp.sum(first, axis=-1)) * of(rest), weights)


def _mean(values: Float[Array, " B"], weights: Float[Array, "B M"]) -> Float[Array, ""]:
    counts = jnp.sum(weights, axis=-1) > 0
    return jnp.sum(jnp.where(counts, values, 0)) / jnp.maximum(jnp.sum(counts), 1)
