"""Convolutions that accumulate into float32, forward and backward.

JAX cannot transpose a convolution whose result is wider than its operands; the two backward convolutions are written
out: one of the dilated gradient with the mirrored kernel, one in which the batch is the contracted axis.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.parts.nn.initialisers import Initialiser, lecun_normal, zeros
from spendflops.parts.nn.linear import matmul


def convolve(
    x: Float[Array, "B H W I"], kernel: Float[Array, "k k I O"], *, stride: int = 1, dtype=None
) -> Float[Array, "B h w O"]:
    """Odd kernels with zero padding of half a kernel on every side; products in ``dtype``, sums in float32.

    The result has ``ceil(H / stride)`` rows. A kernel of one pixel is the matrix product that it is.

    Args:
        x: Maps.
        kernel: Filters.
        stride: Pixels from one place of the kernel to the next.
        dtype: Dtype that the operands are rounded to; None computes in the operands' promoted dtype.
    """
    if kernel.shape[:2] == (1, 1):
        return matmul(x[:, ::stride, ::stride], kernel[0, 0], dtype=dtype)
    if dtype is None:
        wide = jnp.promote_types(x.dtype, kernel.dtype)
        return _product(x.astype(wide), kernel.astype(wide), stride=stride, preferred=wide)
    return _convolve(dtype, stride, x.astype(jnp.float32), kernel.astype(jnp.float32))


def _product(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    pad=None,
    holes: tuple[int, int] = (1, 1),
    layout=("NHWC", "HWIO", "NHWC"),
    preferred=jnp.float32,
) -> Array:
    """``holes`` are the dilations of ``x`` and of the kernel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pad or [(side // 2, side // 2) for side in kernel.shape[:2]],
        lhs_dilation=(holes[0], holes[0]),
        rhs_dilation=(holes[1], holes[1]),
        dimension_numbers=layout,
        preferred_element_type=preferred,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(dtype, stride: int, x: Array, kernel: Array) -> Array:
    return _product(x.astype(dtype), kernel.astype(dtype), stride=stride)


def _forward(dtype, stride, x, kernel):
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    return _product(x, kernel, stride=stride), (x, kernel)


def _backward(dtype, stride, saved, g):
    """y[o] = sum over taps of x[o stride + tap - half] kernel[tap], and so

    dx[i] = sum over taps of dy[(i + half - tap) / stride] kernel[tap], where that is a whole number: the kernel is
    mirrored, dy has stride - 1 holes between its elements; dkernel[tap] = sum over o of x[o stride + tap - half] dy[o]:
    dy is a kernel with such holes. What the last place of the kernel does not reach is padding, of ``dx`` on one side
    only, and taken away from that of ``x``.
    """
    x, kernel = saved
    g = g.astype(dtype)
    halves = [side // 2 for side in kernel.shape[:2]]
    unread = [(size - 1) % stride for size in x.shape[1:3]]
    back = _product(
        g,
        kernel[::-1, ::-1].swapaxes(2, 3),
        pad=[(half, half + rest) for half, rest in zip(halves, unread, strict=True)],
        holes=(stride, 1),
    )
    update = _product(
        x,
        g,
        pad=[(half, half - rest) for half, rest in zip(halves, unread, strict=True)],
        holes=(1, stride),
        layout=("CHWN", "IHWO", "HWNC"),
    )
    return back, update


_convolve.defvjp(_forward, _backward)


class Conv(nnx.Module):
    """:func:`convolve` and a bias. Parameters are float32.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        rngs: Source of the initial values.
        size: Odd side of the kernel.
        stride: Pixels from one place of the kernel to the next.
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
        stride: int = 1,
        bias: bool = True,
        kernel_init: Initialiser = lecun_normal,
        compute_dtype=None,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(zeros(rngs.params(), (outputs,), jnp.float32)) if bias else None
        self.stride, self.compute_dtype = stride, compute_dtype

    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w O"]:
        y = convolve(x, self.kernel[...], stride=self.stride, dtype=self.compute_dtype)
        return y if self.bias is None else y + self.bias[...]


class Deconv(nnx.Module):
    """A transposed convolution whose stride is its kernel's side, as the product that it is: nothing overlaps.

    Pixel (i, j) of the input gives the ``size`` x ``size`` pixels of the result from (size i, size j) on, pixel (a, b)
    of them by ``kernel[a, b]``. Parameters are float32.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        rngs: Source of the initial values.
        kernel_init: Of ``kernel`` [size, size, inputs, outputs].
        size: Side of the kernel.
        bias_init: Of the bias.
        compute_dtype: Of the operands of the product.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        kernel_init: Initialiser,
        size: int = 2,
        bias_init: Initialiser = zeros,
        compute_dtype=None,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (outputs,), jnp.float32))
        self.compute_dtype = compute_dtype

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B H W O"]:
        batch, rows, cols, inputs = x.shape
        size, outputs = self.kernel.shape[0], self.kernel.shape[3]
        flat = self.kernel[...].transpose(2, 0, 1, 3).reshape(inputs, -1)
        y = matmul(x, flat, dtype=self.compute_dtype).reshape(batch, rows, cols, size, size, outputs)
        return y.swapaxes(2, 3).reshape(batch, size * rows, size * cols, outputs) + self.bias[...]
