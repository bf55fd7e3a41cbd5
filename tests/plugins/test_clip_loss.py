"""CLIP's loss: the cases of methods_sup.md section 7 under their numbers, a slow oracle, chunks."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.clip.loss import contrast, equal_rows

from spendflops.accounts.flops import count_jaxpr


@functools.partial(jax.jit, static_argnames="chunk")
def compiled(x, y, scale, groups=None, chunk=None):
    return contrast(scale * x, y, groups=groups, chunk=chunk)


def value(x, y, scale, **options):
    with jax.enable_x64(True):
        return float(compiled(jnp.asarray(x), jnp.asarray(y), jnp.float64(scale), **options)[0])


def oracle(x, y, scale, groups=None):
    """Equation (1), one row and one column at a time; equal captions share the target."""
    count = len(x)
    groups = np.arange(count) if groups is None else groups
    total = 0.0
    for i in range(count):
        for row in (scale * y @ x[i], scale * x @ y[i]):
            log_p = row - row.max() - np.log(np.sum(np.exp(row - row.max())))
            target = (groups == groups[i]) / np.sum(groups == groups[i])
            total += sum(t * (np.log(t) - lp) for t, lp in zip(target, log_p, strict=True) if t)
    return total / (2 * count)


def directions(seed, shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("count,chunk", [(2, None), (6, None), (6, 1), (6, 2)])
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
def test_loss_equals_the_oracle(count, scale, chunk):
    x, y, groups = directions(0, (count, 4)), directions(1, (count, 4)), np.arange(count) % 4
    assert value(x, y, scale, chunk=chunk) == pytest.approx(oracle(x, y, scale), rel=1e-10)
    merged = value(x, y, scale, groups=jnp.asarray(groups), chunk=chunk)
    assert merged == pytest.approx(oracle(x, y, scale, groups), rel=1e-10)
    single = compiled(x.astype(np.float32), y.astype(np.float32), np.float32(scale), chunk=chunk)
    # Logits as large as the scale are rounded before they are subtracted.
    assert float(single[0]) == pytest.approx(oracle(x, y, scale), rel=1e-5, abs=2e-7 * scale)
    assert float(single[1]) == pytest.approx(np.mean((x @ y.T).argmax(1) == np.arange(count)))


@pytest.mark.parametrize("count,expected", [(8, 2.0794415417), (4096, 8.3177661667)])
def test_t1_all_equal(count, expected):
    z = np.tile([[0.6, 0.8]], (count, 1))
    for scale in (1.0, 100.0):
        assert value(z, z, scale, chunk=min(count, 64)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    "count,scale,expected", [(4, 1, 0.7436683806), (8, 1 / 0.07, 4.374115e-06), (512, 1 / 0.07, 3.1926013e-04)]
)
def test_t2_matched_pairs(count, scale, expected):
    got = value(np.eye(count), np.eye(count), scale)
    assert got == pytest.approx(expected, rel=1e-7)
    assert got == pytest.approx(math.log1p((count - 1) * math.exp(-scale)), rel=1e-8)


@pytest.mark.parametrize("count,scale,expected", [(4, 1, 1.7436683806), (8, 1 / 0.07, 14.2857186598)])
def test_t3_texts_rolled_by_one(count, scale, expected):
    assert value(np.eye(count), np.roll(np.eye(count), 1, axis=0), scale) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("count,scale,expected", [(4, 1, -0.5246331136), (8, 2, -0.9729616664)])
@pytest.mark.parametrize("chunk", [None, 2])
def test_t4_gradient_of_the_log_scale(count, scale, expected, chunk):
    with jax.enable_x64(True):
        z, start = jnp.eye(count), jnp.log(jnp.float64(scale))
        gradient = jax.jit(jax.grad(lambda t: contrast(jnp.exp(t) * z, z, chunk=chunk)[0]))(start)
    assert float(gradient) == pytest.approx(expected, abs=1e-10)


def test_t5_simplex():
    centred = np.eye(4) - 0.25
    z = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert value(z, z, 1.0) == pytest.approx(0.5826576531, abs=1e-10)


@pytest.mark.parametrize("times,scale,expected", [(2, 1.0, 1.4368155611), (4, 100.0, 1.3862943611)])
def test_t6_repeated_captions(times, scale, expected):
    z, groups = np.repeat(np.eye(4), times, axis=0), np.repeat(np.arange(4), times)
    assert value(z, z, scale) == pytest.approx(expected, abs=1e-10)
    # As positives of each other they leave no floor.
    assert value(z, z, scale, groups=jnp.asarray(groups)) == pytest.approx(expected - math.log(times), abs=1e-10)


def test_gradient_flows_through_all_pairs_and_chunks_change_nothing():
    """Against central differences of the oracle: stopping the gradient of the other side leaves the value alone."""
    x, y = directions(0, (6, 3)), directions(1, (6, 3))
    numeric = [np.zeros_like(x), np.zeros_like(y)]
    for side, index in ((s, i) for s in (0, 1) for i in np.ndindex(x.shape)):
        ends = []
        for h in (1e-6, -1e-6):
            moved = [x.copy(), y.copy()]
            moved[side][index] += h
            ends.append(oracle(*moved, 3.0))
        numeric[side][index] = (ends[0] - ends[1]) / 2e-6

    def gradient(chunk, groups):
        with jax.enable_x64(True):
            call = jax.jit(
                jax.value_and_grad(lambda *z: contrast(3 * z[0], z[1], groups=groups, chunk=chunk)[0], (0, 1))
            )
            return jax.tree.map(np.asarray, call(jnp.asarray(x), jnp.asarray(y)))

    dense = gradient(None, None)
    for got, expected in zip(dense[1], numeric, strict=True):
        assert np.linalg.norm(got - expected) <= 1e-7 * np.linalg.norm(expected)
    merged = gradient(None, jnp.array([0, 1, 0, 2, 2, 2]))
    for groups, expected in ((None, dense), (jnp.array([0, 1, 0, 2, 2, 2]), merged)):
        got = gradient(2, groups)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def shapes_in(jaxpr):
    """Sizes of all values of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in (*eqn.invars, *eqn.outvars) if hasattr(v.aval, "shape"))
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            yield from shapes_in(inner) if hasattr(inner, "eqns") else ()


def test_chunks_never_hold_all_logits():
    count, width, z = 64, 4, jnp.zeros((64, 4))

    def largest(chunk):
        step = jax.value_and_grad(lambda x, y: contrast(x, y, chunk=chunk)[0], (0, 1))
        return max(shapes_in(jax.make_jaxpr(step)(z, z).jaxpr)), count_jaxpr(jax.make_jaxpr(step)(z, z)).total

    assert largest(None) == (count**2, 6 * count**2 * width)
    assert largest(8) == (8 * count, 8 * count**2 * width)  # the logits once more in the backward pass
    assert largest(1)[0] == count * width


def test_equal_rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 2, (40, 4)).astype(np.int32)
    got = np.asarray(jax.jit(equal_rows)(tokens))
    same = (tokens[:, None] == tokens[None]).all(-1)
    np.testing.assert_array_equal(got[:, None] == got[None], same)
    assert got.max() < len(tokens)
