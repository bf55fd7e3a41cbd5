"""SimCLR's colour operators, with TensorFlow's definitions (Chen et al. 2020, arXiv 2002.05709, appendix A)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from spendflops.parts.augment.common import Pixels, as_dtype, to_float

GREY_SIMCLR = np.array([0.2989, 0.5870, 0.1140], np.float32)
"""Weights of red, green and blue in TensorFlow's ``rgb_to_grayscale``; they sum to 0.9999."""


def adjust_brightness_simclr(x: Float[np.ndarray, "H W 3"], factor: float) -> Float[np.ndarray, "H W 3"]:
    """Multiplies by ``factor`` (SimCLR's "v2"; its first version added), cut to 0..1."""
    return _clip(x * np.float32(factor))


def adjust_contrast(x: Float[np.ndarray, "H W 3"], factor: float) -> Float[np.ndarray, "H W 3"]:
    """Scales by ``factor`` about the mean of each channel (TensorFlow's ``adjust_contrast``), cut to 0..1."""
    mean = np.asarray(cv2.mean(x)[:3])
    return _clip(x * np.float32(factor) + (mean * (1 - factor)).astype(np.float32))


def adjust_saturation(x: Float[np.ndarray, "H W 3"], factor: float) -> Float[np.ndarray, "H W 3"]:
    """Scales S of HSV by ``factor``, cut to 0..1 (TensorFlow's ``adjust_saturation``)."""
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(factor), 1)
    return _clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def adjust_hue(x: Float[np.ndarray, "H W 3"], delta: float) -> Float[np.ndarray, "H W 3"]:
    """Turns H of HSV by ``delta`` of the circle (TensorFlow's ``adjust_hue``)."""
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    turned = hsv[..., 0] + np.float32(360 * (delta % 1))
    hsv[..., 0] = turned - np.float32(360) * (turned >= 360)
    return _clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def color_jitter_simclr(
    array: Pixels,
    rng: np.random.Generator,
    *,
    strength: float = 1.0,
    probability: float = 0.8,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
) -> Pixels:
    """SimCLR's colour jitter (arXiv:2002.05709, appendix A): four operators in random order, cut to 0..1 after each.

    Args:
        array: uint8 or float32 [H W 3].
        rng: All randomness.
        strength: Factor on the four ranges; 1 for ImageNet, 0.5 for CIFAR.
        probability: Of anything happening at all.
        brightness: Factor from U(max(0, 1 - b s), 1 + b s).
        contrast: Factor from U(max(0, 1 - c s), 1 + c s).
        saturation: Factor from U(max(0, 1 - a s), 1 + a s).
        hue: Turn from U(-h s, h s) of the circle.
    """
    if rng.random() >= probability:
        return array
    order = rng.permutation(4)
    u = 2 * rng.random(4) - 1
    x = to_float(array)
    for index in order:
        operator, width = (
            (adjust_brightness_simclr, brightness),
            (adjust_contrast, contrast),
            (adjust_saturation, saturation),
            (adjust_hue, hue),
        )[index]
        width *= strength
        if operator is adjust_hue:
            x = operator(x, width * u[index])
        else:
            low = max(0.0, 1 - width)
            x = operator(x, low + (1 + width - low) * (u[index] + 1) / 2)
    return as_dtype(x, array.dtype)


def to_gray_simclr(array: Pixels, rng: np.random.Generator, *, probability: float = 0.2) -> Pixels:
    """Grey in all three channels, with ``probability`` (SimCLR's colour drop)."""
    if rng.random() >= probability:
        return array
    grey = to_float(array) @ GREY_SIMCLR
    return as_dtype(np.repeat(grey[..., None], 3, axis=-1), array.dtype)


def gaussian_blur_simclr(
    array: Pixels,
    rng: np.random.Generator,
    *,
    probability: float = 0.5,
    sigma: tuple[float, float] = (0.1, 2.0),
) -> Pixels:
    """Gaussian blur, a tenth of the height wide, with ``probability``: sigma from U(``sigma``) pixels, black outside.

    224 pixels give 23 taps, 32 pixels give 3; below 20 pixels nothing is left of it.

    Deviation: one sigma an image; SimCLR's code draws one a batch and view.
    """
    if rng.random() >= probability:
        return array
    radius = (array.shape[0] // 10) // 2
    spread = sigma[0] + (sigma[1] - sigma[0]) * rng.random()
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / spread) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    x = cv2.sepFilter2D(to_float(array), -1, taps, taps, borderType=cv2.BORDER_CONSTANT)
    return as_dtype(x, array.dtype)


def _clip(x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0, 1, out=x)
