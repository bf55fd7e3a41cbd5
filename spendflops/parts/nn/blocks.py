"""The pre-LN transformer block of the ViT family."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn.attention import Attention
from spendflops.parts.nn.decomposed import DecomposedBias
from spendflops.parts.nn.initialisers import Scheme, scheme
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.token_windows import window_count

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "erf": lambda x: jax.nn.gelu(x, approximate=False),
    "tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""GELU (Hendrycks and Gimpel 2016): exact, its tanh form, and OpenAI CLIP's sigmoid form."""


def activation(name: str) -> Callable[[Array], Array]:
    """The GELU called ``name``.

    Raises:
        ConfigError: An unknown name.
    """
    if name not in ACTIVATIONS:
        known = list(ACTIVATIONS)
        raise ConfigError(f"unknown gelu {name!r}{suggest(name, known)}", why=f"known: {', '.join(known)}")
    return ACTIVATIONS[name]


def drop_path(x: Float[Array, "B ..."], rate: float, key: Array) -> Float[Array, "B ..."]:
    """Zeroes whole examples with probability ``rate`` and divides the others by ``1 - rate`` (Huang et al. 2016)."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x / (1 - rate), 0)


def drop_path_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates that grow linearly from 0 in the first block to ``rate`` in the last."""
    return tuple(i * rate / max(depth - 1, 1) for i in range(depth))


class Mlp(nnx.Module):
    """Linear, GELU, linear.

    Args:
        dim: Width of input and output.
        hidden: Width between.
        rngs: Source of the initial values.
        gelu: "erf", "tanh" or "quick".
        init: Initial distributions.
        number: Of the block, from 1.
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self, dim: int, hidden: int, *, rngs: nnx.Rngs, gelu: str, init: Scheme, number: int = 1, compute_dtype=None
    ):
        activation(gelu)
        self.gelu = gelu
        starts = ((dim, hidden, init.kernel), (hidden, dim, init.output(number)))
        self.fc1, self.fc2 = (
            Linear(i, o, rngs=rngs, kernel_init=kernel, bias_init=init.mlp_bias(i), compute_dtype=compute_dtype)
            for i, o, kernel in starts
        )

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.fc2(activation(self.gelu)(self.fc1(x)))


class Block(nnx.Module):
    """x += gamma_1 attention(LN(x)); x += gamma_2 MLP(LN(x)).

    Args:
        dim: Width of the tokens.
        heads: Attention heads.
        rngs: Source of the initial values.
        head_dim: Width of a head; ``dim / heads`` by default.
        mlp_ratio: Hidden width of the MLP over ``dim``.
        qkv_bias: Whether the fused projection has a bias.
        key_bias: Whether that bias has a part for the keys.
        window, relative, attention: Of :class:`spendflops.parts.nn.attention.Attention`.
        layer_scale: Initial value of the factors gamma_1, gamma_2 [dim] (LayerScale, Touvron et al. 2021, eq. 4); None
            for none.
        gelu: "erf", "tanh" or "quick".
        eps: Of both layer norms.
        drop_path: Probability of leaving out each branch of an example, in training.
        init: Name of the initialisation scheme.
        number: Of this block, from 1: some schemes scale with it.
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        head_dim: int | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        key_bias: bool = True,
        window: int | None = None,
        relative: DecomposedBias | None = None,
        attention: str = "plain",
        layer_scale: float | None = None,
        gelu: str = "erf",
        eps: float = 1e-6,
        drop_path: float = 0.0,
        init: str = "mae",
        number: int = 1,
        compute_dtype=None,
    ):
        start = scheme(init)
        self.norm1, self.norm2 = LayerNorm(dim, eps=eps), LayerNorm(dim, eps=eps)
        self.attn = Attention(
            dim,
            heads,
            rngs=rngs,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            key_bias=key_bias,
            window=window,
            relative=relative,
            attention=attention,
            qkv_init=start.qkv,
            kernel_init=start.output(number),
            bias_init=start.proj_bias((head_dim or dim // heads) * heads),
            compute_dtype=compute_dtype,
        )
        self.mlp = Mlp(
            dim, int(dim * mlp_ratio), rngs=rngs, gelu=gelu, init=start, number=number, compute_dtype=compute_dtype
        )
        self.gamma_1, self.gamma_2 = (
            None if layer_scale is None else nnx.Param(jnp.full((dim,), layer_scale, jnp.float32)) for _ in range(2)
        )
        self.drop_path = drop_path

    def __call__(
        self,
        x: Float[Array, "B N D"],
        ctx: Context,
        *,
        mask: Bool[Array, "B 1 N N"] | None = None,
        bias: Float[Array, "H N N"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "B N D"]:
        """``ctx`` must be this block's own (``ctx.scoped``): blocks that share one would drop the same examples."""
        x = x + self._branch(self.attn(self.norm1(x), mask=mask, bias=bias, grid=grid), self.gamma_1, ctx, "attn")
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2, ctx, "mlp")

    def flops(self, tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
        """Forward for one image of ``tokens``, those of ``grid`` among them; and what is done once a call."""
        attn, (width, hidden) = self.attn, self.mlp.fc1.kernel.shape
        side, maps, pairs = attn.window, 1, None
        if side is not None:
            grid, maps = (side, side), window_count(grid, side)
            pairs = maps * side**4
        inner = attn.heads * attn.head_dim
        total = closed_form.transformer(tokens, width, 1, inner=inner, hidden=hidden, pairs=pairs)
        if attn.relative is None:
            return total, 0
        products, tables = attn.relative.flops(grid, heads=attn.heads)
        return total + maps * products, tables

    def _branch(self, y: Array, gamma: nnx.Param | None, ctx: Context, name: str) -> Array:
        y = y if gamma is None else gamma[...] * y
        return drop_path(y, self.drop_path, ctx.fork(name)) if ctx.train and self.drop_path else y
