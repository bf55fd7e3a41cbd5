"""Preprocessing that evaluators share: deterministic, on the host."""

from __future__ import annotations

import dataclasses

import numpy as np

from spendflops.contracts.errors import ConfigError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import DatasetInfo, InputSpec, Sample
from spendflops.parts.images import decode_mask, reduced_to, resize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize(Preprocess):
    """The whole image at the size of the model's input, sides scaled apart; nothing happens to one of that size.

    Gives ``image`` uint8 [H W 3], ``label`` int32 and ``mask`` uint8 [H W], nearest, as far as they are asked for.

    Attributes:
        size: Height and width in pixels.
        read: The features of the data set to give; ``image``, ``label`` and ``mask`` are known.
        interpolation: Of the image.
    """

    size: tuple[int, int]
    read: tuple[str, ...] = ("image", "label")
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, *, info: DatasetInfo, spec: InputSpec, read: tuple[str, ...], asker: str) -> Resize:
        """For a data set and a model.

        Raises:
            ConfigError: The data set lacks a feature that ``asker`` reads.
        """
        missing = [name for name in read if name not in info.features]
        if missing:
            raise ConfigError(
                f"{asker} needs {' and '.join(missing)}",
                why=f"data set {info.name} has {', '.join(info.features)}",
                fix="choose another data set for it, or another evaluator",
            )
        return cls(size=spec.size, read=read)

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
        entries = {"image": self._image(sample)}
        if "label" in self.read:
            entries["label"] = np.asarray(sample["label"], np.int32)
        if "mask" in self.read:
            entries["mask"] = resize(decode_mask(sample["mask"]), self.size, "nearest")
        return entries

    def _image(self, sample: Sample) -> np.ndarray:
        pixels = sample["image"].decode(min_size=reduced_to(2 * max(self.size), self.interpolation))
        return np.ascontiguousarray(resize(pixels, self.size, self.interpolation))
