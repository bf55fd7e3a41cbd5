"""Pooling and the collapse monitor (methods_views section 14)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.parts.nn.pooling import POOLING, feature_std


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
