"""Heads of methods that compare views of an image: a small MLP with a norm after its layers, and unit vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn.initialisers import Initialiser
from spendflops.parts.nn.linear import Linear, matmul
from spendflops.parts.nn.norm import BatchNorm, LayerNorm

GROUPS = 16


class MLPHead(nnx.Module):
    """Linear, norm, ReLU in every layer but the last, which is linear, without a bias.

    Args:
        widths: Of the input and of every layer's output.
        rngs: Source of the initial values.
        kernel_init: A function of the fan-in that gives the kernels' initialiser.
        norm: "bn" (over the batch of one call), "ln", "gn_ws" (group norm and weight-standardised kernels, Richemond et
            al. 2020, arXiv 2010.10241) or "none".
        output_norm: Whether the norm follows the last layer, too; a batch norm has no offset there.
        bias: Whether the layers before the last one have a bias.
        compute_dtype: Dtype of the operands of the products.

    Raises:
        ConfigError: An unknown norm, or a width that the groups do not divide.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        kernel_init: Callable[[int], Initialiser],
        norm: str = "bn",
        output_norm: bool = False,
        bias: bool = True,
        compute_dtype=None,
    ):
        if norm not in HEAD_NORMS:
            known = list(HEAD_NORMS)
            raise ConfigError(f"unknown norm of a head {norm!r}{suggest(norm, known)}", why=f"known: {known}")
        self.widths = tuple(widths)
        kind = StandardisedLinear if norm == "gn_ws" else Linear
        last = len(widths) - 2
        self.dense = nnx.List(
            kind(i, o, rngs=rngs, bias=bias and n < last, kernel_init=kernel_init(i), compute_dtype=compute_dtype)
            for n, (i, o) in enumerate(itertools.pairwise(widths))
        )
        normed = 0 if norm == "none" else last + output_norm
        self.norm = nnx.List(HEAD_NORMS[norm](o, n < last) for n, o in enumerate(widths[1 : normed + 1]))

    def __call__(self, x: Float[Array, "*B D"], ctx: Context) -> Float[Array, "*B E"]:
        for index, dense in enumerate(self.dense):
            x = dense(x)
            if index < len(self.norm):
                norm = self.norm[index]
                x = norm(x, ctx) if isinstance(norm, BatchNorm) else norm(x)
            x = jax.nn.relu(x) if index < len(self.dense) - 1 else x
        return x

    def flops(self) -> int:
        """FLOPs of the forward pass for one example."""
        return sum(closed_form.linear(1, i, o) for i, o in itertools.pairwise(self.widths))


class StandardisedLinear(Linear):
    """A linear layer whose kernel has mean 0 and variance 1 over the inputs of every output (Qiao et al. 2019)."""

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        kernel = self.kernel[...]
        centred = kernel - jnp.mean(kernel, axis=0, keepdims=True)
        kernel = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=0, keepdims=True) + 1e-10)
        y = matmul(x, kernel, dtype=self.compute_dtype)
        return y if self.bias is None else y + self.bias[...]


class GroupNorm(nnx.Module):
    """Group normalisation of vectors (Wu and He 2018): each example by itself, in groups of neighbouring channels.

    Args:
        dim: Width of the last axis.
        groups: Groups of channels.
        eps: Added to the variance.

    Raises:
        ConfigError: Groups that do not divide the width.
    """

    def __init__(self, dim: int, *, groups: int = GROUPS, eps: float = 1e-5):
        if dim % groups:
            raise ConfigError(f"{groups} groups do not divide a width of {dim}", fix="choose another width")
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        parts = x.reshape(*x.shape[:-1], self.groups, -1)
        centred = parts - jnp.mean(parts, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return y * self.scale[...] + self.bias[...]


HEAD_NORMS: dict[str, Callable[[int, bool], nnx.Module] | None] = {
    "bn": lambda dim, offset: BatchNorm(dim, offset=offset),
    "ln": lambda dim, offset: LayerNorm(dim),
    "gn_ws": lambda dim, offset: GroupNorm(dim),
    "none": None,
}
"""Name -> (width, whether there is an offset) -> norm."""


def unit_vectors(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
    """Unit vectors; 1e-12 bounds the squared norm from below, so that the gradient at zero is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def mean_cosine(z: Float[Array, "B E"]) -> Float[Array, ""]:
    """Mean cosine between two different rows of unit vectors: 1 where all are one, about 0 where they spread.

    The sum over all pairs is the squared length of the sum, so that no B x B matrix is made.
    """
    count = len(z)
    pairs = jnp.sum(jnp.square(jnp.sum(z, axis=0))) - jnp.sum(jnp.square(z))
    return pairs / max(count * (count - 1), 1)
