"""DINO's projection head (section 3.1 and appendix C of the paper, and the official code's initial values)."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.blocks import activation
from spendflops.parts.nn.heads import unit_vectors
from spendflops.parts.nn.linear import Linear, compute_dtype, matmul
from spendflops.parts.nn.norm import BatchNorm


class Head(nnx.Module):
    """Three linear layers with GELU between, unit vectors, a linear layer without bias whose weights have a norm.

    Args:
        inputs: Width of the backbone's summary.
        outputs: K.
        hidden: Width of the two hidden layers.
        bottleneck: Width of the unit vectors.
        free_lengths: Whether the lengths of the last layer's weights are learned; else they are 1.
        batch_norm: Whether batch norm follows the hidden layers.
        rngs: Source of the initial values.
        dtype_name: Compute dtype of the products.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: int, bottleneck: int, free_lengths: bool, batch_norm: bool,
        rngs: nnx.Rngs, dtype_name: str,
    ):  # fmt: skip
        dtype, widths = compute_dtype(dtype_name), (inputs, hidden, hidden, bottleneck)
        # The official trunc_normal_(std=.02) cuts at +-2, a hundred standard deviations.
        options = {"kernel_init": initialisers.normal(0.02), "rngs": rngs, "compute_dtype": dtype}
        self.mlp = nnx.List(Linear(i, o, **options) for i, o in itertools.pairwise(widths))
        self.norm = nnx.List(BatchNorm(hidden) for _ in range(2 * batch_norm))
        self.last_layer = WeightNorm(bottleneck, outputs, free_lengths=free_lengths, rngs=rngs, compute_dtype=dtype)

    def __call__(self, x: Float[Array, "B V D"], ctx: Context) -> Float[Array, "B V K"]:
        for index, layer in enumerate(self.mlp):
            x = layer(x)
            x = self.norm[index](x, ctx) if index < len(self.norm) else x
            x = activation("erf")(x) if index < len(self.mlp) - 1 else x
        return self.last_layer(unit_vectors(x))

    def flops(self) -> int:
        """Forward, for one view."""
        kernels = [*(layer.kernel for layer in self.mlp), self.last_layer.v]
        return sum(closed_form.linear(1, *kernel.shape) for kernel in kernels)


class WeightNorm(nnx.Module):
    """``x @ (g v / |v|)``, the norm of each column of ``v`` (Salimans and Kingma 2016, arXiv 1602.07868).

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        free_lengths: Whether there is ``g`` [outputs], from 1 on; else it is 1.
        rngs: Source of the initial values.
        compute_dtype: Of the operands of the product.
    """

    def __init__(self, inputs: int, outputs: int, *, free_lengths: bool, rngs: nnx.Rngs, compute_dtype=None):
        init = initialisers.torch_uniform(inputs)
        self.v = nnx.Param(init(rngs.params(), (inputs, outputs), jnp.float32))
        self.g = nnx.Param(jnp.ones((outputs,), jnp.float32)) if free_lengths else None
        self.compute_dtype = compute_dtype

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        v = self.v[...]
        length = jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(v), axis=0), 1e-12))
        length = length if self.g is None else length * self.g[...]
        # The columns of the product are scaled, not those of the weights: XLA's CPU backend (jaxlib 0.10) makes one
        # kernel of x @ (v * length) for few rows, which takes forty times as long.
        return matmul(x, v, dtype=self.compute_dtype) * length
