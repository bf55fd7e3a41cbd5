"""Convolutions against a loop, their gradients against JAX's, their cost and their accumulation."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.accounts.flops import count_jaxpr
from spendflops.parts.closed_form import convolution, linear
from spendflops.parts.nn.conv import Conv, Deconv, convolve
from spendflops.parts.nn.initialisers import torch_uniform


def loop(x, kernel, stride):
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    out = np.zeros((len(x), *(-(-size // stride) for size in x.shape[1:3]), kernel.shape[-1]))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            window = padded[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("bhwi,hwio->bo", window, kernel)
    return out


CASES = [(1, 1, 6), (3, 1, 6), (5, 1, 6), (1, 2, 6), (3, 2, 6), (3, 2, 7), (7, 2, 7), (5, 3, 8)]
"""Side of the kernel, stride, columns: the last place of the kernel reaches the border, or leaves a pixel unread."""


@pytest.mark.parametrize("side, stride, cols", CASES)
def test_convolution_equals_the_loop(side, stride, cols):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, cols, 3)), rng.normal(size=(side, side, 3, 5))
    with jax.enable_x64(True):
        result = np.asarray(convolve(jnp.asarray(x), jnp.asarray(kernel), stride=stride))
    np.testing.assert_allclose(result, loop(x, kernel, stride), rtol=1e-10, atol=1e-10)


def all_three(function, x, kernel, g):
    value, pull = jax.vjp(function, x, kernel)
    return value, *pull(g)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("side, stride, cols", CASES)
def test_convolution_and_both_gradients_equal_those_of_jax(side, stride, cols, dtype):
    """Operands that bfloat16 holds exactly: what is left is the order of float32 sums."""
    rng = np.random.default_rng(0)
    shapes = (2, 4, cols, 3), (side, side, 3, 5), (2, -(-4 // stride), -(-cols // stride), 5)
    arrays = [jnp.asarray(rng.normal(size=s), jnp.bfloat16).astype(jnp.float32) for s in shapes]

    def reference(x, kernel):
        pad = [(side // 2, side // 2)] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pad, dimension_numbers=layout, precision="highest"
        )

    ours = all_three(lambda x, kernel: convolve(x, kernel, stride=stride, dtype=dtype), *arrays)
    for result, expected in zip(ours, all_three(reference, *arrays), strict=True):
        assert result.dtype == jnp.float32 and result.shape == expected.shape
        assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("side, stride, cols", CASES)
def test_closed_form_counts_no_padding_forward_and_backward(side, stride, cols, dtype):
    x, kernel = jnp.ones((2, 4, cols, 3)), jnp.ones((side, side, 3, 5))
    (cost, size), function = (
        convolution((4, cols), 3, 5, kernel=side, stride=stride),
        lambda x, kernel: convolve(x, kernel, stride=stride, dtype=dtype),
    )
    assert jax.eval_shape(function, x, kernel).shape == (2, *size, 5)
    assert count_jaxpr(jax.make_jaxpr(function)(x, kernel)).total == 2 * cost
    backward = jax.make_jaxpr(lambda x, kernel, g: all_three(function, x, kernel, g))
    assert count_jaxpr(backward(x, kernel, jnp.ones((2, *size, 5)))).total == 3 * 2 * cost


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_accumulate_into_float32(stride):
    layer = Conv(4, 4, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16)
    run = partial(convolve, stride=stride, dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(run(x, k) ** 2), argnums=(0, 1)))
    text = str(jaxpr(jnp.ones((1, 4, 4, 4)), layer.kernel[...]))
    assert text.count("conv_general_dilated[") == 3 == text.count("preferred_element_type=float32")


def test_layer_has_a_stride_and_a_bias():
    layer = Conv(3, 4, rngs=nnx.Rngs(0), stride=2)
    layer.bias.set_value(jnp.arange(4.0))
    x = jnp.ones((1, 5, 5, 3))
    np.testing.assert_allclose(layer(x), convolve(x, layer.kernel[...], stride=2) + jnp.arange(4.0), atol=1e-6)
    assert Conv(3, 4, rngs=nnx.Rngs(0), bias=False).bias is None


@pytest.mark.parametrize("size, grid", [(2, (3, 2)), (3, (1, 4)), (1, (2, 2))])
def test_deconvolution_equals_the_loop(size, grid):
    rng = np.random.default_rng(0)
    layer = Deconv(4, 5, rngs=nnx.Rngs(0), size=size, kernel_init=torch_uniform(4))
    graph, state = nnx.split(layer)
    with jax.enable_x64(True):
        p = jax.tree.map(lambda v: rng.normal(size=v.shape), nnx.to_pure_dict(state))
        x = rng.normal(size=(2, *grid, 4))
        result = np.asarray(jax.jit(lambda p, x: nnx.merge(graph, p)(x))(p, x))
    expected = np.zeros((2, size * grid[0], size * grid[1], 5))
    for i in range(grid[0]):
        for j in range(grid[1]):
            for a in range(size):
                for b in range(size):
                    expected[:, size * i + a, size * j + b] = x[:, i, j] @ p["kernel"][a, b] + p["bias"]
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)
    traced = jax.make_jaxpr(lambda x: layer(x))(jax.ShapeDtypeStruct((2, *grid, 4), jnp.float32))
    assert count_jaxpr(traced).total == 2 * linear(grid[0] * grid[1], 4, size * size * 5)


def test_deconvolution_in_bfloat16_gives_float32():
    layer = Deconv(4, 5, rngs=nnx.Rngs(0), kernel_init=torch_uniform(4), compute_dtype=jnp.bfloat16)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 4)), jnp.float32)
    y, pull = jax.vjp(lambda x: layer(x), x)
    assert y.dtype == jnp.float32 and pull(y)[0].dtype == jnp.float32
    wide = Deconv(4, 5, rngs=nnx.Rngs(0), kernel_init=torch_uniform(4))(x)
    assert 0 < np.linalg.norm(y - wide) < 0.02 * np.linalg.norm(wide)
