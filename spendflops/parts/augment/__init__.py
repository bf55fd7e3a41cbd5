"""Colour operators on the host, named by the code base that they come from.

The same name means different functions in different stacks (contrast about the channel mean or the grey mean,
saturation in HSV or as a blend with grey, zero or replicated borders), so every operator carries its origin:
``..._simclr``.

Operators take uint8 or float32 [H W 3] on the scale 0..1 and give the same type. A chain should run in float32 between
:func:`to_float` and :func:`to_uint8`: then nothing is rounded in between. All randomness comes from ``rng``.
"""

from spendflops.parts.augment.common import Pixels, to_float, to_uint8
from spendflops.parts.augment.simclr import (
    adjust_brightness_simclr,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter_simclr,
    gaussian_blur_simclr,
    to_gray_simclr,
)

__all__ = [
    "Pixels",
    "adjust_brightness_simclr",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "color_jitter_simclr",
    "gaussian_blur_simclr",
    "to_float",
    "to_gray_simclr",
    "to_uint8",
]
