"""Pooling against a loop, and the collapse monitor (methods_views section 14)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.parts.nn.pooling import POOLING, feature_std, max_pool


def test_pooling_by_name():
    tokens, prefix = jnp.arange(24.0).reshape(2, 3, 4), -jnp.ones((2, 1, 4))
    np.testing.assert_allclose(POOLING["mean"](tokens, prefix), np.arange(24.0).reshape(2, 3, 4).mean(1))
    np.testing.assert_allclose(POOLING["class"](tokens, prefix), -np.ones((2, 4)))


@pytest.mark.parametrize("dim", [128, 256])
def test_feature_std_is_one_for_random_directions_and_zero_for_one(dim):
    x = np.random.default_rng(0).normal(size=(2000, dim)).astype(np.float32)
    assert feature_std(x) == pytest.approx(1, abs=0.01)
    assert feature_std(np.ones((50, dim), np.float32)) == pytest.approx(0, abs=1e-5)
    assert feature_std(np.zeros((50, dim), np.float32)) == 0


def test_feature_std_ignores_length():
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    scale = np.random.default_rng(1).random((64, 1)).astype(np.float32) + 0.5
    assert feature_std(x * scale) == pytest.approx(float(feature_std(x)), rel=1e-5)


@pytest.mark.parametrize("size, stride, shape", [(3, 2, (6, 7)), (3, 2, (1, 2)), (3, 1, (4, 5)), (5, 3, (8, 9))])
def test_max_pool_and_its_gradient_equal_the_loop(size, stride, shape):
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * shape[0] * shape[1] * 3).reshape(2, *shape, 3) - 50.0
    rows, cols = (-(-n // stride) for n in shape)
    expected, gradient = np.zeros((2, rows, cols, 3)), np.zeros_like(x)
    g = rng.normal(size=expected.shape)
    for place in np.ndindex(expected.shape):
        b, i, j, c = place
        first = [max(0, n * stride - size // 2) for n in (i, j)]
        window = x[b, first[0] : i * stride + size // 2 + 1, first[1] : j * stride + size // 2 + 1, c]
        expected[place] = window.max()
        r, s = np.unravel_index(window.argmax(), window.shape)
        gradient[b, first[0] + r, first[1] + s, c] += g[place]
    with jax.enable_x64(True):

        @jax.jit
        def both(x, g):
            result, pull = jax.vjp(lambda x: max_pool(x, size=size, stride=stride), x)
            return result, pull(g)[0]

        result, slope = both(x, g)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_allclose(slope, gradient, atol=1e-12)
