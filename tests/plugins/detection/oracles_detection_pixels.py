"""RoIAlign, targets of masks and pasted masks from their definitions, one bilinear sample at a time.

Boxes are (left, top, right, bottom) in pixels of the image, as in ``oracles_detection``. The value of pixel [i, j] is
that of its centre, (j + 0.5, i + 0.5): this half is what "aligned" subtracts.
"""

from __future__ import annotations

import math

import numpy as np
import oracles_detection as oracle


def bilinear(grid, y, x, border):
    """The value of ``grid`` [H, W] or [H, W, C] at row y and column x, which count from the centre of pixel [0, 0].

    The four pixels about it, each times (1 - |y - i|)(1 - |x - j|). Beyond the border:
        "clamp": RoIAlign (torchvision). 0 if y < -1, y > H, x < -1 or x > W; else y within [0, H - 1], x in [0, W - 1].
        "zeros": pixels outside are 0, so that values fade over one pixel (torch's grid_sample).
    """
    height, width = grid.shape[:2]
    total = np.zeros(grid.shape[2:])
    if border == "clamp":
        if y < -1 or y > height or x < -1 or x > width:
            return total
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < height and 0 <= j < width:
                total = total + (1 - abs(y - i)) * (1 - abs(x - j)) * grid[i, j]
    return total


def roi_align(feature, box, out, samples, *, stride=1, border="clamp"):
    """[out, out, C] of a feature map [H, W, C]: of each bin the mean of samples x samples bilinear values.

    He et al. 2017, section 3, in the aligned form: the box divided by the stride, less 0.5; bins of equal size, and
    samples at (k + 0.5) / samples of each. ``samples`` = 0 is the adaptive rule, ceil(side of a bin), at least 1, for
    each axis on its own.
    """
    feature = np.asarray(feature, np.float64)
    left, top, right, bottom = (float(value) / stride - 0.5 for value in box)
    tall, wide = (bottom - top) / out, (right - left) / out
    down, across = (samples, samples) if samples else (max(1, math.ceil(tall)), max(1, math.ceil(wide)))
    result = np.zeros((out, out, *feature.shape[2:]))
    for row in range(out):
        for column in range(out):
            for a in range(down):
                for b in range(across):
                    y = top + (row + (a + 0.5) / down) * tall
                    x = left + (column + (b + 0.5) / across) * wide
                    result[row, column] += bilinear(feature, y, x, border)
    return result / (down * across)


def pooled(pyramid, box, out, samples):
    """RoIAlign on the level of the box; ``pyramid`` is {level: [H, W, C]}, and a level's stride 2^level."""
    number = oracle.level(box, lowest=min(pyramid), highest=max(pyramid))
    return roi_align(pyramid[number], box, out, samples, stride=2**number)


def mask_values(mask, box, n, samples=1, *, window=None, border="clamp"):
    """[n, n]: a mask [H, W] seen through a box, before it is cut at 0.5.

    RoIAlign of the mask as a map of zeros and ones: with ``samples`` = 1 the bilinear value at the centre of each bin,
    with 0 (adaptive) that of detectron2's bit masks. ``window`` is the box in the image that the mask's raster covers,
    for masks that are stored cropped; by default the image, one pixel a cell. A box is then measured in cells:
    x -> (x - left) W / (right - left), likewise y.
    """
    mask = np.asarray(mask, np.float64)
    height, width = mask.shape
    left, top, right, bottom = (0, 0, width, height) if window is None else (float(value) for value in window)
    scales = (width / (right - left), height / (bottom - top))
    cells = [(float(value) - (left, top)[i % 2]) * scales[i % 2] for i, value in enumerate(box)]
    return roi_align(mask, cells, n, samples, border=border)


def mask_target(mask, box, n, samples=1, *, window=None, border="clamp"):
    """bool [n, n]: where ``mask_values`` is at least 0.5, the target of the mask head (He et al. 2017, section 3.1)."""
    return mask_values(mask, box, n, samples, window=window, border=border) >= 0.5


def pasted_values(mask, box, height, width):
    """[height, width]: a square mask of probabilities [n, n] stretched over its box in an image (detectron2).

    The centre of pixel [i, j] lies at ((i + 0.5 - top) / (bottom - top) n - 0.5, likewise for columns) of the mask; the
    value there is bilinear, and the mask is 0 outside of itself. An empty box gives an empty mask.
    """
    mask = np.asarray(mask, np.float64)
    left, top, right, bottom = (float(value) for value in box)
    result = np.zeros((height, width))
    if oracle.area(box) == 0:
        return result
    for i in range(height):
        for j in range(width):
            y = (i + 0.5 - top) / (bottom - top) * len(mask) - 0.5
            x = (j + 0.5 - left) / (right - left) * len(mask[0]) - 0.5
            result[i, j] = bilinear(mask, y, x, "zeros")
    return result


def pasted(mask, box, height, width, *, threshold=0.5):
    """bool [height, width]: where ``pasted_values`` is at least ``threshold``."""
    return pasted_values(mask, box, height, width) >= threshold
