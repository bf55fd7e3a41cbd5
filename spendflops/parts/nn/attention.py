"""Multi-head self-attention (Vaswani et al. 2017, eq. 1), written out so that it promotes dtypes, not forces one."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from spendflops.parts.nn.initialisers import Initialiser, xavier_uniform, zeros
from spendflops.parts.nn.linear import Linear, einsum


def attend(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H N d"],
    v: Float[Array, "B H N d"],
    *,
    mask: Bool[Array, "B 1 Q N"] | None = None,
    bias: Float[Array, "H Q N"] | None = None,
    dtype=None,
) -> Float[Array, "B H Q d"]:
    """softmax(q k' / sqrt(d) + bias) v; the softmax is in float32, or in the inputs' dtype where that is wider.

    Examples and heads are one batch axis of both products: with two of them, or with heads behind the tokens, XLA's CPU
    backend is half as fast (forward and backward).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: True where a query may see a key; every query must see one.
        bias: Added to the logits of every example.
        dtype: Of the operands of both products, see :func:`spendflops.parts.nn.linear.einsum`.
    """
    batch, heads = q.shape[:2]
    q, k, v = (x.reshape(batch * heads, *x.shape[2:]) for x in (q / math.sqrt(q.shape[-1]), k, v))
    scores = einsum("bqd,bkd->bqk", q, k, dtype=dtype).reshape(batch, heads, q.shape[1], k.shape[1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).reshape(batch * heads, *scores.shape[2:])
    y = einsum("bqk,bkd->bqd", weights, v, dtype=dtype)
    return y.reshape(batch, heads, *y.shape[1:])


class Attention(nnx.Module):
    """Self-attention with one fused projection, its output axis laid out (q|k|v) x heads x head_dim.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
        rngs: Source of the initial values.
        head_dim: Width of a head; ``dim / heads`` by default.
        qkv_bias: Whether the fused projection has a bias.
        key_bias: Whether that bias has a part for the keys; else ``q_bias`` and ``v_bias`` are parameters of their own
            and the keys' is 0 (BEiT, SimMIM). The softmax does not see it: it adds the same to all logits of a query.
        qkv_init: Of the fused kernel.
        kernel_init: Of the output projection.
        bias_init: Of its bias.
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
        key_bias: bool = True,
        qkv_init: Initialiser = xavier_uniform,
        kernel_init: Initialiser = xavier_uniform,
        bias_init: Initialiser = zeros,
        compute_dtype=None,
    ):
        self.heads, self.head_dim, self.compute_dtype = heads, head_dim or dim // heads, compute_dtype
        inner, split = self.heads * self.head_dim, qkv_bias and not key_bias
        self.qkv = Linear(
            dim,
            3 * inner,
            rngs=rngs,
            bias=qkv_bias and key_bias,
            kernel_init=qkv_init,
            compute_dtype=compute_dtype,
        )
        self.q_bias = nnx.Param(jnp.zeros((inner,), jnp.float32)) if split else None
        self.v_bias = nnx.Param(jnp.zeros((inner,), jnp.float32)) if split else None
        self.proj = Linear(
            inner, dim, rngs=rngs, kernel_init=kernel_init, bias_init=bias_init, compute_dtype=compute_dtype
        )

    def __call__(
        self,
        x: Float[Array, "B N D"],
        *,
        mask: Bool[Array, "B 1 N N"] | None = None,
        bias: Float[Array, "H N N"] | None = None,
    ) -> Float[Array, "B N D"]:
        """``mask`` is True where a token (third axis) may see another (last axis); ``bias`` is added to its logit."""
        batch, count, _ = x.shape
        qkv = self.qkv(x)
        if self.q_bias is not None:
            q_bias, v_bias = self.q_bias[...], self.v_bias[...]
            qkv = qkv + jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        q, k, v = qkv.reshape(batch, count, 3, self.heads, self.head_dim).transpose(2, 0, 3, 1, 4)
        y = attend(q, k, v, mask=mask, bias=bias, dtype=self.compute_dtype).swapaxes(1, 2)
        return self.proj(y.reshape(batch, count, self.heads * self.head_dim))
