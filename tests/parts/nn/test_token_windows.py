"""Windows of tokens against a loop."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from spendflops.parts.nn.token_windows import from_windows, to_windows, window_count


@pytest.mark.parametrize("grid, side", [((4, 6), 2), ((4, 6), 4), ((5, 3), 4), ((2, 2), 3), ((3, 5), 1)])
def test_windows_are_the_loop_and_back_again(grid, side):
    x = np.random.default_rng(0).normal(size=(2, *grid, 3))
    fill = np.array([7.0, 8.0, 9.0])
    with jax.enable_x64(True):
        windows = np.asarray(to_windows(jax.numpy.asarray(x), side, fill=fill))
        back = np.asarray(from_windows(windows, side, grid))
    expected = []
    for image in x:
        for top in range(0, grid[0], side):
            for left in range(0, grid[1], side):
                places = [(top + i, left + j) for i in range(side) for j in range(side)]
                expected.append([image[r, c] if r < grid[0] and c < grid[1] else fill for r, c in places])
    np.testing.assert_array_equal(windows, expected)
    np.testing.assert_array_equal(back, x)
    assert len(windows) == 2 * window_count(grid, side)


def test_vitdet_has_25_windows():
    """64 tokens a side are padded to 70."""
    assert window_count((64, 64), 14) == 25
