"""The same-size convolution against a loop, and its accumulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.parts.nn.conv import Conv, convolve


def loop(x, kernel):
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = np.einsum("bhwi,hwio->bo", padded[:, i : i + side, j : j + side], kernel)
    return out


@pytest.mark.parametrize("side", [1, 3, 5])
def test_convolution_equals_the_loop(side):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, 6, 3)), rng.normal(size=(side, side, 3, 5))
    with jax.enable_x64(True):
        result = np.asarray(convolve(jnp.asarray(x), jnp.asarray(kernel)))
    np.testing.assert_allclose(result, loop(x, kernel), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [1, 3])
def test_bfloat16_convolution_and_both_gradients(side):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 6, 3), (side, side, 3, 5)))
    g = rng.normal(size=(2, 4, 6, 5)).astype(np.float32)

    def rounded(v):
        return jnp.asarray(v, jnp.bfloat16).astype(jnp.float32)

    def all_three(x, kernel, g, dtype):
        value, pull = jax.vjp(lambda x, k: convolve(x, k, dtype=dtype), x, kernel)
        return value, *pull(g)

    narrow = jax.jit(all_three, static_argnums=3)(x, kernel, g, jnp.bfloat16)
    wide = jax.jit(all_three, static_argnums=3)(rounded(x), rounded(kernel), rounded(g), None)
    for result, expected in zip(narrow, wide, strict=True):
        assert result.dtype == jnp.float32 and result.shape == expected.shape
        assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


def test_convolutions_accumulate_into_float32():
    layer = Conv(4, 4, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(convolve(x, k, dtype=jnp.bfloat16) ** 2), argnums=(0, 1)))
    text = str(jaxpr(jnp.ones((1, 4, 4, 4)), layer.kernel[...]))
    assert text.count("conv_general_dilated[") == 3 == text.count("preferred_element_type=float32")
