"""Multi-head self-attention (Vaswani et al. 2017, eq. 1), written out so that it promotes dtypes, not forces one."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from spendflops.parts.nn.decomposed import DecomposedBias
from spendflops.parts.nn.initialisers import Initialiser, xavier_uniform, zeros
from spendflops.parts.nn.linear import Linear, einsum
from spendflops.parts.nn.token_windows import from_windows, to_windows

QUERIES = 512
"""The most queries at a time in :func:`attend_in_chunks`."""
Bias = Float[Array, "H Q N"] | tuple[Float[Array, "B H Q r"], Float[Array, "B H Q c"]]
"""Of the logits: for every example; or of the rows and columns of keys on a grid, of which each key has the sum."""


def attend(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H N d"],
    v: Float[Array, "B H N d"],
    *,
    mask: Bool[Array, "B 1 Q N"] | None = None,
    bias: Bias | None = None,
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
        bias: Added to the logits.
        dtype: Of the operands of both products, see :func:`spendflops.parts.nn.linear.einsum`.
    """
    batch, heads = q.shape[:2]
    q, k, v = (x.reshape(batch * heads, *x.shape[2:]) for x in (q / math.sqrt(q.shape[-1]), k, v))
    scores = einsum("bqd,bkd->bqk", q, k, dtype=dtype).reshape(batch, heads, q.shape[1], k.shape[1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if isinstance(bias, tuple):
        rows, cols = bias
        bias = (rows[..., :, None] + cols[..., None, :]).reshape(scores.shape)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).reshape(batch * heads, *scores.shape[2:])
    y = einsum("bqk,bkd->bqd", weights, v, dtype=dtype)
    return y.reshape(batch, heads, *y.shape[1:])


def attend_in_chunks(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H N d"],
    v: Float[Array, "B H N d"],
    *,
    mask: Bool[Array, "B 1 Q N"] | None = None,
    bias: Bias | None = None,
    dtype=None,
) -> Float[Array, "B H Q d"]:
    """:func:`attend` for at most :data:`QUERIES` queries at a time, with the logits computed again in backward.

    So their map [Q N] never exists in full. Softmaxes are of whole rows: the result is the same. Chunks are as equal as
    they can be, and none is padded: forward and backward have the products of :func:`attend`, and the logits again.
    """
    count = q.shape[2]
    size = -(-count // -(-count // QUERIES))
    whole = count // size

    @jax.checkpoint
    def chunk(by_query):
        q, mask, bias = by_query
        return attend(q, k, v, mask=mask, bias=bias, dtype=dtype)

    def stacked(x):
        x = x[..., : whole * size, :]
        return jnp.moveaxis(x.reshape(*x.shape[:-2], whole, size, x.shape[-1]), -3, 0)

    by_query = (q, mask, bias)
    y = jax.lax.map(chunk, jax.tree.map(stacked, by_query))
    y = jnp.moveaxis(y, 0, 2).reshape(*q.shape[:2], whole * size, v.shape[-1])
    if whole * size == count:
        return y
    rest = chunk(jax.tree.map(lambda x: x[..., whole * size :, :], by_query))
    return jnp.concatenate([y, rest], axis=2)


ATTENTION: dict[str, Callable[..., Array]] = {"plain": attend, "chunked": attend_in_chunks}
"""Name -> how the products are arranged; the function is the same."""


class Attention(nnx.Module):
    """Self-attention with one fused projection, its output axis laid out (q|k|v) x heads x head_dim.

    In windows, tokens beyond the grid are zeros that nothing masks, as in ViTDet's code: as keys and values they are
    the projection's bias. Since that is known, only tokens of the grid are projected.

    Args:
        dim: Width of the tokens.
        heads: Number of heads.
        rngs: Source of the initial values.
        head_dim: Width of a head; ``dim / heads`` by default.
        qkv_bias: Whether the fused projection has a bias.
        key_bias: Whether that bias has a part for the keys; else ``q_bias`` and ``v_bias`` are parameters of their own
            and the keys' is 0 (BEiT, SimMIM). The softmax does not see it: it adds the same to all logits of a query.
        window: Side in tokens of the windows within which tokens attend; None for all of them.
        relative: Relative positions of their own, for the grid or the window.
        attention: "plain", or "chunked" to bound the memory, see :func:`attend_in_chunks`.
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
        window: int | None = None,
        relative: DecomposedBias | None = None,
        attention: str = "plain",
        qkv_init: Initialiser = xavier_uniform,
        kernel_init: Initialiser = xavier_uniform,
        bias_init: Initialiser = zeros,
        compute_dtype=None,
    ):
        self.heads, self.head_dim, self.compute_dtype = heads, head_dim or dim // heads, compute_dtype
        self.window, self.relative, self.attention = window, relative, attention
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
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "B N D"]:
        """The result for every token.

        Args:
            x: Tokens.
            mask: True where a token (third axis) may see another (last axis); without windows.
            bias: Added to its logit; without windows and relative positions.
            grid: Rows and columns of the tokens, which windows and relative positions need.
        """
        batch, count, _ = x.shape
        qkv, alone = self.qkv(x), 0.0 if self.qkv.bias is None else self.qkv.bias[...]
        if self.q_bias is not None:
            q_bias, v_bias = self.q_bias[...], self.v_bias[...]
            alone = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
            qkv = qkv + alone
        if self.window is not None:
            qkv = to_windows(qkv.reshape(batch, *grid, -1), self.window, fill=alone)
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, self.heads, self.head_dim).transpose(2, 0, 3, 1, 4)
        if self.relative is not None:
            bias = self.relative(q, grid if self.window is None else (self.window, self.window))
        y = ATTENTION[self.attention](q, k, v, mask=mask, bias=bias, dtype=self.compute_dtype).swapaxes(1, 2)
        y = y.reshape(*y.shape[:2], self.heads * self.head_dim)
        if self.window is not None:
            y = from_windows(y, self.window, grid).reshape(batch, count, -1)
        return self.proj(y)
