"""DINO's views: two global ones and some local ones at their own resolution."""

from __future__ import annotations

import dataclasses

import numpy as np

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Views
from spendflops.contracts.types import InputSpec, Sample
from spendflops.parts import images, multicrop
from spendflops.parts.augment.opencv import OPERATORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOViews(Views):
    """Two global views and some local ones: crop, flip, colour jitter, grey, blur, solarisation, on 8-bit images.

    Attributes:
        local_views: How many; none is possible.
        local_size: Their side in pixels; None is 3/7 of the global views' (96 of 224), to the nearest whole patch.
        global_scale: Range of a global crop's area, as parts of the image's.
        local_scale: The same of a local crop.
        ratio: Range of width / height of the crops.
        sampler: Distribution of the crops, by origin.
        interpolation: Of the resize.
        operators: "pillow" are the official operators on 8-bit images, "opencv" their near-equivalents, which take a
            third of the time.
        flip: Probability of a horizontal flip.
        jitter: Probability of the colour jitter.
        brightness, contrast, saturation, hue: Of the colour jitter.
        gray: Probability of grey.
        blur: Probability of a Gaussian blur in the first and second global view and in a local one.
        radius: Range of the blur's standard deviation in pixels.
        solarize: Probability of solarisation, in the second global view alone.

    Raises:
        ConfigError: A negative number of views, unknown operators.
    """

    local_views: int = 8
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: str = "torchvision"
    interpolation: str = "bicubic"
    operators: str = "pillow"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.2

    def __post_init__(self) -> None:
        if self.local_views < 0:
            raise ConfigError(f"local_views is {self.local_views}", fix="0 trains on the two global views alone")
        if self.operators not in OPERATORS:
            near = suggest(self.operators, list(OPERATORS))
            raise ConfigError(f"unknown operators {self.operators!r}{near}", fix=f"use one of {list(OPERATORS)}")

    def letters(self, spec: InputSpec) -> dict[str, int]:
        """Sizes of the letters.

        Raises:
            ConfigError: Local views that are no whole number of patches.
        """
        height, width = self.small(spec)
        return {**super().letters(spec), "V": self.local_views, "h": height, "w": width}

    def small(self, spec: InputSpec) -> tuple[int, int]:
        """Height and width of a local view in pixels."""
        pairs = list(zip(spec.size, spec.stride, strict=True))
        if self.local_size is None:
            height, width = (max(1, round(3 * side / (7 * stride))) * stride for side, stride in pairs)
            return height, width
        if self.local_size < 1 or any(self.local_size % stride for _, stride in pairs):
            near = max(1, round(self.local_size / spec.stride[0])) * spec.stride[0]
            raise ConfigError(
                f"local views of {self.local_size} pixels are not a whole number of patches",
                why=f"a patch of this backbone has {spec.stride[0]} x {spec.stride[1]} pixels",
                fix=f"local_size = {near}, or None for 3/7 of the global views'",
            )
        return self.local_size, self.local_size

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        small, count = self.small(spec), self.local_views
        views = multicrop.random_resized_crops(
            sample["image"],
            rng,
            [(spec.size, self.global_scale)] * 2 + [(small, self.local_scale)] * count,
            ratio=self.ratio,
            sampler=self.sampler,
            interpolation=self.interpolation,
        )
        blurs = (*self.blur[:2], *(self.blur[2],) * count)
        views = [self._altered(x, rng, blurs[i], second=i == 1) for i, x in enumerate(views)]
        local = np.stack(views[2:]) if count else np.zeros((0, *small, 3), np.uint8)
        return {"global_view": np.stack(views[:2]), "local_view": local}

    def _altered(self, x: np.ndarray, rng: np.random.Generator, blur: float, *, second: bool) -> np.ndarray:
        augment = OPERATORS[self.operators]
        x = images.random_flip(x, rng, probability=self.flip)
        x = augment.jitter(
            x,
            rng,
            probability=self.jitter,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )
        x = augment.gray(x, rng, probability=self.gray)
        x = augment.blur(x, rng, probability=blur, radius=self.radius)
        return augment.solarize(x, rng, probability=self.solarize) if second else x
