"""A learned bias of the logits for every relative position (Liu et al. 2021, eq. 4), as BEiT and SimMIM have it."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError
from spendflops.parts import closed_form
from spendflops.parts.nn.positions import resize_matrix, resize_table

CLASS_ROWS = 3
"""The table's last rows: from the class token to a patch, from a patch to it, from it to itself."""


def pairs(table: Float[Array, "H R C"], grid: tuple[int, int]) -> Float[Array, "H N N"]:
    """The bias of query (r, c) and key (r', c') is ``table[:, r - r' + rows - 1, c - c' + cols - 1]``.

    Made of slices, not of a gather: their gradient is a sum of slices, in an order that is always the same.
    """
    rows, cols = grid
    by_col = jnp.stack([table[:, :, cols - 1 - key : 2 * cols - 1 - key] for key in range(cols)], axis=3)
    by_row = jnp.stack([by_col[:, rows - 1 - key : 2 * rows - 1 - key] for key in range(rows)], axis=3)
    return by_row.reshape(table.shape[0], rows * cols, rows * cols)


class RelativeBias(nnx.Module):
    """One table for all blocks: ``table`` [(2 rows - 1)(2 cols - 1) + 3, heads], zeros at first.

    The differences of rows and columns are in row-major order, each from its smallest; then :data:`CLASS_ROWS`, which
    are there with and without a class token.

    Args:
        grid: Token rows and columns.
        heads: Attention heads.
        resize: Rule of :data:`spendflops.parts.nn.positions.RULES` that resamples the differences for other grids.
    """

    def __init__(self, grid: tuple[int, int], heads: int, *, resize: str | None = None):
        if resize is not None:
            resize_matrix(resize, 4, 4)  # An unknown rule is an error now, not at the first image of another size.
        self.grid, self.resize = tuple(grid), resize
        self.table = nnx.Param(jnp.zeros((_extent(grid)[0] * _extent(grid)[1] + CLASS_ROWS, heads), jnp.float32))

    def __call__(self, grid: tuple[int, ...] | None, *, prefix: int) -> Float[Array, "H T T"]:
        """The bias of ``prefix`` class tokens, 0 or 1, followed by the patches of ``grid``; T is their number.

        Raises:
            ConfigError: There is no grid, or another one and no rule to resize the table, or more prefix tokens.
        """
        if grid is None:
            raise ConfigError(
                "relative positions need all tokens of the grid",
                why="tokens were taken out, and with them the places that the bias is a function of",
                fix="choose a method that keeps all tokens, or set relative_positions = 'none'",
            )
        if prefix > 1:
            raise ConfigError(f"{prefix} prefix tokens", why="the table of relative positions has rows for one")
        table = self.table[...]
        patches = table[:-CLASS_ROWS]
        if tuple(grid) != self.grid:
            if self.resize is None:
                raise ConfigError(
                    f"the table of relative positions is for {self.grid} tokens, the image has {tuple(grid)}",
                    fix="set image_size to the images' size, or relative_resize to a rule",
                )
            patches = resize_table(patches, _extent(self.grid), _extent(grid), rule=self.resize)
        bias = pairs(patches.T.reshape(-1, *_extent(grid)), grid)
        if not prefix:
            return bias
        to_patch, to_class, itself = (table[row - CLASS_ROWS][:, None, None] for row in range(CLASS_ROWS))
        heads, count = bias.shape[:2]
        top = jnp.concatenate([itself, jnp.broadcast_to(to_patch, (heads, 1, count))], axis=2)
        rest = jnp.concatenate([jnp.broadcast_to(to_class, (heads, count, 1)), bias], axis=2)
        return jnp.concatenate([top, rest], axis=1)

    def resampled(self, table: Float[Array, "R H"]) -> Float[Array, "r H"] | None:
        """The table of another square grid for this one; None without a rule."""
        side = math.isqrt(len(table) - CLASS_ROWS)
        if self.resize is None or side * side != len(table) - CLASS_ROWS:
            return None
        new = resize_table(table[:-CLASS_ROWS], (side, side), _extent(self.grid), rule=self.resize)
        return jnp.concatenate([new, table[-CLASS_ROWS:]])

    def flops(self, grid: tuple[int, int]) -> int:
        """Of the table's resampling for ``grid``: 0 where it has its own size."""
        return closed_form.resize(_extent(self.grid), _extent(grid), self.table.shape[1])


def _extent(grid: tuple[int, ...]) -> tuple[int, int]:
    """Differences of rows and of columns on a grid."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1
