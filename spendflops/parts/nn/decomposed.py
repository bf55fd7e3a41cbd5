"""Relative positions decomposed into rows and columns (Li et al. 2022, "MViTv2", arXiv 2112.01526, eq. 4), as in
ViTDet."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.linear import einsum
from spendflops.parts.nn.positions import resize_matrix


def differences(table: Float[Array, "R d"], count: int) -> Float[Array, "n n d"]:
    """``table[i - j + count - 1]`` for query i and key j, of slices: their gradient has an order that is always the
    same."""
    return jnp.stack([table[count - 1 - key : 2 * count - 1 - key] for key in range(count)], axis=1)


class DecomposedBias(nnx.Module):
    """The bias of query (r, c) and key (r', c') is q . rows[r - r'] + q . cols[c - c'], the same tables for all heads.

    ``rows`` [2 rows - 1, head_dim] and ``cols`` [2 cols - 1, head_dim] start at zero; differences grow from the
    smallest.

    Args:
        grid: Token rows and columns of the map within which tokens attend.
        head_dim: Width of a head.
        resize: Rule of :data:`spendflops.parts.nn.positions.RULES` that resamples the tables for other grids
            (detectron2's is "torch_bilinear"); None refuses them.
        compute_dtype: Of the operands of the products.
    """

    def __init__(self, grid: tuple[int, int], head_dim: int, *, resize: str | None = None, compute_dtype=None):
        if resize is not None:
            resize_matrix(resize, 4, 4)  # An unknown rule is an error now, not at the first image of another size.
        self.grid, self.resize, self.compute_dtype = tuple(grid), resize, compute_dtype
        self.rows, self.cols = (nnx.Param(jnp.zeros((2 * side - 1, head_dim), jnp.float32)) for side in grid)

    def __call__(
        self, q: Float[Array, "B H N d"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "B H N r"], Float[Array, "B H N c"]]:
        """What the row and what the column of each key adds to the logits of each query, which is not scaled.

        Raises:
            ConfigError: Another grid, and no rule to resize the tables.
        """
        grid = tuple(grid)
        if grid != self.grid and self.resize is None:
            raise ConfigError(
                f"the tables of relative positions are for {self.grid} tokens, the image has {grid}",
                fix="set image_size to the images' size, or relative_resize to a rule",
            )
        by_row, by_col = (
            differences(self._resized(table[...], side), side)
            for table, side in zip((self.rows, self.cols), grid, strict=True)
        )
        q = q.reshape(*q.shape[:2], *grid, q.shape[-1])
        rows = einsum("bhrcd,rkd->bhrck", q, by_row, dtype=self.compute_dtype)
        cols = einsum("bhrcd,ckd->bhrck", q, by_col, dtype=self.compute_dtype)
        return tuple(x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (rows, cols))

    def resampled(self, table: Float[Array, "R d"], name: str) -> Float[Array, "r d"] | None:
        """``rows`` or ``cols`` (``name``) of another grid for this one; None without a rule."""
        side = self.grid[("rows", "cols").index(name)]
        return None if self.resize is None or len(table) % 2 == 0 else self._resized(table, side)

    def flops(self, grid: tuple[int, int], *, heads: int) -> tuple[int, int]:
        """Of the products with the queries of one map, and of resampling the tables, once a call."""
        width = self.rows.shape[1]
        products = 2 * heads * grid[0] * grid[1] * width * (grid[0] + grid[1])
        resized = [(n, o) for n, o in zip(grid, self.grid, strict=True) if n != o]
        return products, sum(2 * (2 * n - 1) * (2 * o - 1) * width for n, o in resized)

    def _resized(self, table: Float[Array, "R d"], side: int) -> Float[Array, "r d"]:
        old, new = len(table), 2 * side - 1
        if old == new:
            return table
        matrix = jnp.asarray(resize_matrix(self.resize, new, old), table.dtype)
        return jnp.einsum("yr,rd->yd", matrix, table, precision="highest")
