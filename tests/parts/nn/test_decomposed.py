"""Decomposed relative positions against a loop over queries and keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.decomposed import DecomposedBias
from spendflops.parts.nn.positions import resize_matrix


def filled(grid, width, **options):
    """The module in float64, and its tables."""
    graph, state = nnx.split(DecomposedBias(grid, width, **options))
    values = nnx.to_pure_dict(state)
    assert all(not np.any(v) for v in values.values())
    rng = np.random.default_rng(0)
    tables = {name: rng.normal(size=v.shape) for name, v in values.items()}
    return nnx.merge(graph, jax.tree.map(jnp.asarray, tables)), tables


def loop(q, rows, cols, grid):
    """[B H N N] of all pairs, query (r, c), key (s, d)."""
    bias = np.zeros((*q.shape[:3], grid[0] * grid[1]))
    for query in range(bias.shape[2]):
        for key in range(bias.shape[3]):
            (r, c), (s, d) = divmod(query, grid[1]), divmod(key, grid[1])
            table = rows[r - s + grid[0] - 1] + cols[c - d + grid[1] - 1]
            bias[..., query, key] = q[:, :, query] @ table
    return bias


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 2)])
def test_bias_is_the_loop(grid):
    q = np.random.default_rng(1).normal(size=(2, 3, grid[0] * grid[1], 5))
    with jax.enable_x64(True):
        module, tables = filled(grid, 5)
        rows, cols = (np.asarray(x) for x in jax.jit(lambda q: module(q, grid))(q))
    assert rows.shape[-1] == grid[0] and cols.shape[-1] == grid[1]
    total = (rows[..., :, None] + cols[..., None, :]).reshape(*q.shape[:3], -1)
    np.testing.assert_allclose(total, loop(q, tables["rows"], tables["cols"], grid), rtol=1e-10, atol=1e-10)


def test_another_grid_needs_a_rule_and_resamples_each_table():
    q = np.random.default_rng(1).normal(size=(1, 2, 12, 5))
    with jax.enable_x64(True):
        module, tables = filled((3, 2), 5, resize="torch_bilinear")
        rows, cols = (np.asarray(x) for x in jax.jit(lambda q: module(q, (4, 3)))(q))
        kept = np.asarray(module.resampled(jnp.asarray(tables["rows"]), "cols"))
    new = {"rows": resize_matrix("torch_bilinear", 7, 5) @ tables["rows"]}
    new["cols"] = resize_matrix("torch_bilinear", 5, 3) @ tables["cols"]
    total = (rows[..., :, None] + cols[..., None, :]).reshape(1, 2, 12, 12)
    np.testing.assert_allclose(total, loop(q, new["rows"], new["cols"], (4, 3)), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(kept, resize_matrix("torch_bilinear", 3, 5) @ tables["rows"], rtol=1e-10)
    fixed = DecomposedBias((3, 2), 5)
    assert fixed.resampled(tables["rows"], "cols") is None and module.resampled(np.zeros((4, 5)), "rows") is None
    with pytest.raises(ConfigError, match="relative_resize"):
        fixed(q, (4, 3))
    with pytest.raises(ConfigError, match="torch_bilinear"):
        DecomposedBias((3, 2), 5, resize="linear")


@pytest.mark.parametrize("grid", [(3, 2), (4, 2), (4, 3)])
def test_cost_is_that_of_the_traced_program(grid):
    module = DecomposedBias((3, 2), 5, resize="torch_bilinear")
    q = jax.ShapeDtypeStruct((4, 2, grid[0] * grid[1], 5), jnp.float32)
    products, tables = module.flops(grid, heads=2)
    assert count_jaxpr(jax.make_jaxpr(lambda q: module(q, grid))(q)).total == 4 * products + tables


def test_gradients_are_sums_of_slices():
    graph, params = nnx.split(DecomposedBias((3, 2), 5))
    q = jnp.ones((1, 2, 6, 5))
    traced = jax.make_jaxpr(jax.grad(lambda p: sum(jnp.sum(x) for x in nnx.merge(graph, p)(q, (3, 2)))))(params)
    assert "scatter" not in str(traced) and "gather" not in str(traced)
