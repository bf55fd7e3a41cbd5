"""What the layouts of weights are made of: changes of layout, numpy only, each with its exact inverse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spendflops.contracts.layout import Target, Transform
from spendflops.parts.nn.positions import resize_table, sincos_table
from spendflops.parts.nn.relative import CLASS_ROWS

LINEAR = Transform("transposed", lambda w: w.T, lambda w: (w.T,))
"""[outputs, inputs] of PyTorch's Linear to [inputs, outputs]."""
CONV = Transform("OIHW to HWIO", lambda w: w.transpose(2, 3, 1, 0), lambda w: (w.transpose(3, 2, 0, 1),))
"""PyTorch's Conv2d."""
POINTWISE = Transform("1x1 convolution to linear", lambda w: _one(w, (2, 3)).T, lambda w: (w.T[:, :, None, None],))
"""[outputs, inputs, 1, 1] to [inputs, outputs]."""
ROW = Transform("first axis of one dropped", lambda x: _one(x, (0,)), lambda x: (x[None],))
"""[1, D] to [D]."""
COLUMN = Transform("last axis of one dropped", lambda x: _one(x, (-1,)), lambda x: (x[..., None],))
"""[outputs, 1] to [outputs]."""


def lead(axes: int) -> Transform:
    """As many axes of one in front: [D] to [1, 1, D]."""
    front = tuple(range(axes))
    return Transform(f"{axes} axes in front", lambda x: x[(None,) * axes], lambda x: (_one(x, front),))


def stacked(parts: int) -> Transform:
    """Several tensors, one after the other along the first axis: q, k and v."""
    return Transform(f"{parts} stacked", lambda *x: np.concatenate(x), lambda x: tuple(np.split(x, parts)))


def _side(count: int, channels: int = 3) -> int:
    """Side of the square patch that has so many values.

    Raises:
        ValueError: There is none.
    """
    side = math.isqrt(count // channels)
    if side * side * channels != count:
        raise ValueError(f"{count} values are no square patch of {channels} channels")
    return side


def _unflat(w: np.ndarray) -> np.ndarray:
    side = _side(w.shape[0])
    return w.reshape(side, side, 3, w.shape[1])


FLAT_PATCH = Transform("flat patches", _unflat, lambda w: (w.reshape(-1, w.shape[-1]),))
"""[rows x columns x channels, D] to the kernel of a patch embedding [rows, columns, channels, D]."""


def _one(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.squeeze(x, axis=axes)  # an axis that is not one is a ValueError


def ones(path: str) -> Callable[[Target], np.ndarray | None]:
    """A constant: ones in the shape [rows, 1] for a matrix ``path`` [columns, rows] of ours."""
    return lambda target: np.ones((target.shapes[path][-1], 1), np.float32) if path in target.shapes else None


def fixed_positions(target: Target) -> np.ndarray | None:
    """MAE's fixed table [1, P + N, D] of the backbone, zeros for the class token; None where positions are others."""
    trunk = target.model.backbone
    if getattr(trunk, "positions", None) != "sincos_mae":
        return None
    return _padded(sincos_table(trunk.position_grid, trunk.dim), trunk.prefix_length)


def fixed_decoder_positions(target: Target) -> np.ndarray | None:
    """The same of MAE's decoder."""
    if "decoder/embed/kernel" not in target.shapes:
        return None
    trunk = target.model.backbone
    return _padded(sincos_table(trunk.grid, target.shapes["decoder/embed/kernel"][1]), trunk.prefix_length)


def _padded(table: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(table, ((rows, 0), (0, 0)))[None]


def resize_positions(value: np.ndarray, target: Target, rule: str) -> np.ndarray:
    """A learned table [1, P + N, D] for the grid of the target's; the prefix keeps its rows.

    Raises:
        ValueError: The table is not of a square grid.
    """
    trunk = target.model.backbone
    prefix, patches = value[0, : trunk.prefix_length], value[0, trunk.prefix_length :]
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        raise ValueError(f"{len(patches)} positions are of no square grid")
    return np.concatenate([prefix, resize_table(patches, (side, side), trunk.position_grid, rule=rule)])[None]


def resize_relative(value: np.ndarray, target: Target, rule: str) -> np.ndarray:
    """A table of relative positions [(2 rows - 1)(2 columns - 1) + 3, heads] for the target's grid.

    Raises:
        ValueError: The table is not of a square grid.
    """
    side, (rows, columns) = math.isqrt(len(value) - CLASS_ROWS), target.model.backbone.grid
    if side * side != len(value) - CLASS_ROWS:
        raise ValueError(f"{len(value)} rows are of no square grid")
    new = resize_table(value[:-CLASS_ROWS], (side, side), (2 * rows - 1, 2 * columns - 1), rule=rule)
    return np.concatenate([new, value[-CLASS_ROWS:]])
