"""What masked-image methods share: a backbone that takes tokens, and which tokens are hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spendflops.contracts.backbone import Backbone, TokenBackbone
from spendflops.contracts.errors import ConfigError


def token_backbone(backbone: Backbone, method: str) -> TokenBackbone:
    """``backbone``, which must take tokens one by one.

    Raises:
        ConfigError: It does not.
    """
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"{method} cannot train a {type(backbone).__name__}",
            why="its encoder does not take patches one by one (it is no TokenBackbone)",
            fix="choose a vision transformer",
        )
    return backbone


def prefix_length(backbone: TokenBackbone) -> int:
    """Class and register tokens of a built backbone; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *backbone.image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.embed(x).prefix, image).shape[1]


def kept_tokens(count: int, ratio: float) -> int:
    """Visible tokens of ``count``: truncated in double precision, as in MAE (int(100 * (1 - 0.9)) is 9)."""
    return int(count * (1 - ratio))


def pick(x: Float[Array, "B N D"], index: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """The tokens ``index`` of each image, in that order."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def fixed_noise(count: int, images: int) -> Float[Array, "B N"]:
    """Numbers in 0..1 that hide the same places in every image, whatever the key: for predictions."""
    noise = (np.random.default_rng(0).permutation(count) + 0.5) / count
    return jnp.broadcast_to(jnp.asarray(noise, jnp.float32), (images, count))


def as_pixels(patches: Float[Array, "B N PPC"], backbone: Backbone) -> Float[Array, "B N PPC"]:
    """Normalised pixels (row, column, channel) back on the scale 0..255."""
    spec = backbone.spec
    colours = patches.reshape(*patches.shape[:2], -1, 3)
    colours = 255 * (colours * jnp.asarray(spec.std, jnp.float32) + jnp.asarray(spec.mean, jnp.float32))
    return colours.reshape(patches.shape)
