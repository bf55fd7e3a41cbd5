"""DINO's head: its size, its initial values, weight norm, numpy in float64, and the first loss that it gives."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import context, count, made, split
from spendflops_plugins.dino import cross_entropy
from spendflops_plugins.dino.head import Head, WeightNorm


@jax.jit
def compiled(student, teacher, center, tau_s, tau_t):
    return cross_entropy(student / tau_s, jax.nn.softmax((teacher - center) / tau_t))


def logits(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def weight_norm(**options):
    return WeightNorm(8, 5, rngs=nnx.Rngs(0), **options)


def test_t15_weight_norm():
    x = logits(0, 6, 8).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    layer = weight_norm(free_lengths=False)
    before = np.asarray(layer(x))
    assert np.abs(before).max() <= 1
    layer.v.set_value(layer.v[...] * jnp.asarray([0.1, 2.0, 30.0, 1.0, 0.5]))
    np.testing.assert_allclose(layer(x), before, atol=1e-6)
    assert layer.g is None
    free = weight_norm(free_lengths=True)
    np.testing.assert_allclose(free(x), before, atol=1e-6)  # lengths begin at 1
    free.g.set_value(jnp.arange(5.0))
    np.testing.assert_allclose(free(x), before * np.arange(5), atol=1e-5)


@pytest.mark.parametrize("dim,total", [(768, 23_138_560), (384, 22_352_128), (192, 21_958_912)])
def test_head_counts(dim, total):
    def head(free):
        options = {"hidden": 2048, "bottleneck": 256, "batch_norm": False, "dtype_name": "float32"}
        return Head(dim, 65536, free_lengths=free, rngs=nnx.Rngs(0), **options)

    assert count(lambda: head(True)) == total
    assert count(lambda: head(False)) == total - 65536


def test_initial_values_and_the_band_of_the_first_loss():
    options = {"hidden": 64, "bottleneck": 256, "free_lengths": True, "batch_norm": False, "dtype_name": "float32"}

    k = 4096

    @jax.jit
    def start(key, x):
        head = Head(16, k, rngs=nnx.Rngs(key), **options)
        return nnx.to_pure_dict(nnx.state(head, nnx.Param)), head(x, context())

    params, out = jax.tree.map(np.asarray, start(jax.random.key(0), logits(0, 5, 16).astype(np.float32)))
    for layer in params["mlp"].values():
        assert layer["kernel"].std() == pytest.approx(0.02, rel=0.05) and np.all(layer["bias"] == 0)
    assert np.abs(params["mlp"][2]["kernel"]).max() > 0.06  # not cut at two standard deviations
    v, g = params["last_layer"]["v"], params["last_layer"]["g"]
    assert 0.0624 < v.max() <= 1 / 16 and v.std() == pytest.approx(1 / 16 / math.sqrt(3), rel=1e-2) and np.all(g == 1)
    zero = np.zeros(k, np.float32)
    twins, others = (
        float(compiled(out[None, s], out[None, t], zero, 0.1, 0.04))
        for s, t in (([0, 0, 0], [0, 0]), ([2, 3, 4], [0, 1]))
    )
    # Logits have the variance 1 / 256. Over tau_s that adds s^2 / 2 to ln K; where both views agree, s t is saved.
    spread, agreement = 0.5 / (256 * 0.1**2), 1 / (256 * 0.1 * 0.04)
    assert math.log(65536) + spread == pytest.approx(11.29, abs=0.005)
    assert math.log(65536) + spread - agreement == pytest.approx(10.31, abs=0.005)
    assert twins == pytest.approx(math.log(k) + spread - agreement, abs=0.1)
    assert others == pytest.approx(math.log(k) + spread, abs=0.3)


def small_head(**options):
    defaults = {"hidden": 6, "bottleneck": 5, "free_lengths": True, "batch_norm": False, "dtype_name": "float32"}
    return made(lambda: Head(4, 7, rngs=nnx.Rngs(0), **(defaults | options)))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_head_against_numpy(batch_norm):
    graph, params, stats = split(small_head(batch_norm=batch_norm))
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(lambda p, x: nnx.merge(graph, p, stats)(x, context()))(params, x))
    for index in range(3):
        x = x @ params["mlp"][index]["kernel"] + params["mlp"][index]["bias"]
        if index < 2:
            if batch_norm:  # over all views of all images
                norm = params["norm"][index]
                x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5) * norm["scale"] + norm["bias"]
            x = np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))(x)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    v, g = params["last_layer"]["v"], params["last_layer"]["g"]
    np.testing.assert_allclose(found, x @ (v / np.linalg.norm(v, axis=0) * g), rtol=1e-10, atol=1e-12)


def test_head_has_a_finite_gradient_at_zero():
    graph, params, stats = split(small_head())
    params = jax.tree.map(np.zeros_like, params) | {"last_layer": params["last_layer"]}
    x = np.ones((1, 1, 4), np.float32)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graph, p, stats)(x, context()))))(params)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
