"""Bilinear upsampling of maps; downstream T6."""

from __future__ import annotations

import jax
import numpy as np

from spendflops.parts.nn.resize import resize_map


def test_t6_ramp_in_both_directions():
    ramp = np.arange(4, dtype=np.float32)
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    rows = resize_map(np.broadcast_to(ramp[None, :, None, None], (1, 4, 3, 2)), (8, 3))
    cols = resize_map(np.broadcast_to(ramp[None, None, :, None], (1, 3, 4, 2)), (3, 8))
    np.testing.assert_allclose(rows[0, :, 1, 1], expected, atol=1e-6)
    np.testing.assert_allclose(cols[0, 1, :, 1], expected, atol=1e-6)


def test_equals_a_slow_loop_without_antialias():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    for size in ((9, 4), (3, 14), (5, 7)):
        expected = np.zeros((2, *size, 3))
        for i in range(size[0]):
            for j in range(size[1]):
                y = min(max((i + 0.5) * 5 / size[0] - 0.5, 0), 4)
                z = min(max((j + 0.5) * 7 / size[1] - 0.5, 0), 6)
                a, b = int(y), int(z)
                c, d = min(a + 1, 4), min(b + 1, 6)
                top = x[:, a, b] * (1 - (z - b)) + x[:, a, d] * (z - b)
                low = x[:, c, b] * (1 - (z - b)) + x[:, c, d] * (z - b)
                expected[:, i, j] = top * (1 - (y - a)) + low * (y - a)
        np.testing.assert_allclose(resize_map(x, size), expected, atol=1e-5)


def test_upsampling_equals_jax():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 5)).astype(np.float32)
    np.testing.assert_allclose(resize_map(x, (64, 64)), jax.image.resize(x, (1, 64, 64, 5), "bilinear"), atol=1e-5)
