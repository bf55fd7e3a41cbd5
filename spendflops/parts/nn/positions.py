"""Position tables and the rules that resize them, each named by where it comes from.

All rules are separable: one [n_out, n_in] matrix an axis, built in float64 with numpy while tracing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError, suggest


def sincos_2d(rows: np.ndarray, cols: np.ndarray, dim: int) -> np.ndarray:
    """MAE's fixed table for the grid ``rows`` x ``cols`` of coordinates: float64 [len(rows) * len(cols), dim].

    With w_k = 10000^(-k / (dim/4)) a token is [sin(col w), cos(col w), sin(row w), cos(row w)]: the column comes first,
    whatever the official variable names say (He et al. 2022; facebookresearch/mae issue 18).

    Raises:
        ConfigError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(f"sin-cos positions need a width that is a multiple of 4, not {dim}")
    omega = 10000.0 ** (-np.arange(dim // 4, dtype=np.float64) / (dim / 4))

    def axis(positions: np.ndarray) -> np.ndarray:
        angle = np.asarray(positions, np.float64)[:, None] * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    by_row, by_col = axis(rows), axis(cols)
    table = np.concatenate(
        [np.tile(by_col, (len(rows), 1)), np.repeat(by_row, len(cols), axis=0)],
        axis=1,
    )
    return table


@functools.lru_cache(maxsize=32)
def sincos_table(grid: tuple[int, int], dim: int) -> np.ndarray:
    """:func:`sincos_2d` at whole positions, computed in float64 and stored in float32: [rows * cols, dim]."""
    return sincos_2d(np.arange(grid[0]), np.arange(grid[1]), dim).astype(np.float32)


def half_pixel(n_out: int, n_in: int) -> np.ndarray:
    """Coordinates of ``n_out`` pixel centres on a grid of ``n_in`` pixels."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel with parameter ``a`` (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(x))


def _clamped(source: np.ndarray, n_in: int, kernel: Callable[[np.ndarray], np.ndarray], reach: int) -> np.ndarray:
    """Taps beyond the border read the border pixel (PyTorch)."""
    matrix = np.zeros((len(source), n_in))
    first = np.floor(source).astype(int) - reach + 1
    for tap in range(2 * reach):
        index = first + tap
        np.add.at(matrix, (np.arange(len(source)), np.clip(index, 0, n_in - 1)), kernel(source - index))
    return matrix


def _renormalised(n_out: int, n_in: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Taps beyond the border are dropped and the rest rescaled; wider when shrinking (JAX, Pillow, TensorFlow)."""
    stretch = max(n_in / n_out, 1.0)
    weights = kernel((half_pixel(n_out, n_in)[:, None] - np.arange(n_in)) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def _torch_bicubic(n_out: int, n_in: int) -> np.ndarray:
    return _clamped(half_pixel(n_out, n_in), n_in, lambda x: _keys(x, -0.75), 2)


def _dino_bicubic(n_out: int, n_in: int) -> np.ndarray:
    source = (np.arange(n_out) + 0.5) * (n_in / (n_out + 0.1)) - 0.5
    return _clamped(source, n_in, lambda x: _keys(x, -0.75), 2)


def _torch_bilinear(n_out: int, n_in: int) -> np.ndarray:
    return _clamped(half_pixel(n_out, n_in), n_in, _triangle, 1)


def _linear_corners(n_out: int, n_in: int) -> np.ndarray:
    return _clamped(np.linspace(0, n_in - 1, n_out), n_in, _triangle, 1)


RULES: dict[str, Callable[[int, int], np.ndarray]] = {
    "torch_bicubic": _torch_bicubic,
    "dino_bicubic": _dino_bicubic,
    "torch_bilinear": _torch_bilinear,
    "jax_cubic": lambda n_out, n_in: _renormalised(n_out, n_in, lambda x: _keys(x, -0.5)),
    "jax_linear": lambda n_out, n_in: _renormalised(n_out, n_in, _triangle),
    "linear_corners": _linear_corners,
}
"""Name -> (n_out, n_in) -> matrix [n_out, n_in].

torch_bicubic: MAE, DeiT, mmseg, ViTDet (a = -0.75, border repeated, half-pixel centres, no antialias).
dino_bicubic: the same with a scale computed from n_out + 0.1, as DINO does. torch_bilinear: align_corners=False.
jax_cubic, jax_linear: ``jax.image.resize`` with its default antialias. linear_corners: big_vision (corners aligned).
"""


@functools.lru_cache(maxsize=64)
def resize_matrix(rule: str, n_out: int, n_in: int) -> np.ndarray:
    """float64 [n_out, n_in]; its rows sum to 1.

    Raises:
        ConfigError: An unknown rule.
    """
    if rule not in RULES:
        known = list(RULES)
        raise ConfigError(f"unknown resize rule {rule!r}{suggest(rule, known)}", why=f"known: {', '.join(known)}")
    return RULES[rule](n_out, n_in)


def resize_table(
    table: Float[Array, "N D"], old: tuple[int, int], new: tuple[int, int], *, rule: str
) -> Float[Array, "M D"]:
    """A table for grid ``old`` resampled to grid ``new``; numpy in, numpy out."""
    if old == new:
        return table
    xp = np if isinstance(table, np.ndarray) else jnp
    rows = xp.asarray(resize_matrix(rule, new[0], old[0]), table.dtype)
    cols = xp.asarray(resize_matrix(rule, new[1], old[1]), table.dtype)
    # One product an axis. A gradient flows through them, so that they are part of the model's FLOPs; "highest", because
    # an accelerator's default would round the table to bfloat16.
    high = {} if xp is np else {"precision": "highest"}
    resized = xp.einsum("yr,rcd->ycd", rows, table.reshape(*old, -1), **high)
    resized = xp.einsum("xc,ycd->yxd", cols, resized, **high)
    return resized.reshape(new[0] * new[1], -1)


def square_grid(rows: int) -> tuple[int, int] | None:
    """Rows of the class token, 0 or 1, and the side of the square grid of a table with ``rows`` rows.

    Two successive numbers above 1 are not both squares, so that there is one answer at most; None where there is none.
    """
    for prefix in (0, 1):
        side = math.isqrt(rows - prefix)
        if side and side * side == rows - prefix:
            return prefix, side
    return None
