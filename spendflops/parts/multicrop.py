"""Many crops of one image, at several sizes, from one decode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Image
from spendflops.parts.crops import CROP_SAMPLERS, Box
from spendflops.parts.images import ArrayImage, crop_resize, reduced_to

Size = tuple[int, int]
Range = tuple[float, float]


class _Decoded(ArrayImage):
    """An image of ``size`` whose pixels are there already, perhaps reduced: it gives them whatever is asked for."""

    __slots__ = ("_size",)

    def __init__(self, pixels: UInt8[np.ndarray, "H W 3"], size: Size):
        super().__init__(pixels)
        self._size = size

    @property
    def size(self) -> Size:
        return self._size

    def decode(self, box: Box | None = None, min_size: int | None = None) -> UInt8[np.ndarray, "H W 3"]:
        return self.array


def random_resized_crops(
    image: Image,
    rng: np.random.Generator,
    crops: Sequence[tuple[Size, Range]],
    *,
    ratio: Range = (3 / 4, 4 / 3),
    sampler: str = "torchvision",
    interpolation: str = "bicubic",
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Random parts of the image, each drawn as ``images.random_resized_crop`` draws one.

    The boxes come first, so that the image can be decoded once, with a filter ``_scaled`` as far reduced as the most
    demanding of them allows.

    Args:
        image: Undecoded.
        rng: All randomness.
        crops: Height and width in pixels, and the range of the area as parts of the image's, of each.
        ratio: Range of width / height of the crops.
        sampler: A name in :data:`spendflops.parts.crops.CROP_SAMPLERS`.
        interpolation: As ``images.resize``.

    Raises:
        ConfigError: Unknown sampler or interpolation.
        DataError: A broken image.
    """
    if sampler not in CROP_SAMPLERS:
        known = list(CROP_SAMPLERS)
        raise ConfigError(f"unknown crop sampler {sampler!r}{suggest(sampler, known)}", fix=f"use one of {known}")
    boxes = [CROP_SAMPLERS[sampler](rng, image.size, scale=scale, ratio=ratio) for _, scale in crops]
    # What crop_resize asks for: at least twice the result's pixels along both sides of the box.
    needs = [2 * max(size) * min(image.size) / min(box[2:]) for box, (size, _) in zip(boxes, crops, strict=True)]
    decoded = _Decoded(image.decode(min_size=reduced_to(max(needs), interpolation)), image.size)
    return [crop_resize(decoded, box, size, interpolation) for box, (size, _) in zip(boxes, crops, strict=True)]
