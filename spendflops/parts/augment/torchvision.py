"""The colour operators of DINO and MoCo: torchvision's definitions on 8-bit images, by Pillow itself.

Unlike SimCLR's and BYOL's, these round to uint8 after every operator, as the official data loaders do. Contrast turns
about the mean of the grey image, saturation blends with the grey image, hue turns in 8-bit HSV, the Gaussian blur is
Pillow's (three box blurs, the border repeated), solarisation has its threshold at 128.

``adjust_...`` take and give Pillow images; the operators proper take and give uint8 [H W 3]. All randomness comes from
``rng``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageOps
from jaxtyping import UInt8

Picture = PIL.Image.Image
Bytes = UInt8[np.ndarray, "H W 3"]


def adjust_brightness_torchvision(image: Picture, factor: float) -> Picture:
    """A blend with black: ``factor`` 0 is black, 1 is the image."""
    return PIL.ImageEnhance.Brightness(image).enhance(factor)


def adjust_contrast_torchvision(image: Picture, factor: float) -> Picture:
    """A blend with the mean of the grey image, which is rounded to a whole number."""
    return PIL.ImageEnhance.Contrast(image).enhance(factor)


def adjust_saturation_torchvision(image: Picture, factor: float) -> Picture:
    """A blend with the grey image."""
    return PIL.ImageEnhance.Color(image).enhance(factor)


def adjust_hue_torchvision(image: Picture, turn: float) -> Picture:
    """Turns the hue of 8-bit HSV by ``turn`` of the circle, cut to a whole level (255 of them, modulo 256)."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + int(turn * 255)) % 256 for level in range(256)])
    return PIL.Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_ADJUSTMENTS: tuple[Callable[[Picture, float], Picture], ...] = (
    adjust_brightness_torchvision,
    adjust_contrast_torchvision,
    adjust_saturation_torchvision,
    adjust_hue_torchvision,
)


def color_jitter_torchvision(
    array: Bytes,
    rng: np.random.Generator,
    *,
    probability: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
) -> Bytes:
    """torchvision's ``ColorJitter``: four operators in random order, without those whose range is empty.

    Args:
        array: uint8 [H W 3].
        rng: All randomness.
        probability: Of anything happening at all.
        brightness: Factor from U(max(0, 1 - b), 1 + b).
        contrast: Factor from U(max(0, 1 - c), 1 + c).
        saturation: Factor from U(max(0, 1 - s), 1 + s).
        hue: Turn from U(-h, h) of the circle.
    """
    if rng.random() >= probability:
        return array
    image = PIL.Image.fromarray(array)
    for index, amount in drawn_jitter(rng, brightness, contrast, saturation, hue):
        image = _ADJUSTMENTS[index](image, amount)
    return np.asarray(image)


def drawn_jitter(
    rng: np.random.Generator, brightness: float, contrast: float, saturation: float, hue: float
) -> list[tuple[int, float]]:
    """The operators of a colour jitter in their order (0 brightness, 1 contrast, 2 saturation, 3 hue) and how much."""
    order, widths = rng.permutation(4), (brightness, contrast, saturation, hue)
    amounts = [rng.uniform(max(0.0, 1 - width), 1 + width) for width in widths[:3]]
    amounts.append(rng.uniform(-hue, hue))
    # A turn of nothing is no identity: it would go through 8-bit HSV.
    return [(index, amounts[index]) for index in order.tolist() if widths[index]]


def to_gray_torchvision(array: Bytes, rng: np.random.Generator, *, probability: float = 0.2) -> Bytes:
    """The grey image (.299 R + .587 G + .114 B) in all three channels, with ``probability``."""
    if rng.random() >= probability:
        return array
    return np.asarray(PIL.Image.fromarray(array).convert("L").convert("RGB"))


def gaussian_blur_pillow(
    array: Bytes, rng: np.random.Generator, *, probability: float, radius: tuple[float, float] = (0.1, 2.0)
) -> Bytes:
    """Pillow's Gaussian blur with ``probability``; its standard deviation is U(``radius``) pixels."""
    if rng.random() >= probability:
        return array
    blur = PIL.ImageFilter.GaussianBlur(rng.uniform(*radius))
    return np.asarray(PIL.Image.fromarray(array).filter(blur))


def solarize_pillow(array: Bytes, rng: np.random.Generator, *, probability: float, threshold: int = 128) -> Bytes:
    """``255 - x`` in the place of every value from ``threshold`` on, with ``probability``."""
    if rng.random() >= probability:
        return array
    return np.asarray(PIL.ImageOps.solarize(PIL.Image.fromarray(array), threshold))
