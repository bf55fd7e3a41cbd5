"""Position tables (methods_mim T3, methods_sup T13) and resize rules (downstream T6, T7, T14)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.positions import RULES, half_pixel, resize_matrix, resize_table, sincos_2d, sincos_table


def test_t3_encoder_table():
    table = sincos_2d(np.arange(14), np.arange(14), 768)
    assert table.shape == (196, 768)
    assert table.sum() == pytest.approx(69594.49386, abs=1e-4)
    assert (table**2).sum() == pytest.approx(75264, abs=1e-8)
    np.testing.assert_allclose(table[1, :3], [0.84147098, 0.81525065, 0.78859304], atol=1e-8)
    np.testing.assert_allclose(table[1, 192:194], [0.54030231, 0.57910826], atol=1e-8)
    np.testing.assert_array_equal(table[1, 384:], np.repeat([0.0, 1.0], 192))
    np.testing.assert_array_equal(table[14, :192], 0)
    assert table[14, 384] == pytest.approx(0.84147098, abs=1e-8)


@pytest.mark.parametrize("grid,dim,total,squares", [(14, 512, 46340.33310, 50176), (16, 1280, 149578.40576, 163840)])
def test_t3_other_tables(grid, dim, total, squares):
    table = sincos_table((grid, grid), dim)
    assert table.dtype == np.float32
    assert table.astype(np.float64).sum() == pytest.approx(total, abs=0.01)
    assert (table.astype(np.float64) ** 2).sum() == pytest.approx(squares, abs=0.01)


def test_sup_t13_sincos_of_width_8():
    table = sincos_2d(np.arange(2), np.arange(2), 8)
    s, c = np.sin, np.cos
    np.testing.assert_allclose(table[1], [s(1), s(0.01), c(1), c(0.01), 0, 0, 1, 1], atol=1e-15)


def test_tables_by_a_slow_loop():
    table = sincos_2d(np.array([0.5, 2.0]), np.array([1.0, 3.0, 4.5]), 12)
    for i, row in enumerate([0.5, 2.0]):
        for j, col in enumerate([1.0, 3.0, 4.5]):
            for k in range(3):
                w = 10000 ** (-k / 3)
                expected = [np.sin(col * w), np.cos(col * w), np.sin(row * w), np.cos(row * w)]
                np.testing.assert_allclose(table[i * 3 + j, k::3], expected, atol=1e-14)


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ConfigError, match="multiple of 4"):
        sincos_2d(np.arange(2), np.arange(2), 6)


def test_t6_linear_rules():
    ramp = np.arange(4.0)
    half = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(resize_matrix("torch_bilinear", 8, 4) @ ramp, half, atol=1e-12)
    np.testing.assert_allclose(resize_matrix("jax_linear", 8, 4) @ ramp, half, atol=1e-12)
    np.testing.assert_allclose(resize_matrix("linear_corners", 8, 4) @ ramp, np.arange(8) * 3 / 7, atol=1e-12)
    long = np.arange(8.0)
    np.testing.assert_allclose(resize_matrix("torch_bilinear", 4, 8) @ long, [0.5, 2.5, 4.5, 6.5], atol=1e-12)
    np.testing.assert_allclose(resize_matrix("jax_linear", 4, 8) @ long, [5 / 7, 2.5, 4.5, 44 / 7], atol=1e-12)


def test_t7_cubic_rules():
    impulse = np.array([0.0, 1, 0, 0])
    torch = [-0.105469, 0.261719, 0.878906, 0.878906, 0.261719, -0.105469, -0.035156, 0]
    keys = [-0.088235, 0.211679, 0.847328, 0.867188, 0.226562, -0.068702, -0.021898, 0]
    np.testing.assert_allclose(resize_matrix("torch_bicubic", 8, 4) @ impulse, torch, atol=1e-6)
    np.testing.assert_allclose(resize_matrix("jax_cubic", 8, 4) @ impulse, keys, atol=1e-6)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("n_out,n_in", [(32, 14), (14, 32), (14, 14), (7, 3), (1, 5)])
def test_t14_rows_sum_to_one(rule, n_out, n_in):
    matrix = resize_matrix(rule, n_out, n_in)
    assert matrix.shape == (n_out, n_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("rule,method", [("jax_cubic", "cubic"), ("jax_linear", "linear")])
@pytest.mark.parametrize("new", [(9, 7), (3, 2)])
def test_jax_rules_equal_jax(rule, method, new):
    table = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    expected = jax.image.resize(table, (*new, 3), method)
    result = resize_table(table.reshape(20, 3), (5, 4), new, rule=rule).reshape(*new, 3)
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("rule,tenth", [("torch_bicubic", 0.0), ("dino_bicubic", 0.1)])
@pytest.mark.parametrize("n_out,n_in", [(6, 14), (32, 14)])
def test_torch_rules_by_a_slow_loop(rule, tenth, n_out, n_in):
    expected = np.zeros((n_out, n_in))
    for j in range(n_out):
        x = (j + 0.5) * n_in / (n_out + tenth) - 0.5
        for tap in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            t = abs(x - tap)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3
            expected[j, min(max(tap, 0), n_in - 1)] += near if t <= 1 else far
    np.testing.assert_allclose(resize_matrix(rule, n_out, n_in), expected, atol=1e-12)


@pytest.mark.parametrize("n_out", [6, 7, 8, 16, 32])
def test_dino_rule_is_the_official_formula(n_out):
    """methods_views 11.3: scale s = (n + 0.1) / 14, x = (j + 0.5) / s - 0.5, a = -0.75, taps clamped to the border."""
    scale, a, expected = (n_out + 0.1) / 14, -0.75, np.zeros((n_out, 14))
    for j in range(n_out):
        x = (j + 0.5) / scale - 0.5
        t = x - np.floor(x)
        outer = [((a * (u - 5)) * u + 8 * a) * u - 4 * a for u in (t + 1, 2 - t)]
        inner = [((a + 2) * u - (a + 3)) * u * u + 1 for u in (t, 1 - t)]
        for tap, weight in enumerate([outer[0], *inner, outer[1]], start=int(np.floor(x)) - 1):
            expected[j, np.clip(tap, 0, 13)] += weight
    np.testing.assert_allclose(resize_matrix("dino_bicubic", n_out, 14), expected, rtol=0, atol=8e-15)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(196, 5))
    whole = np.kron(expected, expected) @ table
    np.testing.assert_allclose(resize_table(table, (14, 14), (n_out, n_out), rule="dino_bicubic"), whole, atol=1e-13)
    other = resize_table(table, (14, 14), (n_out, n_out), rule="torch_bicubic")
    assert np.linalg.norm(whole - other) > 0.05 * np.linalg.norm(whole)


def test_resize_table_in_jax_and_numpy_agree_and_exact_is_near():
    table = sincos_table((14, 14), 64)
    by_numpy = resize_table(table, (14, 14), (32, 32), rule="torch_bicubic")
    by_jax = resize_table(jnp.asarray(table), (14, 14), (32, 32), rule="torch_bicubic")
    assert isinstance(by_numpy, np.ndarray)
    np.testing.assert_allclose(by_numpy, by_jax, atol=1e-5)
    exact = sincos_2d(half_pixel(32, 14), half_pixel(32, 14), 64)
    assert np.linalg.norm(by_numpy - exact) / np.linalg.norm(exact) < 0.03
    assert resize_table(table, (14, 14), (14, 14), rule="unknown is not looked at") is table


def test_unknown_rule():
    with pytest.raises(ConfigError, match="torch_bicubic"):
        resize_matrix("torch_bicubik", 4, 2)
