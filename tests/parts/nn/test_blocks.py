"""The transformer block, its GELUs (methods_sup T9) and drop path (methods_sup T14)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Context
from spendflops.parts.nn.blocks import Block, activation, drop_path, drop_path_rates
from spendflops.parts.nn.initialisers import SCHEMES


def context(train=True, seed=0):
    return Context(key=jax.random.key(seed), step=jnp.int32(0), steps=jnp.int32(1), train=train)


@pytest.mark.parametrize(
    "name,one,minus",
    [
        ("erf", 0.8413447461, -0.1586552539),
        ("tanh", 0.8411919906, -0.1588080094),
        ("quick", 0.8457957659, -0.1542042341),
    ],
)
def test_t9_gelu(name, one, minus):
    with jax.enable_x64(True):
        values = activation(name)(jnp.asarray([1.0, -1.0], jnp.float64))
    np.testing.assert_allclose(values, [one, minus], atol=1e-10)


def test_unknown_gelu():
    with pytest.raises(ConfigError, match="tanh"):
        activation("tahn")


def test_t14_drop_path_rates():
    np.testing.assert_allclose(drop_path_rates(0.1, 12), [i * 0.1 / 11 for i in range(12)], rtol=1e-15)
    assert drop_path_rates(0.3, 1) == (0.0,)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((20000, 2, 3))
    y = np.asarray(drop_path(x, 0.25, jax.random.key(0)))
    kept = y[:, 0, 0] != 0
    np.testing.assert_array_equal(y, np.broadcast_to((kept / 0.75)[:, None, None], y.shape).astype(np.float32))
    assert kept.mean() == pytest.approx(0.75, abs=0.01)


def layer_norm(x, scale, bias, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * scale + bias


@pytest.mark.parametrize("gelu, layer_scale", [("erf", None), ("tanh", 0.1)])
def test_block_is_pre_norm_with_two_residuals(gelu, layer_scale):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        block = Block(
            8, 2, rngs=nnx.Rngs(0), gelu=gelu, mlp_ratio=2.0, eps=1e-3, drop_path=0.5, layer_scale=layer_scale
        )
        graph, state = nnx.split(block)
        p = jax.tree.map(lambda v: rng.normal(size=v.shape), nnx.to_pure_dict(state))
        module = nnx.merge(graph, jax.tree.map(jnp.asarray, p))
        x = rng.normal(size=(2, 3, 8))
        result = np.asarray(jax.jit(lambda x: module(x, context(train=False)))(x))
        normed = layer_norm(x, p["norm1"]["scale"], p["norm1"]["bias"], 1e-3)
        after = x + p.get("gamma_1", 1.0) * np.asarray(jax.jit(lambda x: module.attn(x))(normed))
    hidden = layer_norm(after, p["norm2"]["scale"], p["norm2"]["bias"], 1e-3) @ p["mlp"]["fc1"]["kernel"]
    hidden = hidden + p["mlp"]["fc1"]["bias"]
    if gelu == "erf":
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    else:
        hidden = hidden * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    expected = after + p.get("gamma_2", 1.0) * (hidden @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"])
    assert ("gamma_1" in p) == ("gamma_2" in p) == (layer_scale is not None)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_layer_scale_and_branch_kernels_start_as_the_scheme_says(monkeypatch):
    """methods_mim 3.4: the kernels that end the branches of a block depend on its number; gammas start at 0.1."""
    constant = jax.nn.initializers.constant
    ours = {"qkv": constant(-1.0), "kernel": constant(-2.0), "scaled": lambda number: constant(float(number))}
    monkeypatch.setitem(SCHEMES, "simmim", dataclasses.replace(SCHEMES["simmim"], **ours))
    block = Block(8, 2, rngs=nnx.Rngs(0), layer_scale=0.1, init="simmim", number=8)
    for gamma in (block.gamma_1, block.gamma_2):
        np.testing.assert_allclose(gamma[...], np.full(8, 0.1), rtol=1e-6)
    starts = [(block.attn.qkv, -1), (block.attn.proj, 8), (block.mlp.fc1, -2), (block.mlp.fc2, 8)]
    for layer, value in starts:
        np.testing.assert_array_equal(layer.kernel[...], value)


def test_block_drops_its_two_branches_apart_and_only_in_training():
    block = Block(8, 2, rngs=nnx.Rngs(0), drop_path=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 8)), jnp.float32)
    off, on, again = (jax.jit(block)(x, ctx) for ctx in (context(False), context(), context()))
    np.testing.assert_array_equal(on, again)
    identity = np.all(np.asarray(on) == np.asarray(x), axis=(1, 2))
    # Both branches dropped in about a quarter of the examples: one mask for both would give a half.
    assert 0.1 < identity.mean() < 0.4
    assert not np.allclose(on, off)
