"""Preprocessing that evaluators share: deterministic, on the host."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np

from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import DatasetInfo, InputSpec, Sample
from spendflops.parts import images

RESIZES = ("squash", "crop", "square_crop")
"""How an image comes to the model's size: "squash" scales the whole image, its sides apart; "crop" scales the shorter
side to ``size / crop_fraction`` and takes the centre; "square_crop" scales both sides to that, apart, and takes the
centre (256, then 224, in big_vision's few-shot probe)."""


def resize_id(resize: str, crop_fraction: float) -> str:
    """What a protocol id says of it: ``resize=squash``, ``resize=crop0.875``.

    Raises:
        ConfigError: A word that is not in :data:`RESIZES`, or a fraction outside 0..1.
    """
    if resize not in RESIZES:
        near = suggest(resize, RESIZES)
        raise ConfigError(f"unknown resize {resize!r}{near}", fix=f"use one of {list(RESIZES)}")
    if not 0 < crop_fraction <= 1:
        raise ConfigError(
            f"crop_fraction {crop_fraction}",
            why="it is the part of the resized image's side that the crop keeps",
            fix="above 0, at most 1; 0.875 is resize 256, crop 224",
        )
    return "resize=squash" if resize == "squash" else f"resize={resize}{crop_fraction:g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize(Preprocess):
    """The image at the size of the model's input; by default the whole of it, and nothing happens to one of that size.

    Gives ``image`` uint8 [H W 3], ``label`` int32 and ``mask`` uint8 [H W], nearest, as far as they are asked for.

    Attributes:
        size: Height and width in pixels.
        read: The features of the data set to give; ``image``, ``label`` and ``mask`` are known.
        interpolation: Of the image.
        resize: A word in :data:`RESIZES`.
        crop_fraction: Part of the resized image's side that the crop keeps; not used by "squash".
    """

    size: tuple[int, int]
    read: tuple[str, ...] = ("image", "label")
    interpolation: str = "bicubic"
    resize: str = "squash"
    crop_fraction: float = 0.875

    @classmethod
    def of(
        cls,
        *,
        info: DatasetInfo,
        spec: InputSpec,
        read: tuple[str, ...],
        asker: str,
        resize: str = "squash",
        crop_fraction: float = 0.875,
        **own: Any,
    ) -> Self:
        """For a data set and a model; ``own`` are the options of a subclass.

        Raises:
            ConfigError: The data set lacks a feature that ``asker`` reads, or label maps are to be cropped.
        """
        missing = [name for name in read if name not in info.features]
        if missing:
            raise ConfigError(
                f"{asker} needs {' and '.join(missing)}",
                why=f"data set {info.name} has {', '.join(info.features)}",
                fix="choose another data set for it, or another evaluator",
            )
        resize_id(resize, crop_fraction)
        if "mask" in read and resize != "squash":
            raise ConfigError(f"{asker} cannot crop label maps", fix="resize = 'squash'")
        return cls(size=spec.size, read=read, resize=resize, crop_fraction=crop_fraction, **own)

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return self.read

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        known = {"image": ("uint8", (*self.size, 3)), "label": ("int32", ()), "mask": ("uint8", self.size)}
        return {name: known[name] for name in self.read}

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One example."""
        entries = {"image": self.image(sample)}
        if "label" in self.read:
            entries["label"] = np.asarray(sample["label"], np.int32)
        if "mask" in self.read:
            entries["mask"] = images.resize(images.decode_mask(sample["mask"]), self.size, "nearest")
        return entries

    def image(self, sample: Sample) -> np.ndarray:
        """The image of a sample, uint8 [H W 3]."""
        if self.resize == "crop":
            cropped = images.center_crop_resize(
                sample["image"], self.size, crop_fraction=self.crop_fraction, interpolation=self.interpolation
            )
            return np.ascontiguousarray(cropped)
        fraction = 1 if self.resize == "squash" else self.crop_fraction
        target = round(self.size[0] / fraction), round(self.size[1] / fraction)
        pixels = sample["image"].decode(min_size=images.reduced_to(2 * max(target), self.interpolation))
        pixels = images.resize(pixels, target, self.interpolation)
        top, left = (round((whole - side) / 2) for whole, side in zip(target, self.size, strict=True))
        return np.ascontiguousarray(pixels[top : top + self.size[0], left : left + self.size[1]])
