"""Text towers: BERT's (Devlin et al. 2019, arXiv 1810.04805) and CLIP's (Radford et al. 2021, arXiv 2103.00020).

One class, since they differ in options only: BERT is post-LN and sees both sides; CLIP's is ``norm="pre"``, ``causal``,
``pooling="last"``, ``gelu="quick"``, ``eps=1e-5``, ``init="clip"``, 77 positions.

Deviation: dropout acts on embeddings and branches; attention probabilities have none. The default rate is 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn.attention import Attention
from spendflops.parts.nn.blocks import Mlp
from spendflops.parts.nn.heads import unit_vectors
from spendflops.parts.nn.initialisers import SCHEMES, Initialiser, Scheme, jax_truncated_normal, normal
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import LayerNorm

NORMS = ("post", "pre")
POOLINGS = ("mean", "cls", "pooler", "last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Start:
    """Initialisers of a tower: embedding table, positions, and those of the blocks from (width, depth)."""

    table: Initialiser
    positions: Initialiser
    blocks: Callable[[int, int], Scheme]


def _clip_blocks(dim: int, depth: int) -> Scheme:
    branch = dim**-0.5 * (2 * depth) ** -0.5
    return dataclasses.replace(
        SCHEMES["clip"], qkv=normal(dim**-0.5), kernel=normal((2 * dim) ** -0.5), scaled=lambda number: normal(branch)
    )


STARTS = {
    "bert": _Start(
        table=jax_truncated_normal(0.02),
        positions=jax_truncated_normal(0.02),
        blocks=lambda dim, depth: SCHEMES["truncated_02"],
    ),
    "clip": _Start(table=normal(0.02), positions=normal(0.01), blocks=_clip_blocks),
}
"""bert: N(0, 0.02^2) cut at two standard deviations for everything; clip: ``initialize_parameters`` of its code."""


class TextTower(nnx.Module):
    """Token ids to one vector a text.

    Args:
        vocabulary: Rows of the embedding table.
        rngs: Source of the initial values.
        dim: Width.
        depth: Blocks.
        heads: Attention heads.
        positions: Rows of the learned position table, the longest text in tokens.
        token_types: Rows of BERT's table of segments, of which only the first is used; 0 for no table.
        norm: "post" (BERT: after each residual sum, and after the embeddings) or "pre" (before each branch, and at the
            end).
        causal: Whether a token sees only itself and those before it.
        pooling: "mean" of the tokens that are no padding, "cls" (the first), "pooler" (the first, through a linear
            layer and tanh) or "last" (the last that is no padding: CLIP's end of text).
        gelu: "erf", "tanh" (BERT's original code) or "quick".
        eps: Of all layer norms.
        dropout: Rate, where ``ctx.train``.
        init: A name of :data:`STARTS`.
        compute_dtype: Of the operands of all products.

    Raises:
        ConfigError: An option that there is not, or a width that the heads do not divide.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        rngs: nnx.Rngs,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        positions: int = 55,
        token_types: int = 0,
        norm: str = "post",
        causal: bool = False,
        pooling: str = "mean",
        gelu: str = "erf",
        eps: float = 1e-12,
        dropout: float = 0.0,
        init: str = "bert",
        compute_dtype=None,
    ):
        for option, value, known in (("norm", norm, NORMS), ("pooling", pooling, POOLINGS), ("init", init, (*STARTS,))):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r} of the text tower{suggest(value, known)}",
                    why=f"known: {', '.join(known)}",
                )
        if dim % heads:
            raise ConfigError(f"a text width of {dim} cannot be divided into {heads} heads")
        start = STARTS[init]
        self.dim, self.causal, self.pooling, self.dropout = dim, causal, pooling, dropout
        self.embedding = nnx.Param(start.table(rngs.params(), (vocabulary, dim), jnp.float32))
        self.pos_embed = nnx.Param(start.positions(rngs.params(), (positions, dim), jnp.float32))
        types = nnx.Param(start.table(rngs.params(), (token_types, dim), jnp.float32)) if token_types else None
        self.type_embedding = types
        self.embed_norm = LayerNorm(dim, eps=eps) if norm == "post" else None
        scheme = start.blocks(dim, depth)
        self.blocks = nnx.List(
            TextBlock(
                dim,
                heads,
                rngs=rngs,
                norm=norm,
                gelu=gelu,
                eps=eps,
                dropout=dropout,
                init=scheme,
                number=number,
                compute_dtype=compute_dtype,
            )
            for number in range(1, depth + 1)
        )
        self.final_norm = LayerNorm(dim, eps=eps) if norm == "pre" else None
        self.pooler = (
            Linear(dim, dim, rngs=rngs, kernel_init=scheme.kernel, compute_dtype=compute_dtype)
            if pooling == "pooler"
            else None
        )

    def __call__(self, tokens: Int[Array, "B L"], lengths: Int[Array, " B"], ctx: Context) -> Float[Array, "B D"]:
        """One vector a text.

        Args:
            tokens: Ids, padded on the right.
            lengths: Tokens of each text that are no padding, at least 1. What padding holds changes nothing.
            ctx: This tower's own (``ctx.scoped``).

        Raises:
            ConfigError: More tokens than positions.
        """
        count, rows = tokens.shape[1], self.pos_embed.shape[0]
        if count > rows:
            raise ConfigError(
                f"texts of {count} tokens, a table of {rows} positions",
                why="the views give longer texts than the text tower was built for",
                fix=f"a table of {count} positions, or a max_length of {rows} in the views",
            )
        real = jnp.arange(count) < lengths[:, None]
        x = self.hidden(tokens, real, ctx)
        if self.pooling == "mean":
            kept = jnp.where(real[..., None], x, 0)
            return jnp.sum(kept, axis=1) / lengths[:, None].astype(x.dtype)
        if self.pooling == "last":
            return jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return x[:, 0] if self.pooler is None else jnp.tanh(self.pooler(x[:, 0]))

    def hidden(self, tokens: Int[Array, "B L"], real: Bool[Array, "B L"], ctx: Context) -> Float[Array, "B L D"]:
        """The output of the last block (normalised, in a pre-LN tower); ``real`` is False at padding."""
        count = tokens.shape[1]
        x = jnp.take(self.embedding[...], tokens, axis=0) + self.pos_embed[...][:count]
        x = x if self.type_embedding is None else x + self.type_embedding[...][0]
        x = x if self.embed_norm is None else self.embed_norm(x)
        x = dropout(x, self.dropout, ctx, "embedding")
        mask = real[:, None, None, :]
        mask = mask & jnp.tril(jnp.ones((count, count), bool)) if self.causal else mask
        for index, block in enumerate(self.blocks):
            x = block(x, ctx.scoped(f"block{index}"), mask=mask)
        return x if self.final_norm is None else self.final_norm(x)

    def flops(self, length: int, *, train: bool = False) -> int:
        """FLOPs for one text of ``length`` tokens, padding included: looking up an embedding costs none.

        In training every product is done again for the gradient of each of its operands.
        """
        forward = closed_form.transformer(length, self.dim, len(self.blocks))
        forward += closed_form.linear(1, self.dim, self.dim) if self.pooler is not None else 0
        return (3 if train else 1) * forward


class TextBlock(nnx.Module):
    """x = LN(x + attention(x)); x = LN(x + MLP(x)), or with the norms before the branches; the MLP is 4 times as wide.

    Args:
        dim: Width of the tokens.
        heads: Attention heads.
        rngs: Source of the initial values.
        norm: "post" or "pre".
        gelu: "erf", "tanh" or "quick".
        eps: Of both layer norms.
        dropout: Rate of the dropout on both branches.
        init: Initialisers.
        number: Of this block, from 1.
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        norm: str,
        gelu: str,
        eps: float,
        dropout: float,
        init: Scheme,
        number: int,
        compute_dtype=None,
    ):
        self.post, self.dropout = norm == "post", dropout
        self.norm1, self.norm2 = LayerNorm(dim, eps=eps), LayerNorm(dim, eps=eps)
        self.attn = Attention(
            dim,
            heads,
            rngs=rngs,
            qkv_init=init.qkv,
            kernel_init=init.output(number),
            bias_init=init.proj_bias(dim),
            compute_dtype=compute_dtype,
        )
        self.mlp = Mlp(dim, 4 * dim, rngs=rngs, gelu=gelu, init=init, number=number, compute_dtype=compute_dtype)

    def __call__(
        self, x: Float[Array, "B L D"], ctx: Context, *, mask: Bool[Array, "B 1 #L L"]
    ) -> Float[Array, "B L D"]:
        if self.post:
            x = self.norm1(x + dropout(self.attn(x, mask=mask), self.dropout, ctx, "attn"))
            return self.norm2(x + dropout(self.mlp(x), self.dropout, ctx, "mlp"))
        x = x + dropout(self.attn(self.norm1(x), mask=mask), self.dropout, ctx, "attn")
        return x + dropout(self.mlp(self.norm2(x)), self.dropout, ctx, "mlp")


def dropout(x: Float[Array, "*B"], rate: float, ctx: Context, name: str) -> Float[Array, "*B"]:
    """Zeroes values with probability ``rate`` and divides the others by ``1 - rate``, where ``ctx.train``."""
    if not (ctx.train and rate):
        return x
    return jnp.where(jax.random.bernoulli(ctx.fork(name), 1 - rate, x.shape), x / (1 - rate), 0)


def text_lengths(tokens: Int[Array, "B L"], pad: int) -> Int[Array, " B"]:
    """Tokens up to the last that is no padding, at least 1.

    Right where the padding's id stands for a token, too (OpenAI's is that of ``!``), since a text ends with another.
    """
    places = jnp.where(tokens != pad, jnp.arange(1, tokens.shape[1] + 1), 1)
    return jnp.max(places, axis=1)


def class_embeddings(embeddings: Float[Array, "K T E"], valid: Bool[Array, "K T"] | None = None) -> Float[Array, "K E"]:
    """Zero-shot classifier weights: each text to unit length, their mean, the mean to unit length (CLIP, 3.1.4).

    Args:
        embeddings: Of T texts for each of K classes.
        valid: Which of them there are; all by default.
    """
    z = unit_vectors(embeddings)
    return unit_vectors(jnp.sum(z if valid is None else jnp.where(valid[..., None], z, 0), axis=1))
