"""The boxes that a region proposal network starts from (Ren et al., arXiv:1506.01497, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def anchors(
    grid: tuple[int, int],
    stride: int,
    *,
    size: float,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.0,
) -> Float[np.ndarray, "N 4"]:
    """float32 [h w A, 4], a constant on the host: all ratios at each cell, cells row after row.

    Args:
        grid: h and w of the feature map.
        stride: Pixels from one cell to the next.
        size: Root of the area of each anchor, in pixels.
        ratios: Height over width; A of them.
        offset: Cell i is centred at (i + offset) * stride: 0 as in detectron2, 0.5 for the middle of the cell.
    """
    height, width = grid
    y, x = np.meshgrid((np.arange(height) + offset) * stride, (np.arange(width) + offset) * stride, indexing="ij")
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    roots = np.sqrt(np.asarray(ratios, np.float64))
    halves = np.stack([size / roots, size * roots], axis=-1) / 2
    return np.concatenate([centres - halves, centres + halves], axis=-1).reshape(-1, 4).astype(np.float32)
