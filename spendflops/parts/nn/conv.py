"""A same-size convolution that accumulates into float32, forward and backward.

JAX cannot transpose a convolution whose result is wider than its operands; the two backward convolutions are written
out: one with the mirrored kernel, one in which the batch is the contracted axis.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.parts.nn.initialisers import Initialiser, lecun_normal, zeros


def convolve(x: Float[Array, "B H W I"], kernel: Float[Array, "k k I O"], *, dtype=None) -> Float[Array, "B H W O"]:
    """Stride 1, zero padding to the same size, odd kernel; products in ``dtype``, sums in float32.

    None computes in the operands' promoted dtype.
    """
    if dtype is None:
        wide = jnp.promote_types(x.dtype, kernel.dtype)
        return _product(x.astype(wide), kernel.astype(wide), preferred=wide)
    return _convolve(dtype, x.astype(jnp.float32), kernel.astype(jnp.float32))


def _product(x: Array, kernel: Array, *, preferred=jnp.float32, layout=("NHWC", "HWIO", "NHWC"), pad=None) -> Array:
    pad = pad or [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pad, dimension_numbers=layout, preferred_element_type=preferred
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(dtype, x: Array, kernel: Array) -> Array:
    return _product(x.astype(dtype), kernel.astype(dtype))


def _forward(dtype, x, kernel):
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    return _product(x, kernel), (x, kernel)


def _backward(dtype, saved, g):
    x, kernel = saved
    g = g.astype(dtype)
    back = _product(g, kernel[::-1, ::-1].swapaxes(2, 3))
    pad = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return back, _product(x, g, layout=("CHWN", "IHWO", "HWNC"), pad=pad)


_convolve.defvjp(_forward, _backward)


class Conv(nnx.Module):
    """:func:`convolve` and a bias. Parameters are float32.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        rngs: Source of the initial values.
        size: Odd side of the kernel.
        bias: Whether there is a bias.
        kernel_init: Of ``kernel`` [size, size, inputs, outputs].
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        size: int = 3,
        bias: bool = True,
        kernel_init: Initialiser = lecun_normal,
        compute_dtype=None,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(zeros(rngs.params(), (outputs,), jnp.float32)) if bias else None
        self.compute_dtype = compute_dtype

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B H W O"]:
        y = convolve(x, self.kernel[...], dtype=self.compute_dtype)
        return y if self.bias is None else y + self.bias[...]
