"""Products that accumulate into float32, forward and backward, whatever dtype their operands have.

With ``preferred_element_type=float32`` alone only the forward product accumulates into float32: JAX's transpose rule
gives the backward products the dtype of the operands. Here all three products are written out.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.parts.nn.initialisers import Initialiser, xavier_uniform, zeros

COMPUTE_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
"""Names in gin files -> dtype of the operands of products. None: as they are (float32, or float64 in tests)."""


def compute_dtype(name: str):
    """The dtype behind a name of :data:`COMPUTE_DTYPES`.

    Raises:
        ConfigError: An unknown name.
    """
    if name not in COMPUTE_DTYPES:
        known = list(COMPUTE_DTYPES)
        raise ConfigError(f"unknown compute_dtype {name!r}{suggest(name, known)}", why=f"known: {', '.join(known)}")
    return COMPUTE_DTYPES[name]


def einsum(spec: str, a: Array, b: Array, *, dtype=None) -> Array:
    """``jnp.einsum`` of two operands with products in ``dtype`` and sums in float32.

    Args:
        spec: Without ellipses. Every letter of an operand must be in the other operand or in the result, so that the
            backward products are einsums of the same letters.
        a: First operand.
        b: Second operand.
        dtype: Dtype that the operands are rounded to; None computes in the operands' promoted dtype.

    Returns:
        float32, or the promoted dtype of the operands where ``dtype`` is None.
    """
    if dtype is None:
        return jnp.einsum(spec, a, b)
    return _einsum(spec, dtype, a.astype(jnp.float32), b.astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum(spec: str, dtype, a: Array, b: Array) -> Array:
    return _product(spec, a.astype(dtype), b.astype(dtype))


def _product(spec: str, a: Array, b: Array) -> Array:
    """The einsum as one ``dot_general`` of [batch rows summed] with [batch summed cols], one batch axis at most.

    XLA's CPU backend (jaxlib 0.10) compiles some bfloat16 products with two batch axes and a transposed operand to a
    kernel that it does not have; in this form all of them run, and in bfloat16.
    """
    operands, out = spec.split("->")
    left, right = operands.split(",")
    batch = [x for x in out if x in left and x in right]
    summed = [x for x in left if x in right and x not in out]
    rows, cols = [x for x in out if x not in right], [x for x in out if x not in left]
    a = a.transpose([left.index(x) for x in batch + rows + summed])
    b = b.transpose([right.index(x) for x in batch + summed + cols])
    sizes, merged, count = a.shape[: len(batch)], min(len(batch), 1), len(summed)
    if len(batch) > 1:
        a, b = (x.reshape(math.prod(sizes), *x.shape[len(batch) :]) for x in (a, b))
    contracted = tuple(range(a.ndim - count, a.ndim)), tuple(range(merged, merged + count))
    batched = tuple(range(merged)), tuple(range(merged))
    y = jax.lax.dot_general(a, b, (contracted, batched), preferred_element_type=jnp.float32)
    made = batch + rows + cols
    return y.reshape(sizes + y.shape[merged:]).transpose([made.index(x) for x in out])


def _forward(spec, dtype, a, b):
    a, b = a.astype(dtype), b.astype(dtype)
    return _product(spec, a, b), (a, b)


def _backward(spec, dtype, saved, g):
    a, b = saved
    operands, out = spec.split("->")
    left, right = operands.split(",")
    g = g.astype(dtype)
    return _product(f"{out},{right}->{left}", g, b), _product(f"{left},{out}->{right}", a, g)


_einsum.defvjp(_forward, _backward)


def matmul(x: Float[Array, "*B I"], kernel: Float[Array, "I O"], *, dtype=None) -> Float[Array, "*B O"]:
    """``x @ kernel`` by :func:`einsum`, as one product of matrices.

    With the leading axes apart, XLA's CPU backend needs twice the time for the backward products. A batch axis that is
    split over devices is the outermost of the merged one, so that it stays split.
    """
    y = einsum("by,yz->bz", x.reshape(-1, x.shape[-1]), kernel, dtype=dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Module):
    """``x @ kernel + bias``. Parameters are float32.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        rngs: Source of the initial values.
        bias: Whether there is a bias.
        kernel_init: Of ``kernel`` [inputs, outputs].
        bias_init: Of ``bias`` [outputs].
        compute_dtype: Dtype of the operands of the product, see :func:`einsum`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        kernel_init: Initialiser = xavier_uniform,
        bias_init: Initialiser = zeros,
        compute_dtype=None,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (outputs,), jnp.float32)) if bias else None
        self.compute_dtype = compute_dtype

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        y = matmul(x, self.kernel[...], dtype=self.compute_dtype)
        return y if self.bias is None else y + self.bias[...]
