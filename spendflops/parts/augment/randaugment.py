"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) in the form that MAE, SimMIM and BEiT fine-tune with.

That form is timm's ``rand-m9-mstd0.5-inc1``: each of two operators is drawn from fifteen, with replacement, and is
applied with probability 0.5. Its magnitude is drawn from N(9, 0.5^2) and cut to 0..10. These "increasing" operators
change an image the more, the larger the magnitude is; in the paper some of them change it less. A strength s =
magnitude / 10 and a random sign mean:

    rotation       +-30 s degrees            posterisation   4 - floor(4 s) bits are kept; 0 bits are black
    shear          +-0.3 s                   solarisation    from the threshold 256 - floor(256 s) on
    translation    +-0.45 s of the side      additive        floor(110 s) is added to values below 128
    colour, contrast, brightness, sharpness: a blend by the factor 1 +- 0.9 s

Autocontrast, equalisation and inversion have no magnitude. What comes into the picture from outside has the colour
``fill``, in timm the mean of the normalisation. All operators are Pillow's, on 8-bit images.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
from jaxtyping import UInt8

from spendflops.contracts.errors import ConfigError, suggest

Picture = PIL.Image.Image
MAX = 10
"""The largest magnitude."""
FILTERS = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,
}


class Outside(NamedTuple):
    """How pixels between pixels and beyond the border are made: Pillow's filter and a colour."""

    resample: PIL.Image.Resampling
    fillcolor: tuple[int, ...]


class Operator(NamedTuple):
    """``amount(strength 0..1, sign +-1)`` and ``apply(image, amount, outside)``."""

    amount: Callable[[float, int], float]
    apply: Callable[[Picture, float, Outside], Picture]


def _affine(image: Picture, matrix: tuple[float, ...], outside: Outside) -> Picture:
    """The pixel (x, y) of the result is what is at (a x + b y + c, d x + e y + f), with pixel centres at halves."""
    return image.transform(image.size, PIL.Image.Transform.AFFINE, matrix, **outside._asdict())


def _brighten_below(image: Picture, add: float, threshold: int = 128) -> Picture:
    return image.point([min(255, x + int(add)) if x < threshold else x for x in range(256)] * 3)


def _blend(enhancer: Callable) -> Operator:
    return Operator(lambda s, sign: 1 + sign * 0.9 * s, lambda image, factor, outside: enhancer(image).enhance(factor))


def _fixed(function: Callable[[Picture], Picture]) -> Operator:
    return Operator(lambda s, sign: 0.0, lambda image, amount, outside: function(image))


OPERATORS = {
    "autocontrast": _fixed(PIL.ImageOps.autocontrast),
    "equalize": _fixed(PIL.ImageOps.equalize),
    "invert": _fixed(PIL.ImageOps.invert),
    "rotate": Operator(
        lambda s, sign: sign * 30 * s, lambda image, angle, outside: image.rotate(angle, **outside._asdict())
    ),
    "posterize": Operator(lambda s, sign: 4 - int(4 * s), lambda image, bits, outside: _posterize(image, bits)),
    "solarize": Operator(
        lambda s, sign: 256 - int(256 * s), lambda image, start, outside: PIL.ImageOps.solarize(image, int(start))
    ),
    "solarize_add": Operator(lambda s, sign: int(110 * s), lambda image, add, outside: _brighten_below(image, add)),
    "color": _blend(PIL.ImageEnhance.Color),
    "contrast": _blend(PIL.ImageEnhance.Contrast),
    "brightness": _blend(PIL.ImageEnhance.Brightness),
    "sharpness": _blend(PIL.ImageEnhance.Sharpness),
    "shear_x": Operator(
        lambda s, sign: sign * 0.3 * s, lambda image, by, outside: _affine(image, (1, by, 0, 0, 1, 0), outside)
    ),
    "shear_y": Operator(
        lambda s, sign: sign * 0.3 * s, lambda image, by, outside: _affine(image, (1, 0, 0, by, 1, 0), outside)
    ),
    "translate_x": Operator(
        lambda s, sign: sign * 0.45 * s,
        lambda image, by, outside: _affine(image, (1, 0, by * image.width, 0, 1, 0), outside),
    ),
    "translate_y": Operator(
        lambda s, sign: sign * 0.45 * s,
        lambda image, by, outside: _affine(image, (1, 0, 0, 0, 1, by * image.height), outside),
    ),
}
"""The fifteen, by name."""
_NAMES = tuple(OPERATORS)


def _posterize(image: Picture, bits: float) -> Picture:
    # Pillow's own refuses 0 bits from some release on.
    keep = 256 - 2 ** (8 - int(bits))
    return image.point([x & keep for x in range(256)] * 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Some operators after each other, each drawn at random.

    Attributes:
        operations: How many are drawn, with replacement.
        magnitude: Mean of the magnitude, 0..10.
        noise: Standard deviation of the magnitude, which is cut to 0..10.
        probability: Of applying an operator that was drawn.
        interpolation: "nearest", "bilinear" or "bicubic": of rotations, shears and translations.

    Raises:
        ConfigError: A value out of range, an unknown interpolation.
    """

    operations: int = 2
    magnitude: float = 9
    noise: float = 0.5
    probability: float = 0.5
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.operations < 1 or not 0 <= self.magnitude <= MAX or not 0 <= self.noise < math.inf:
            raise ConfigError(
                f"RandAugment with n={self.operations}, m={self.magnitude:g}, mstd={self.noise:g}",
                why=f"n is at least 1, m within 0..{MAX}, mstd at least 0",
            )
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"RandAugment with probability {self.probability:g}", why="it must lie in 0..1")
        if self.interpolation not in FILTERS:
            near = suggest(self.interpolation, list(FILTERS))
            raise ConfigError(f"unknown interpolation {self.interpolation!r}{near}", why=f"known: {', '.join(FILTERS)}")

    @classmethod
    def parse(cls, text: str, *, interpolation: str = "bicubic") -> RandAugment:
        """``rand-m9-mstd0.5-inc1``, in any order after ``rand``: m magnitude, n operations, mstd noise, inc increasing.

        ``m`` and ``inc1`` must be there; ``n`` is 2 and ``mstd`` 0 by default.

        Raises:
            ConfigError: A word that is not understood, is there twice, or is missing.
        """
        first, *words = text.split("-")
        found: dict[str, str] = {}
        for word in words:
            parts = re.fullmatch(r"(m|n|inc)(\d+)|(mstd)(\d+(?:\.\d+)?)", word)
            name, value = [part for part in parts.groups() if part] if parts else (None, "")
            if name is None or name in found:
                raise _misunderstood(text, f"{word!r} is there twice" if name else f"{word!r} is none of its words")
            found[name] = value
        if first != "rand" or "m" not in found:
            raise _misunderstood(text, "it begins with 'rand' and has a magnitude 'm'")
        if found.get("inc") != "1":
            raise _misunderstood(text, "only the increasing operators, 'inc1', are known here")
        return cls(
            operations=int(found.get("n", 2)),
            magnitude=int(found["m"]),
            noise=float(found.get("mstd", 0)),
            interpolation=interpolation,
        )

    def __call__(
        self, array: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator, *, fill: tuple[int, ...]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The changed image, of the same size.

        Args:
            array: uint8 [H W 3].
            rng: All randomness.
            fill: Colour of what comes in from outside, 0..255.
        """
        drawn = self.draw(rng)
        if not drawn:
            return array
        image, outside = PIL.Image.fromarray(array), Outside(FILTERS[self.interpolation], tuple(fill))
        for name, amount in drawn:
            image = OPERATORS[name].apply(image, amount, outside)
        return np.asarray(image)

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """The operators to apply in their order, with their amounts: at most ``operations`` of them."""
        chosen = []
        for index in rng.integers(len(_NAMES), size=self.operations).tolist():
            applied, positive = rng.random() < self.probability, rng.random() < 0.5
            strength = min(max(rng.normal(self.magnitude, self.noise), 0), MAX) / MAX
            if applied:
                name = _NAMES[index]
                chosen.append((name, OPERATORS[name].amount(strength, 1 if positive else -1)))
        return chosen


def fill_of(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The colour 0..255 of a mean on the scale 0..1, as timm rounds it."""
    return tuple(min(255, round(255 * x)) for x in mean)


def _misunderstood(text: str, why: str) -> ConfigError:
    return ConfigError(f"RandAugment {text!r} is not understood", why=why, fix="for example 'rand-m9-mstd0.5-inc1'")
