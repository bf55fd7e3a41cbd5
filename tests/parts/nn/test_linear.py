"""Products that accumulate into float32: values against numpy, dtypes read off the jaxpr."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn import linear
from spendflops.parts.nn.attention import Attention

SPECS = [
    ("ay,yz->az", (3, 5), (5, 7)),
    ("aby,yz->abz", (2, 3, 5), (5, 7)),
    ("abcy,yz->abcz", (2, 3, 2, 5), (5, 7)),
    ("bqhd,bkhd->bhqk", (2, 5, 3, 4), (2, 6, 3, 4)),
    ("bhqk,bkhd->bqhd", (2, 3, 5, 6), (2, 6, 3, 4)),
]


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dots(function, *args):
    """Every dot_general of a function, however deep: (operand dtypes, preferred, result dtype)."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append(
                    (
                        tuple(str(v.aval.dtype) for v in eqn.invars),
                        str(jnp.dtype(eqn.params["preferred_element_type"])),
                        str(eqn.outvars[0].aval.dtype),
                    )
                )
            for value in eqn.params.values():
                for inner in value if isinstance(value, (tuple, list)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("spec,left,right", SPECS)
def test_einsum_equals_numpys(spec, left, right):
    a, b = normal(0, left), normal(1, right)
    with jax.enable_x64(True):
        result = linear.einsum(spec, jnp.asarray(a, jnp.float64), jnp.asarray(b, jnp.float64))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, np.einsum(spec, np.float64(a), np.float64(b)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec,left,right", SPECS)
def test_bfloat16_products_are_those_of_rounded_operands(spec, left, right):
    a, b = normal(0, left), normal(1, right)
    operands, out = spec.split("->")
    first, second = operands.split(",")

    def rounded(x):
        return np.float64(np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)))

    g = normal(2, np.einsum(spec, a, b).shape)

    @jax.jit
    def all_three(a, b, g):
        value, pull = jax.vjp(lambda a, b: linear.einsum(spec, a, b, dtype=jnp.bfloat16), a, b)
        return value, *pull(g)

    expected = (
        np.einsum(spec, rounded(a), rounded(b)),
        np.einsum(f"{out},{second}->{first}", rounded(g), rounded(b)),
        np.einsum(f"{first},{out}->{second}", rounded(a), rounded(g)),
    )
    for result, reference in zip(all_three(a, b, g), expected, strict=True):
        assert result.dtype == jnp.float32
        assert np.linalg.norm(result - reference) <= 1e-6 * np.linalg.norm(reference)


def test_linear_accumulates_into_float32_forward_and_backward():
    layer = linear.Linear(8, 4, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16)
    graph, params = nnx.split(layer)
    params = nnx.to_pure_dict(params)

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x) ** 2)

    x = jnp.ones((2, 3, 8))
    found = dots(jax.grad(loss, argnums=(0, 1)), params, x)
    assert found == [(("bfloat16", "bfloat16"), "float32", "float32")] * 3
    assert {str(p.dtype) for p in jax.tree.leaves(jax.grad(loss)(params, x))} == {"float32"}


def test_attention_accumulates_into_float32_forward_and_backward():
    graph, params = nnx.split(Attention(8, 2, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16))
    params = nnx.to_pure_dict(params)

    def loss(params, x):
        return jnp.sum(nnx.merge(graph, params)(x) ** 2)

    # Four products (qkv, scores, values, out), each with two backward ones.
    found = dots(jax.grad(loss, argnums=(0, 1)), params, jnp.ones((2, 3, 8)))
    assert found == [(("bfloat16", "bfloat16"), "float32", "float32")] * 12


def test_frozen_kernels_cost_no_backward_product():
    layer = linear.Linear(8, 4, rngs=nnx.Rngs(0), compute_dtype=jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(layer(x))))(jnp.ones((2, 8)))
    from jax.interpreters import partial_eval as pe

    lean, _ = pe.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    assert str(lean).count("dot_general") == 1  # the input's; the value itself is not asked for


def test_linear_without_bias_and_its_promotion():
    layer = linear.Linear(3, 2, rngs=nnx.Rngs(0), bias=False)
    assert layer.bias is None
    x = normal(0, (4, 3))
    np.testing.assert_allclose(layer(x), x @ np.asarray(layer.kernel[...]), rtol=1e-5, atol=1e-6)


def test_unknown_compute_dtype_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="bfloat16"):
        linear.compute_dtype("bfloat")
