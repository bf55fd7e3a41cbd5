"""Images to patches and back."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.initialisers import Initialiser
from spendflops.parts.nn.linear import matmul
from spendflops.parts.nn.norm import LayerNorm


def grid_of(shape: tuple[int, ...], patch: int) -> tuple[int, int]:
    """Token rows and columns of an image [... H W C].

    Raises:
        ConfigError: The patch size does not divide height and width.
    """
    height, width = shape[-3], shape[-2]
    if height % patch or width % patch:
        raise ConfigError(
            f"an image of {height}x{width} pixels is no whole number of {patch}x{patch} patches",
            fix="choose an image size that is a multiple of the patch size",
        )
    return height // patch, width // patch


def patchify(images: Float[Array, "B H W C"], patch: int) -> Float[Array, "B N PPC"]:
    """Non-overlapping patches in row-major order, each flattened in the order (row, column, channel)."""
    batch, channels = images.shape[0], images.shape[-1]
    rows, cols = grid_of(images.shape, patch)
    x = images.reshape(batch, rows, patch, cols, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * cols, patch * patch * channels)


def unpatchify(
    patches: Float[Array, "B N PPC"], patch: int, grid: tuple[int, int], *, channels: int = 3
) -> Float[Array, "B H W C"]:
    """The inverse of :func:`patchify`."""
    batch = patches.shape[0]
    x = patches.reshape(batch, *grid, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, grid[0] * patch, grid[1] * patch, channels)


class PatchEmbed(nnx.Module):
    """A convolution with kernel and stride ``patch``, as the product that it is.

    ``kernel`` is [patch, patch, channels, dim]. With ``norm_eps`` a layer norm over the whole flattened patch precedes
    the product and another follows it (``norm_in``, ``norm_out``).

    Args:
        patch: Side in pixels.
        dim: Width of the tokens.
        rngs: Source of the initial values.
        channels: Of the images.
        kernel_init: Of the kernel.
        bias_init: Of the bias.
        bias: Whether there is one.
        norm_eps: Of the two layer norms; None for none.
        compute_dtype: Of the operands of the product.
    """

    def __init__(
        self,
        patch: int,
        dim: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initialiser,
        bias_init: Initialiser,
        bias: bool = True,
        norm_eps: float | None = None,
        channels: int = 3,
        compute_dtype=None,
    ):
        self.patch, self.compute_dtype = patch, compute_dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (patch, patch, channels, dim), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (dim,), jnp.float32)) if bias else None
        normed = norm_eps is not None
        self.norm_in = LayerNorm(patch * patch * channels, eps=norm_eps) if normed else None
        self.norm_out = LayerNorm(dim, eps=norm_eps) if normed else None

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        kernel = self.kernel[...]
        flat = kernel.reshape(-1, kernel.shape[-1])
        x = patchify(images, self.patch)
        x = x if self.norm_in is None else self.norm_in(x)
        x = matmul(x, flat, dtype=self.compute_dtype)
        x = x if self.bias is None else x + self.bias[...]
        return x if self.norm_out is None else self.norm_out(x)
