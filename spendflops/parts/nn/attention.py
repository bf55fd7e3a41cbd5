"""Multi-head self-attention (Vaswani et al. 2017, eq. 1), written out so that it promotes dtypes, not forces one."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from spendflops.parts.nn.initialisers import Initialiser, xavier_uniform
from spendflops.parts.nn.linear import Linear, einsum


def attend(
    q: Float[Array, "B Q H d"],
    k: Float[Array, "B N H d"],
    v: Float[Array, "B N H d"],
    *,
    mask: Bool[Array, "B 1 Q N"] | None = None,
    dtype=None,
) -> Float[Array, "B Q H d"]:
    """softmax(q k' / sqrt(d)) v; the softmax is in float32, or in the inputs' dtype where that is wider.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: True where a query may see a key; every query must see one.
        dtype: Of the operands of both products, see :func:`spendflops.parts.nn.linear.einsum`.
    """
    scores = einsum("bqhd,bkhd->bhqk", q / math.sqrt(q.shape[-1]), k, dtype=dtype)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v, dtype=dtype)


class Attention(nnx.Module):
    """Self-attention with one fused projection, its output axis laid out (q|k|v) x heads x head_dim.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
        rngs: Source of the initial values.
        head_dim: Width of a head; ``dim / heads`` by default.
        qkv_bias: Whether the fused projection has a bias.
        qkv_init: Of the fused kernel.
        kernel_init: Of the output projection.
        compute_dtype: Of the operands of all products.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        qkv_init: Initialiser = xavier_uniform,
        kernel_init: Initialiser = xavier_uniform,
        compute_dtype=None,
    ):
        self.heads, self.head_dim, self.compute_dtype = heads, head_dim or dim // heads, compute_dtype
        inner = self.heads * self.head_dim
        self.qkv = Linear(dim, 3 * inner, rngs=rngs, bias=qkv_bias, kernel_init=qkv_init, compute_dtype=compute_dtype)
        self.proj = Linear(inner, dim, rngs=rngs, kernel_init=kernel_init, compute_dtype=compute_dtype)

    def __call__(self, x: Float[Array, "B N D"], *, mask: Bool[Array, "B 1 N N"] | None = None) -> Array:
        """``mask`` is True where a token (third axis) may see another (last axis)."""
        batch, count, _ = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.heads, self.head_dim)
        y = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask, dtype=self.compute_dtype)
        return self.proj(y.reshape(batch, count, self.heads * self.head_dim))
