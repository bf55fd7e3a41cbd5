"""Random erasing (Zhong et al. 2020, arXiv 1708.04896), on the device.

As the mode "pixel" of timm, which MAE fine-tunes with: one rectangle of an image is replaced by values from N(0, 1), a
value of its own for every pixel and channel. Images must be normalised floats. On the host, where images are 8-bit,
that noise would have to be cut to 0..255, and as float32 a batch would be four times as large on its way; on the device
it is exact, and costs no product.

All rectangles of a batch are drawn at once, the attempts at each, too, so that shapes are static.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from spendflops.contracts.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erasing:
    """Replaces a rectangle of some images by noise.

    Attributes:
        probability: Of an image to lose a rectangle.
        area: Range of the rectangle's area, as parts of the image's; uniform.
        ratio: Range of height / width; log-uniform.
        attempts: A rectangle that is as high or as wide as the image is drawn anew, so many times in all; then the
            image stays as it is.

    Raises:
        ConfigError: A value out of range.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    attempts: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"erasing {self.probability:g} is a probability", why="it must lie in 0..1")
        if not 0 <= self.area[0] <= self.area[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1] or self.attempts < 1:
            raise ConfigError(
                f"erasing with area {self.area}, ratio {self.ratio}, {self.attempts} attempts",
                why="areas are parts of the image, ratios positive, both from small to large; at least one attempt",
            )

    @property
    def active(self) -> bool:
        """Whether anything is erased."""
        return self.probability > 0

    def __call__(self, images: Float[Array, "B H W C"], key: Array) -> Float[Array, "B H W C"]:
        """The images with their rectangles of noise."""
        where, noise = jax.random.split(key)
        inside = self.rectangles(where, len(images), images.shape[1:3])
        return jnp.where(inside[..., None], jax.random.normal(noise, images.shape, images.dtype), images)

    def rectangles(self, key: Array, count: int, size: tuple[int, ...]) -> Bool[Array, "B H W"]:
        """True inside the rectangles of ``count`` images of ``size`` pixels; those without one have none."""
        keys = dict(zip(("apply", "area", "ratio", "row", "col"), jax.random.split(key, 5), strict=True))
        low, high = (math.log(x) for x in self.ratio)
        shape = (count, self.attempts)
        area = math.prod(size) * jax.random.uniform(keys["area"], shape, minval=self.area[0], maxval=self.area[1])
        ratio = jnp.exp(jax.random.uniform(keys["ratio"], shape, minval=low, maxval=high))
        tried = [jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (area * ratio, area / ratio)]
        fits = (tried[0] < size[0]) & (tried[1] < size[1])
        first = jnp.argmax(fits, axis=1)[:, None]
        applied = jax.random.uniform(keys["apply"], (count,)) < self.probability
        inside = (applied & jnp.any(fits, axis=1))[:, None, None]
        for axis, (name, sides, whole) in enumerate(zip(("row", "col"), tried, size, strict=True), start=1):
            side = jnp.take_along_axis(sides, first, axis=1)[:, 0]
            start = jax.random.randint(keys[name], (count,), 0, jnp.maximum(whole - side, 0) + 1)[:, None]
            place = jnp.arange(whole)[None]
            along = (place >= start) & (place < start + side[:, None])
            inside &= jnp.expand_dims(along, 3 - axis)
        return inside
