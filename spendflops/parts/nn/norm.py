"""Normalisation layers; statistics in float32, or in the input's dtype where that is wider."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.types import Context, Stat


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), variance in two passes.

    Args:
        dim: Width of the last axis.
        eps: Added to the variance. 1e-6 in the ViT family, 1e-5 in PyTorch, 1e-12 in BERT.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = _wide(x)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015).

    Under ``jit`` with global arrays the statistics are those of the global batch. The running variance is the biased
    one, as in flax and haiku (PyTorch's is unbiased).

    Args:
        dim: Width of the last axis.
        momentum: Weight of the old running statistics: 0.9 is PyTorch's 0.1.
        eps: Added to the variance.
        scale: Whether there is a learned factor.
        offset: Whether there is a learned offset.
    """

    def __init__(self, dim: int, *, momentum: float = 0.9, eps: float = 1e-5, scale: bool = True, offset: bool = True):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32)) if scale else None
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32)) if offset else None
        self.mean, self.var = Stat(jnp.zeros((dim,), jnp.float32)), Stat(jnp.ones((dim,), jnp.float32))
        self.momentum, self.eps = momentum, eps

    def __call__(self, x: Float[Array, "*B D"], ctx: Context) -> Float[Array, "*B D"]:
        """Batch statistics, which move the running ones, where ``ctx.train``; else the running ones."""
        x = _wide(x)
        if ctx.train:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axis=axes)
            var = jnp.mean(jnp.square(x - mean), axis=axes)
            self._track(self.mean, mean)
            self._track(self.var, var)
        else:
            mean, var = self.mean[...], self.var[...]
        y = (x - mean) * jax.lax.rsqrt(var + self.eps)
        y = y if self.scale is None else y * self.scale[...]
        return y if self.bias is None else y + self.bias[...]

    def _track(self, running: Stat, value: Array) -> None:
        old = running[...]
        new = self.momentum * old + (1 - self.momentum) * jax.lax.stop_gradient(value)
        running.set_value(new.astype(old.dtype))
