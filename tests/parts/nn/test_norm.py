"""Layer norm and batch norm; methods_views T10."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.contracts.types import Context, Stat
from spendflops.parts.nn.norm import BatchNorm, LayerNorm

TRAIN = Context(key=jax.random.key(0), step=jnp.int32(0), steps=jnp.int32(1), train=True)
EVAL = Context(key=jax.random.key(0), step=jnp.int32(0), steps=jnp.int32(1), train=False)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_equals_numpy(eps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 8)) * 5 + 100
    with jax.enable_x64(True):
        layer = LayerNorm(8, eps=eps)
        layer.scale.set_value(jnp.asarray(rng.normal(size=8)))
        layer.bias.set_value(jnp.asarray(rng.normal(size=8)))
        result = np.asarray(layer(jnp.asarray(x)))
        scale, bias = np.asarray(layer.scale[...]), np.asarray(layer.bias[...])
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_layer_norm_of_bfloat16_has_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 512)) + 30, jnp.bfloat16)
    result = LayerNorm(512)(x)
    assert result.dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert np.abs(result - exact).max() < 1e-3


def test_t10_statistics_are_per_call():
    layer = BatchNorm(1, eps=0.0, scale=False, offset=False)
    one, two = jnp.asarray([[0.0], [2.0]]), jnp.asarray([[10.0], [12.0]])
    np.testing.assert_allclose(layer(one, TRAIN)[:, 0], [-1, 1], atol=1e-6)
    np.testing.assert_allclose(layer(two, TRAIN)[:, 0], [-1, 1], atol=1e-6)
    joint = layer(jnp.concatenate([one, two]), TRAIN)[:, 0]
    np.testing.assert_allclose(joint, [-1.17669681, -0.78446454, 0.78446454, 1.17669681], atol=1e-6)


def test_batch_norm_tracks_and_uses_running_statistics():
    rng = np.random.default_rng(0)
    layer = BatchNorm(3)
    x = rng.normal(size=(5, 4, 3)).astype(np.float32) * 2 + 1
    mean, var = x.mean((0, 1)), x.var((0, 1))
    np.testing.assert_allclose(layer(x, TRAIN), (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_allclose(layer.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.var[...], 0.9 + 0.1 * var, rtol=1e-5)
    running = np.asarray(layer.mean[...]), np.asarray(layer.var[...])
    np.testing.assert_allclose(layer(x, EVAL), (x - running[0]) / np.sqrt(running[1] + 1e-5), atol=1e-5)
    np.testing.assert_array_equal(layer.mean[...], running[0])  # evaluation moves nothing


def test_batch_norm_options_and_kinds_of_state():
    layer = BatchNorm(3, offset=False)
    assert layer.bias is None and layer.scale is not None
    _, params, stats = nnx.split(layer, nnx.Param, Stat)
    assert len(jax.tree.leaves(params)) == 1 and len(jax.tree.leaves(stats)) == 2


def test_gradient_flows_through_batch_statistics():
    # With constant statistics the gradient of a sum would be 1 / std, not 0.
    graph, params, stats = nnx.split(BatchNorm(2), nnx.Param, ...)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(nnx.merge(graph, params, stats)(x, TRAIN)))(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
