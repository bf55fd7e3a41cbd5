"""Masked autoencoder.

He et al. 2022, "Masked autoencoders are scalable vision learners" (arXiv 2111.06377). The encoder sees a random quarter
of the patches; a light decoder predicts the pixels of the others:

    t = (x - mean(x)) / sqrt(var(x) + 1e-6)  a patch x, over all its values jointly, var with n - 1           (norm_pix)
    loss = sum over masked patches of mean((prediction - t)^2) / number of masked patches                           (1)
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone, TokenBackbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, InputSpec, Loss, Sample
from spendflops.parts import images
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.blocks import Block
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.patches import patchify
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.nn.positions import sincos_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEViews(Views):
    """One random resized crop, flipped at random.

    Attributes:
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        sampler: Distribution of the crops, by origin; the official code draws once ("mae").
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: str = "mae"
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


class MAE(Objective):
    """Masked autoencoder on any backbone whose encoder takes a set of tokens.

    Args:
        backbone: A TokenBackbone.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        mask_ratio: Part of the patches that is hidden; ``int(N * (1 - mask_ratio))`` stay.
        norm_pix: Whether targets are normalised patch by patch. Off in the official code, on in its recipe.
        decoder_dim: Width of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        compute_dtype: Of the decoder's products, see the backbone's.

    Raises:
        ConfigError: A backbone that cannot leave tokens out, or a ratio that leaves no token or hides none.
    """

    inputs: ClassVar = {"image": "uint8 B H W C"}
    groups = (Group(match=r".*/(bias|scale)", decay=False),)  # class and mask token are decayed, as officially
    views = MAEViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        compute_dtype: str = "float32",
    ):
        if not isinstance(backbone, TokenBackbone):
            raise ConfigError(
                f"mae cannot train a {type(backbone).__name__}",
                why="its encoder does not take a subset of the patches (it is no TokenBackbone)",
                fix="choose a vision transformer",
            )
        count = (backbone.image_size[0] // backbone.stride[0]) * (backbone.image_size[1] // backbone.stride[1])
        if not 0 < kept_tokens(count, mask_ratio) < count:
            raise ConfigError(
                f"mask_ratio {mask_ratio} keeps {kept_tokens(count, mask_ratio)} of {count} patches",
                fix="choose a ratio that keeps at least one and hides at least one",
            )
        self.backbone, self.mask_ratio, self.norm_pix = backbone, mask_ratio, norm_pix
        self.decoder = Decoder(
            backbone.dim,
            3 * backbone.stride[0] * backbone.stride[1],
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            rngs=rngs,
            dtype_name=compute_dtype,
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        pixels = self.backbone.normalise(batch["image"])
        count = (pixels.shape[1] // self.backbone.stride[0]) * (pixels.shape[2] // self.backbone.stride[1])
        noise = jax.random.uniform(ctx.fork("mask"), (pixels.shape[0], count))
        predicted, mask, latent = self.reconstruct(pixels, noise, ctx)
        value = masked_pixel_loss(predicted, patchify(pixels, self.backbone.stride[0]), mask, norm_pix=self.norm_pix)
        return Loss(value=value, metrics={"monitor": feature_std(jnp.mean(latent.tokens, axis=1))})

    def reconstruct(
        self, pixels: Float[Array, "B H W C"], noise: Float[Array, "B N"], ctx: Context
    ) -> tuple[Float[Array, "B N PPC"], Float[Array, "B N"], Features]:
        """Predicted patches, the mask (1 is hidden) and the latent of the visible tokens, in the order of the noise."""
        tokens = self.backbone.embed(pixels)
        keep, restore, mask = random_masking(noise, self.mask_ratio)
        latent = self.backbone.encode(tokens.take(keep), ctx.scoped("encoder"))
        return self.decoder(latent, restore, tokens.grid, ctx.scoped("decoder")), mask, latent


class Decoder(nnx.Module):
    """Narrow transformer from visible latents to the pixels of all patches (section 3, "MAE decoder").

    Args:
        inputs: Width of the encoder.
        outputs: Values of a patch.
        dim: Width.
        depth: Blocks.
        heads: Attention heads.
        rngs: Source of the initial values.
        dtype_name: Compute dtype of the products.
    """

    def __init__(self, inputs: int, outputs: int, *, dim: int, depth: int, heads: int, rngs: nnx.Rngs, dtype_name: str):
        dtype = compute_dtype(dtype_name)
        self.embed = Linear(inputs, dim, rngs=rngs, compute_dtype=dtype)
        self.mask_token = nnx.Param(initialisers.normal(0.02)(rngs.params(), (1, 1, dim), jnp.float32))
        self.blocks = nnx.List(Block(dim, heads, rngs=rngs, init="mae", compute_dtype=dtype) for _ in range(depth))
        self.norm = LayerNorm(dim)
        self.pred = Linear(dim, outputs, rngs=rngs, compute_dtype=dtype)

    def __call__(self, latent: Features, restore: Array, grid: tuple[int, ...], ctx: Context) -> Array:
        count = latent.prefix.shape[1]
        x = self.embed(jnp.concatenate([latent.prefix, latent.tokens], axis=1))
        prefix, visible = x[:, :count], x[:, count:]
        batch, kept, dim = visible.shape
        hidden = jnp.broadcast_to(self.mask_token[...], (batch, restore.shape[1] - kept, dim))
        shuffled = jnp.concatenate([visible, hidden], axis=1)
        x = jnp.take_along_axis(shuffled, restore[..., None], axis=1) + jnp.asarray(sincos_table(grid, dim))
        x = jnp.concatenate([prefix, x], axis=1)  # the prefix's rows of the position table are zeros
        for index, block in enumerate(self.blocks):
            x = block(x, ctx.scoped(f"block{index}"))
        return self.pred(self.norm(x)[:, count:])


def kept_tokens(count: int, ratio: float) -> int:
    """Visible tokens of ``count``: truncated in double precision, as officially (int(100 * (1 - 0.9)) is 9)."""
    return int(count * (1 - ratio))


def random_masking(noise: Float[Array, "B N"], ratio: float) -> tuple[Array, Array, Array]:
    """Indices of the kept tokens [B K] by ascending noise, each token's place in that order [B N], mask [B N]."""
    keep = kept_tokens(noise.shape[1], ratio)
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    return shuffle[:, :keep], restore, (restore >= keep).astype(jnp.float32)


def masked_pixel_loss(
    predicted: Float[Array, "B N P"], target: Float[Array, "B N P"], mask: Float[Array, "B N"], *, norm_pix: bool
) -> Float[Array, ""]:
    """Equation (1)."""
    if norm_pix:
        mean, var = jnp.mean(target, axis=-1, keepdims=True), jnp.var(target, axis=-1, keepdims=True, ddof=1)
        target = (target - mean) / jnp.sqrt(var + 1e-6)
    error = jnp.mean(jnp.square(predicted - target), axis=-1)
    return jnp.sum(error * mask) / jnp.sum(mask)
