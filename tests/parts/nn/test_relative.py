"""Relative positions against SimMIM's index (methods_mim 3.1, G2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.positions import resize_matrix
from spendflops.parts.nn.relative import RelativeBias


def index_of(grid):
    """The row of the table for every query and key, the class token first: by a loop."""
    rows, cols = grid
    total = (2 * rows - 1) * (2 * cols - 1) + 3
    index = np.zeros((rows * cols + 1,) * 2, int)
    for q in range(rows * cols):
        for k in range(rows * cols):
            dr, dc = q // cols - k // cols, q % cols - k % cols
            index[q + 1, k + 1] = (dr + rows - 1) * (2 * cols - 1) + dc + cols - 1
    index[0], index[:, 0], index[0, 0] = total - 3, total - 2, total - 1
    return index


def filled(grid, heads=2, **options):
    module = RelativeBias(grid, heads, **options)
    values = np.random.default_rng(0).normal(size=module.table.shape).astype(np.float32)
    assert np.all(np.asarray(module.table[...]) == 0)
    module.table.set_value(jnp.asarray(values))
    return module, values


def test_index_is_the_official_one():
    """224 pixels: 732 rows, an index [197, 197]; G2: at 4 x 4 its row 1 starts 50, 24, 23, 22, 21, 17."""
    assert RelativeBias((14, 14), 12).table.shape == (732, 12) and index_of((14, 14)).shape == (197, 197)
    np.testing.assert_array_equal(index_of((4, 4))[1, :6], [50, 24, 23, 22, 21, 17])


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5), (4, 4), (5, 2)])
def test_bias_is_the_table_at_the_index(grid):
    module, values = filled(grid)
    expected = values[index_of(grid)].transpose(2, 0, 1)
    np.testing.assert_array_equal(module(grid, prefix=1), expected)
    np.testing.assert_array_equal(module(grid, prefix=0), expected[:, 1:, 1:])


@pytest.mark.parametrize("prefix", [0, 1])
def test_gradient_sums_over_all_pairs_of_a_row(prefix):
    graph, params, _ = nnx.split(filled((3, 2))[0], nnx.Param, ...)
    index = index_of((3, 2))[1 - prefix :, 1 - prefix :]
    g = np.random.default_rng(1).normal(size=(2, *index.shape))

    def value(params):
        return jnp.sum(nnx.merge(graph, params)((3, 2), prefix=prefix) * g)

    traced = str(jax.make_jaxpr(jax.grad(value))(params))
    assert "scatter" not in traced and "gather" not in traced
    result = jax.jit(jax.grad(value))(params)["table"][...]
    expected = np.zeros(result.shape)
    for q in range(len(index)):
        for k in range(len(index)):
            expected[index[q, k]] += g[:, q, k]
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_another_grid_needs_a_rule_and_resamples_the_differences():
    module, values = filled((3, 2), resize="torch_bicubic")
    rows, cols = resize_matrix("torch_bicubic", 7, 5), resize_matrix("torch_bicubic", 5, 3)
    table = np.einsum("yr,xc,rch->yxh", rows, cols, values[:-3].reshape(5, 3, 2)).reshape(35, 2)
    expected = np.concatenate([table, values[-3:]])[index_of((4, 3))].transpose(2, 0, 1)
    np.testing.assert_allclose(module((4, 3), prefix=1), expected, atol=1e-5)
    traced = jax.make_jaxpr(lambda x: module((4, 3), prefix=1) + x)(0.0)
    assert count_jaxpr(traced).total == module.flops((4, 3)) > module.flops((3, 2)) == 0
    with pytest.raises(ConfigError, match="relative_resize"):
        RelativeBias((3, 2), 2)((4, 3), prefix=1)
    with pytest.raises(ConfigError, match="unknown resize rule"):
        RelativeBias((3, 2), 2, resize="cubic")


def test_sets_of_tokens_and_registers_are_refused():
    module, _ = filled((3, 2))
    with pytest.raises(ConfigError, match="tokens were taken out"):
        module(None, prefix=1)
    with pytest.raises(ConfigError, match="rows for one"):
        module((3, 2), prefix=2)
