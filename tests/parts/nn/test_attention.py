"""Self-attention against a slow loop."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spendflops.parts.nn.attention
from spendflops.accounts.flops import count_jaxpr
from spendflops.parts.nn.attention import QUERIES, Attention, attend, attend_in_chunks
from spendflops.parts.nn.decomposed import DecomposedBias


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


def padded_windows(x, grid, side):
    """ViTDet's way: zeros below and to the right, then the tokens of each window, [windows, side^2, D] an image."""
    for image in x:
        padded = np.zeros((-(-grid[0] // side) * side, -(-grid[1] // side) * side, x.shape[-1]))
        padded[: grid[0], : grid[1]] = image.reshape(*grid, -1)
        for top in range(0, padded.shape[0], side):
            for left in range(0, padded.shape[1], side):
                yield padded[top : top + side, left : left + side].reshape(side * side, -1)


def relative_bias(x, qkv, bias, rows, cols, grid, heads):
    """[B H N N]: each unscaled query with the tables' rows, pair by pair."""
    inner = qkv.shape[1] // 3
    added = np.zeros((len(x), heads, x.shape[1], x.shape[1]))
    for b in range(len(x)):
        q = (x[b] @ qkv + bias)[:, :inner].reshape(-1, heads, inner // heads)
        for i in range(x.shape[1]):
            for j in range(x.shape[1]):
                (r, c), (s, d) = divmod(i, grid[1]), divmod(j, grid[1])
                added[b, :, i, j] = q[i] @ (rows[r - s + grid[0] - 1] + cols[c - d + grid[1] - 1])
    return added


@pytest.mark.parametrize(
    "grid, window, relative, key_bias, attention",
    [
        ((3, 5), 2, False, True, "plain"),
        ((3, 5), 4, True, False, "plain"),
        ((3, 5), 2, True, True, "chunked"),
        ((4, 2), None, True, True, "plain"),
        ((4, 2), None, True, False, "chunked"),
    ],
)
def test_windows_and_decomposed_positions_equal_the_loop(grid, window, relative, key_bias, attention, monkeypatch):
    """As in ViTDet's code: zeros in the windows' place beyond the map, which are projected, too, and not masked."""
    monkeypatch.setattr(spendflops.parts.nn.attention, "QUERIES", 3)
    rng, extent = np.random.default_rng(0), grid if window is None else (window, window)
    with jax.enable_x64(True):
        table = DecomposedBias(extent, 4) if relative else None
        layer = Attention(
            6, 2, rngs=nnx.Rngs(0), head_dim=4, key_bias=key_bias, window=window, relative=table, attention=attention
        )
        graph, state = nnx.split(layer)
        p = jax.tree.map(lambda v: rng.normal(size=v.shape), nnx.to_pure_dict(state))
        x = rng.normal(size=(2, grid[0] * grid[1], 6))
        result = np.asarray(jax.jit(lambda p, x: nnx.merge(graph, p)(x, grid=grid))(p, x))
    kernel = p["qkv"]["kernel"]
    bias = p["qkv"]["bias"] if key_bias else np.concatenate([p["q_bias"], np.zeros(8), p["v_bias"]])
    parts = x if window is None else np.stack(list(padded_windows(x, grid, window)))
    added = np.zeros((len(parts), 2, parts.shape[1], parts.shape[1]))
    if relative:
        added = relative_bias(parts, kernel, bias, *(p["relative"][name] for name in ("rows", "cols")), extent, 2)
    outputs = [
        oracle(part[None], kernel, bias, p["proj"]["kernel"], p["proj"]["bias"], 2, added=extra)[0]
        for part, extra in zip(parts, added, strict=True)
    ]
    if window is not None:
        # Back to the map, place by place.
        across, count = -(-grid[1] // window), len(parts) // 2
        outputs = [
            [
                outputs[b * count + r // window * across + c // window][r % window * window + c % window]
                for r in range(grid[0])
                for c in range(grid[1])
            ]
            for b in range(2)
        ]
    np.testing.assert_allclose(result, outputs, rtol=1e-10, atol=1e-10)


def test_without_biases_what_is_beyond_the_map_is_zero():
    layer = Attention(4, 1, rngs=nnx.Rngs(0), qkv_bias=False, window=2)
    one = jax.jit(lambda x: layer(x, grid=(1, 1)))(jnp.ones((1, 1, 4)))
    q, k, v = np.split(np.ones(4) @ np.asarray(layer.qkv.kernel[...], np.float64), 3)
    weight = np.exp(q @ k / 2) / (np.exp(q @ k / 2) + 3)
    np.testing.assert_allclose(one[0, 0], weight * v @ np.asarray(layer.proj.kernel[...]), rtol=1e-5)


@pytest.mark.parametrize("count, chunks", [(12, [4, 4, 4]), (14, [5, 5, 4]), (4, [4])])
def test_chunks_give_the_same_result_and_gradients(count, chunks, monkeypatch):
    monkeypatch.setattr(spendflops.parts.nn.attention, "QUERIES", 5)
    rng = np.random.default_rng(0)
    shapes = (
        (2, 3, count, 4),
        (2, 3, count, 4),
        (2, 3, count, 4),
        (3, count, count),
        (2, 3, count, 2),
        (2, 3, count, count // 2),
    )
    mask = (rng.random((2, 1, count, count)) < 0.5) | np.eye(count, dtype=bool)
    weight = rng.normal(size=shapes[0])
    with jax.enable_x64(True):
        arrays = [rng.normal(size=shape) for shape in shapes]

        def value(function, q, k, v, bias, rows, cols):
            one = function(q, k, v, bias=bias, mask=mask)
            return jnp.sum(weight * (one + function(q, k, v, bias=(rows, cols))))

        results = [
            jax.jit(jax.value_and_grad(functools.partial(value, function), argnums=tuple(range(6))))(*arrays)
            for function in (attend, attend_in_chunks)
        ]
        traced = jax.make_jaxpr(attend_in_chunks)(*arrays[:3])
    for plain, chunked in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        assert np.linalg.norm(chunked - plain) <= 1e-12 * np.linalg.norm(plain)
    assert count_jaxpr(traced).total == 2 * 2 * 2 * 3 * count**2 * 4
    sizes = {str(c) for c in chunks}
    assert sizes == set(re.findall(rf"f64\[6,(\d+),{count}\]", str(traced)))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_in_chunks_no_map_of_all_pairs_exists_forward_or_backward(dtype):
    count = 2 * QUERIES + 2
    shapes = [jax.ShapeDtypeStruct((1, 2, count, 4), jnp.float32)] * 3
    for function, there in ((attend, True), (attend_in_chunks, False)):
        loss = lambda *args, function=function: jnp.sum(function(*args, dtype=dtype))  # noqa: E731
        traced = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*shapes)
        assert (f"{count},{count}]" in str(traced)) is there
        cost = count_jaxpr(traced)
        assert cost.without_recomputation().total == 6 * 2 * 2 * count**2 * 4
        assert cost.rematted == (0 if there else 2 * 2 * count**2 * 4)
