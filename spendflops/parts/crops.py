"""Distributions of random crops, named by the code base that they come from: they are not the same distribution.

A sampler takes a generator and the size (height, width) of an image and gives the crop (top, left, height, width), all
in pixels. ``scale`` is the range of the crop's area as parts of the image's, ``ratio`` the range of width / height.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def sample_crop_torchvision(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Up to ten draws (area uniform, ratio log-uniform) until one fits, else the largest centred crop (torchvision)."""
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        u, v, y, x = rng.random(4)
        h, w = _sides(height * width * _between(u, scale), math.exp(_between(v, (low, high))))
        if 0 < h <= height and 0 < w <= width:
            return _place(h, w, height, width, y, x)
    if width / height < ratio[0]:
        h, w = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        h, w = height, round(height * ratio[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def sample_crop_mae(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """One draw (area uniform, ratio log-uniform), sides cut to the image (MAE, BYOL): crops may leave both ranges."""
    height, width = size
    u, v, y, x = rng.random(4)
    h, w = _sides(height * width * _between(u, scale), math.exp(_between(v, (math.log(ratio[0]), math.log(ratio[1])))))
    return _place(min(max(h, 1), height), min(max(w, 1), width), height, width, y, x)


def sample_crop_tf(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    covered: float = 0.1,
) -> Box:
    """TensorFlow's ``sample_distorted_bounding_box`` on the whole image (SimCLR, Inception), else the whole image.

    Up to 100 draws: the ratio is uniform, then the *height* (not the area) is uniform among the heights whose area is
    in range. ``covered`` is the part of the image that a crop must hold: a second lower bound of the area.
    """
    height, width = size
    area = height * width
    for _ in range(100):
        u, v, y, x = rng.random(4)
        aspect = _between(u, ratio)
        shortest = round(math.sqrt(scale[0] * area / aspect))
        tallest = min(round(math.sqrt(scale[1] * area / aspect)), height, int((width + 0.5 - 1e-7) / aspect))
        shortest = min(shortest, tallest)
        h = min(shortest + int(v * (tallest - shortest + 1)), tallest)
        w = round(h * aspect)
        if h > 0 and 0 < w <= width and max(scale[0], covered) * area <= h * w <= scale[1] * area:
            return _place(h, w, height, width, y, x)
    return 0, 0, height, width


CROP_SAMPLERS: dict[str, Callable[..., Box]] = {
    "torchvision": sample_crop_torchvision,
    "mae": sample_crop_mae,
    "tf": sample_crop_tf,
}
"""Crop distributions by the code base that they come from; they are not the same distribution."""


def _between(u: float, bounds: tuple[float, float]) -> float:
    return bounds[0] + u * (bounds[1] - bounds[0])


def _sides(area: float, ratio: float) -> tuple[int, int]:
    return round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def _place(h: int, w: int, height: int, width: int, y: float, x: float) -> Box:
    return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
