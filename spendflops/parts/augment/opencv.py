"""OpenCV's near-equivalents of :mod:`spendflops.parts.augment.torchvision`: the same draws, several times as fast.

Brightness, contrast and solarisation are the same function of the level, so they are looked up. Saturation rounds to
the nearest where Pillow cuts, hue goes through OpenCV's 8-bit HSV, and the blur is a Gaussian where Pillow's is three
boxes. Operators take and give uint8 [H W 3]; all randomness comes from ``rng``, in the same order as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from spendflops.parts.augment import torchvision
from spendflops.parts.augment.torchvision import Bytes

_GRAY = np.array([[0.299, 0.587, 0.114]] * 3)


def adjust_brightness_opencv(x: Bytes, factor: float) -> Bytes:
    """A blend with black."""
    return _blended(x, 0, factor)


def adjust_contrast_opencv(x: Bytes, factor: float) -> Bytes:
    """A blend with the mean of the grey image, which is rounded to a whole number."""
    return _blended(x, int(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).mean() + 0.5), factor)


def adjust_saturation_opencv(x: Bytes, factor: float) -> Bytes:
    """A blend with the grey image, as one linear map of the colours."""
    return cv2.transform(x, np.eye(3) * factor + (1 - factor) * _GRAY)


def adjust_hue_opencv(x: Bytes, turn: float) -> Bytes:
    """Turns the hue of 8-bit HSV by ``turn`` of the circle, cut to a whole level."""
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turn * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_ADJUSTMENTS = (adjust_brightness_opencv, adjust_contrast_opencv, adjust_saturation_opencv, adjust_hue_opencv)


def color_jitter_opencv(
    array: Bytes,
    rng: np.random.Generator,
    *,
    probability: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> Bytes:
    """As ``color_jitter_torchvision``."""
    if rng.random() >= probability:
        return array
    for index, amount in torchvision.drawn_jitter(rng, brightness, contrast, saturation, hue):
        array = _ADJUSTMENTS[index](array, amount)
    return array


def to_gray_opencv(array: Bytes, rng: np.random.Generator, *, probability: float = 0.2) -> Bytes:
    """As ``to_gray_torchvision``; some pixels differ by a level."""
    if rng.random() >= probability:
        return array
    return cv2.cvtColor(cv2.cvtColor(array, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur_opencv(
    array: Bytes, rng: np.random.Generator, *, probability: float, radius: tuple[float, float] = (0.1, 2.0)
) -> Bytes:
    """A Gaussian of the standard deviation that Pillow's boxes approximate, the border repeated."""
    if rng.random() >= probability:
        return array
    return cv2.GaussianBlur(array, (0, 0), rng.uniform(*radius), borderType=cv2.BORDER_REPLICATE)


def solarize_opencv(array: Bytes, rng: np.random.Generator, *, probability: float, threshold: int = 128) -> Bytes:
    """As ``solarize_pillow``."""
    if rng.random() >= probability:
        return array
    levels = np.arange(256)
    return cv2.LUT(array, np.where(levels < threshold, levels, 255 - levels).astype(np.uint8))


class Operators(NamedTuple):
    """Four operators on uint8 images that draw alike."""

    jitter: Callable[..., Bytes]
    gray: Callable[..., Bytes]
    blur: Callable[..., Bytes]
    solarize: Callable[..., Bytes]


OPERATORS = {
    "pillow": Operators(
        torchvision.color_jitter_torchvision,
        torchvision.to_gray_torchvision,
        torchvision.gaussian_blur_pillow,
        torchvision.solarize_pillow,
    ),
    "opencv": Operators(color_jitter_opencv, to_gray_opencv, gaussian_blur_opencv, solarize_opencv),
}
"""The official operators (pillow) and their near-equivalents (opencv)."""


def _blended(x: Bytes, level: int, factor: float) -> Bytes:
    # Pillow's blend: of level and x with the weight `factor` of x, cut to whole levels of 0..255.
    table = level + np.float32(factor) * (np.arange(256, dtype=np.float32) - level)
    return cv2.LUT(x, np.clip(table, 0, 255).astype(np.uint8))
