"""Self-attention against a slow loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.parts.nn.attention import Attention


def oracle(x, qkv, bias, proj, proj_bias, heads, mask=None, added=None):
    """One example, one head, one query at a time; output axis of qkv is (q|k|v) x heads x head_dim."""
    batch, count, _ = x.shape
    inner = proj.shape[0]
    d = inner // heads
    out = np.zeros((batch, count, inner))
    for b in range(batch):
        full = x[b] @ qkv + bias
        for h in range(heads):
            q, k, v = (full[:, part * inner + h * d : part * inner + (h + 1) * d] for part in range(3))
            for i in range(count):
                score = np.array([q[i] @ k[j] / np.sqrt(d) for j in range(count)])
                if added is not None:
                    score = score + added[h, i]
                if mask is not None:
                    score[~mask[b, 0, i]] = -np.inf
                weight = np.exp(score - score.max())
                out[b, i, h * d : (h + 1) * d] = (weight / weight.sum()) @ v
    return out @ proj + proj_bias


@pytest.mark.parametrize(
    "heads,head_dim,qkv_bias,masked",
    [(1, None, True, False), (4, None, True, True), (2, None, False, True), (2, 7, True, False), (2, 7, False, True)],
)
def test_attention_equals_the_loop(heads, head_dim, qkv_bias, masked):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        layer = Attention(8, heads, rngs=nnx.Rngs(0), head_dim=head_dim, qkv_bias=qkv_bias)
        graph, state = nnx.split(layer)
        state = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), nnx.to_pure_dict(state))
        x = rng.normal(size=(2, 5, 8))
        mask = rng.random((2, 1, 5, 5)) < 0.5
        mask |= np.eye(5, dtype=bool)
        mask = mask if masked else None
        result = np.asarray(jax.jit(nnx.merge(graph, state))(x, mask=mask))
        bias = np.asarray(state["qkv"].get("bias", 0.0))
        expected = oracle(
            x,
            np.asarray(state["qkv"]["kernel"]),
            bias,
            np.asarray(state["proj"]["kernel"]),
            np.asarray(state["proj"]["bias"]),
            heads,
            mask,
        )
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_bias_of_the_logits_and_no_bias_of_the_keys():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        graph, state = nnx.split(Attention(8, 2, rngs=nnx.Rngs(0), head_dim=3, key_bias=False))
        p = jax.tree.map(lambda v: rng.normal(size=v.shape), nnx.to_pure_dict(state))
        x, added = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 5, 5))
        result = jax.jit(lambda p, x, b: nnx.merge(graph, p)(x, bias=b))(p, x, added)
    assert sorted(p) == ["proj", "q_bias", "qkv", "v_bias"] and list(p["qkv"]) == ["kernel"]
    bias = np.concatenate([p["q_bias"], np.zeros(6), p["v_bias"]])
    expected = oracle(x, p["qkv"]["kernel"], bias, p["proj"]["kernel"], p["proj"]["bias"], 2, added=added)
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)


def test_without_any_bias_there_is_none_for_queries_and_values():
    layer = nnx.eval_shape(lambda: Attention(8, 2, rngs=nnx.Rngs(0), qkv_bias=False, key_bias=False))
    assert sorted(nnx.to_pure_dict(nnx.state(layer))) == ["proj", "qkv"]


def test_bfloat16_is_close_and_its_softmax_is_float32():
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    wide = Attention(16, 4, rngs=nnx.Rngs(0))
    narrow = Attention(16, 4, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16)
    exact = np.asarray(jax.jit(wide)(x))
    error = np.linalg.norm(exact - jax.jit(narrow)(x)) / np.linalg.norm(exact)
    assert 0 < error < 0.01
    exps = [e for e in jax.make_jaxpr(narrow)(x).eqns if e.primitive.name == "exp"]
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in exps)
