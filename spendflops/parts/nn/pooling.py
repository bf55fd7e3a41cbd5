"""One vector an image from its tokens; smaller maps from maps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

POOLING: dict[str, Callable[[Array, Array], Array]] = {
    "class": lambda tokens, prefix: prefix[:, 0],
    "mean": lambda tokens, prefix: jnp.mean(tokens, axis=1),
}
"""Name -> (tokens [B N D], prefix [B P D]) -> [B D]. The mean leaves the prefix out."""


def max_pool(x: Float[Array, "B H W C"], *, size: int = 3, stride: int = 2) -> Float[Array, "B h w C"]:
    """The largest value of each window, with half a window of padding that never wins: ``ceil(H / stride)`` rows.

    First over rows, then over columns, by slices: backward this takes a quarter of the time of JAX's window reduction
    on a CPU, and sums in an order that is always the same. Equal values share their gradient.

    Args:
        x: Maps.
        size: Odd side of the window.
        stride: Pixels from one window to the next.
    """
    for axis in (1, 2):
        places = (x.shape[axis] - 1) // stride + 1
        border = [(size // 2, size // 2) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, border, constant_values=-jnp.inf)
        windows = (
            jax.lax.slice_in_dim(padded, tap, tap + (places - 1) * stride + 1, stride, axis) for tap in range(size)
        )
        x = functools.reduce(jnp.maximum, windows)
    return x


def feature_std(features: Float[Array, "B D"]) -> Float[Array, ""]:
    """Standard deviation over the batch of the unit vectors, averaged over dimensions, times sqrt(D).

    About 1 for vectors in all directions, 0 when all vectors are one: the collapse monitor of every method here.
    """
    x = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    x = x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
    return jnp.mean(jnp.std(x, axis=0)) * jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))
