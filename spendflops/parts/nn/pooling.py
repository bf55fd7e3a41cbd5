"""One vector an image from its tokens."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

POOLING: dict[str, Callable[[Array, Array], Array]] = {
    "class": lambda tokens, prefix: prefix[:, 0],
    "mean": lambda tokens, prefix: jnp.mean(tokens, axis=1),
}
"""Name -> (tokens [B N D], prefix [B P D]) -> [B D]. The mean leaves the prefix out."""


def feature_std(features: Float[Array, "B D"]) -> Float[Array, ""]:
    """Standard deviation over the batch of the unit vectors, averaged over dimensions, times sqrt(D).

    About 1 for vectors in all directions, 0 when all vectors are one: the collapse monitor of every method here.
    """
    x = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    x = x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
    return jnp.mean(jnp.std(x, axis=0)) * jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
