"""Views that several methods share, on the host."""

from __future__ import annotations

import dataclasses

import numpy as np

from spendflops.contracts.objective import Views
from spendflops.contracts.types import InputSpec, Sample
from spendflops.parts import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropFlip(Views):
    """One random resized crop, flipped at random.

    Attributes:
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        sampler: Distribution of the crops, by origin.
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: str = "torchvision"
    interpolation: str = "bicubic"
    flip: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        crop = images.random_resized_crop(
            sample["image"],
            rng,
            size=spec.size,
            scale=self.scale,
            ratio=self.ratio,
            sampler=self.sampler,
            interpolation=self.interpolation,
        )
        return {"image": images.random_flip(crop, rng, probability=self.flip)}
