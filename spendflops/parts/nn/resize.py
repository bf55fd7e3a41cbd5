"""Resampling of feature maps and logits."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from spendflops.parts.nn.positions import resize_matrix


def resize_map(
    x: Float[Array, "B h w C"], size: tuple[int, int], *, rule: str = "torch_bilinear"
) -> Float[Array, "B H W C"]:
    """Resamples a map to ``size`` by a rule of :data:`spendflops.parts.nn.positions.RULES`.

    The default is bilinear with half-pixel centres and without antialiasing: PyTorch's align_corners=False. The
    products are part of the model's FLOPs; unlike gathers they are deterministic in the backward pass.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows = jnp.asarray(resize_matrix(rule, size[0], x.shape[1]), x.dtype)
    cols = jnp.asarray(resize_matrix(rule, size[1], x.shape[2]), x.dtype)
    x = jnp.einsum("yr,brcd->bycd", rows, x, precision="highest")
    return jnp.einsum("xc,bycd->byxd", cols, x, precision="highest")
