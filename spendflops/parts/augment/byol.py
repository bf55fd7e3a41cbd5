"""BYOL's colour operators, with the definitions of its JAX code (Grill et al. 2020, arXiv 2006.07733, appendix C).

Contrast, saturation, hue and grey are TensorFlow's, hence SimCLR's; brightness is added here and multiplied there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spendflops.parts.augment.common import Pixels, as_dtype, to_float
from spendflops.parts.augment.simclr import (
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur_simclr,
    to_gray_simclr,
)

to_gray_byol = to_gray_simclr
gaussian_blur_byol = gaussian_blur_simclr
"""The same function: a kernel of a tenth of the height, black outside, and here officially one sigma an image."""


def adjust_brightness_byol(x: Float[np.ndarray, "H W 3"], delta: float) -> Float[np.ndarray, "H W 3"]:
    """Adds ``delta``, cut to 0..1."""
    return np.clip(x + np.float32(delta), 0, 1)


def color_jitter_byol(
    array: Pixels,
    rng: np.random.Generator,
    *,
    probability: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> Pixels:
    """BYOL's colour jitter: four operators in random order, cut to 0..1 after each.

    Args:
        array: uint8 or float32 [H W 3].
        rng: All randomness.
        probability: Of anything happening at all.
        brightness: What is added is from U(-b, b).
        contrast: Factor from U(1 - c, 1 + c).
        saturation: Factor from U(1 - s, 1 + s).
        hue: Turn from U(-h, h) of the circle.
    """
    if rng.random() >= probability:
        return array
    order = rng.permutation(4)
    b, c, s, h = np.array([brightness, contrast, saturation, hue]) * (2 * rng.random(4) - 1)
    operators = (
        (adjust_brightness_byol, b),
        (adjust_contrast, 1 + c),
        (adjust_saturation, 1 + s),
        (adjust_hue, h),
    )
    x = to_float(array)
    for index in order:
        operator, amount = operators[index]
        x = operator(x, amount)
    return as_dtype(x, array.dtype)


def solarize_byol(
    array: Pixels, rng: np.random.Generator, *, probability: float = 0.2, threshold: float = 0.5
) -> Pixels:
    """Values from ``threshold`` on are turned into 1 minus themselves, with ``probability``."""
    if rng.random() >= probability:
        return array
    x = to_float(array)
    return as_dtype(np.where(x < np.float32(threshold), x, 1 - x), array.dtype)
