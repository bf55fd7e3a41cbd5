"""Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899), on the device.

As the "batch" mode of timm 0.3.2, which MAE fine-tunes with: one draw serves the whole batch, and the partner of an
image is the one in its place in the reversed batch. (Later releases of timm do not shorten odd sides of rectangles.)
Images must be normalised floats; labels are mixed in the same proportion (:func:`spendflops.parts.labels.mixed`).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spendflops.contracts.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes a batch with its reverse.

    Attributes:
        mixup: alpha of Beta(alpha, alpha), which the part of an image is drawn from; 0 is no mixup.
        cutmix: Likewise for the part that a rectangle of the partner leaves; 0 is no CutMix.
        probability: Of mixing a batch at all.
        switch: Probability of CutMix where both are on.

    Raises:
        ConfigError: A negative alpha, or a probability outside 0..1.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0:
            raise ConfigError(f"mixup {self.mixup} and cutmix {self.cutmix} are parameters of Beta distributions, >= 0")
        if not (0 <= self.probability <= 1 and 0 <= self.switch <= 1):
            raise ConfigError(f"mix_probability {self.probability} and mix_switch {self.switch} must lie in 0..1")

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def __call__(self, images: Float[Array, "B H W C"], key: Array) -> tuple[Float[Array, "B H W C"], Float[Array, ""]]:
        """The mixed images and the part of each that is its own: that of pixels where a rectangle was cut."""
        keys = dict(zip(("apply", "switch", "mixup", "cutmix", "row", "col"), jax.random.split(key, 6), strict=True))
        size = images.shape[1:3]
        cutting = jnp.asarray(self.cutmix > 0)
        if self.mixup and self.cutmix:
            cutting = jax.random.uniform(keys["switch"]) < self.switch
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        own, left = (jax.random.beta(keys[name], a, a) if a else jnp.ones(()) for name, a in alphas.items())
        centre = [jax.random.randint(keys[axis], (), 0, side) for axis, side in zip(("row", "col"), size, strict=True)]
        inside = rectangle(size, left, centre)
        applied = jax.random.uniform(keys["apply"]) < self.probability
        weight = jnp.where(applied, jnp.where(cutting, 1.0 - inside, own), 1.0).astype(images.dtype)
        part = jnp.where(applied, jnp.where(cutting, 1.0 - jnp.mean(inside), own), 1.0).astype(images.dtype)
        weight = weight[..., None]
        return weight * images + (1 - weight) * images[::-1], part


def rectangle(size: tuple[int, int], left: Float[Array, ""], centre: list[Array]) -> Float[Array, "H W"]:
    """1 inside a rectangle about ``centre`` (row, column) that leaves ``left`` of the image, 0 outside.

    Its sides are ``int(side * sqrt(1 - left))`` pixels, less one where that is odd; what lies beyond the image's border
    is cut off.
    """
    axes = []
    for side, middle in zip(size, centre, strict=True):
        half = jnp.floor(side * jnp.sqrt(1 - left)).astype(jnp.int32) // 2
        place = jnp.arange(side)
        axes.append((place >= middle - half) & (place < middle + half))
    return (axes[0][:, None] & axes[1][None, :]).astype(jnp.float32)
