"""Square windows of a map of tokens (Li et al. 2022, "Exploring plain vision transformer backbones for object
detection", arXiv 2203.16527, section 3)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def window_count(grid: tuple[int, int], side: int) -> int:
    """Windows of ``side`` x ``side`` tokens that cover a grid: the last of a row or column may reach beyond it."""
    return -(-grid[0] // side) * -(-grid[1] // side)


def to_windows(
    x: Float[Array, "B h w *D"], side: int, *, fill: Float[Array, "*D"] | float = 0.0
) -> Float[Array, "BW S *D"]:
    """Windows in row-major order, each image's together; S = ``side`` squared.

    Args:
        x: Maps.
        side: Of a window, in tokens.
        fill: What stands below and to the right of the map where windows reach beyond it.
    """
    for axis in (1, 2):
        missing = -x.shape[axis] % side
        if missing:
            shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
            x = jnp.concatenate([x, jnp.broadcast_to(jnp.asarray(fill, x.dtype), shape)], axis=axis)
    batch, rows, cols, *rest = x.shape
    x = x.reshape(batch, rows // side, side, cols // side, side, *rest).swapaxes(2, 3)
    return x.reshape(-1, side * side, *rest)


def from_windows(x: Float[Array, "BW S *D"], side: int, grid: tuple[int, int]) -> Float[Array, "B h w *D"]:
    """The inverse of :func:`to_windows` for maps of ``grid``: what was filled in is dropped."""
    rows, cols = (-(-extent // side) for extent in grid)
    rest = x.shape[2:]
    x = x.reshape(-1, rows, cols, side, side, *rest).swapaxes(2, 3)
    return x.reshape(-1, rows * side, cols * side, *rest)[:, : grid[0], : grid[1]]
