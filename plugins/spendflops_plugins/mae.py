"""Masked autoencoder.

He et al. 2022, "Masked autoencoders are scalable vision learners" (arXiv 2111.06377). The encoder sees a random quarter
of the patches; a light decoder predicts the pixels of the others:

    t = (x - mean(x)) / sqrt(var(x) + 1e-6)  a patch x, over all its values jointly, var with n - 1           (norm_pix)
    loss = sum over masked patches of mean((prediction - t)^2) / number of masked patches                           (1)

Patches stay in the order of the random numbers that mask them, as attention minds no order: hidden patches are then a
slice, and pixels are predicted for these alone (the official code puts patches back in place and predicts all).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, Loss
from spendflops.parts import closed_form
from spendflops.parts.masking import as_pixels, fixed_noise, kept_tokens, pick, prefix_length, token_backbone
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.blocks import Block
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.patches import grid_of, patchify
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.nn.positions import sincos_table
from spendflops.parts.views import CropFlip


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAEViews(CropFlip):
    """One random resized crop, flipped at random; the official sampler draws once ("mae")."""

    scale: tuple[float, float] = (0.2, 1.0)
    sampler: str = "mae"


class MAE(Objective):
    """Masked autoencoder on any backbone whose encoder takes a set of tokens.

    Args:
        backbone: A TokenBackbone.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        mask_ratio: Part of the patches that is hidden; ``int(N * (1 - mask_ratio))`` stay.
        norm_pix: Whether targets are normalised patch by patch. Off in the official code, on in its recipe.
        decoder_dim: Width of the decoder, a multiple of 4.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        compute_dtype: Of the decoder's products, see the backbone's.

    Raises:
        ConfigError: A backbone that cannot leave tokens out, a ratio that leaves no token or hides none, a decoder
            whose width cannot be divided.
    """

    inputs: ClassVar = {"image": "uint8 B H W C"}
    outputs = ("features", "reconstruction", "hidden")
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
        self.backbone, self.patch = token_backbone(backbone, "mae"), backbone.stride[0]
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        patches = math.prod(grid_of((*backbone.image_size, 3), self.patch))
        if not 0 < kept_tokens(patches, mask_ratio) < patches:
            raise ConfigError(
                f"mask_ratio {mask_ratio} keeps {kept_tokens(patches, mask_ratio)} of {patches} patches",
                fix="choose a ratio that keeps at least one and hides at least one",
            )
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise ConfigError(
                f"decoder_dim {decoder_dim} with decoder_heads {decoder_heads}",
                why="a width must be a multiple of 4, for its positions, and of the number of heads",
            )
        self.prefix_length = prefix_length(backbone)
        self.decoder = Decoder(
            backbone.dim,
            3 * self.patch**2,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            rngs=rngs,
            dtype_name=compute_dtype,
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        pixels = self.backbone.normalise(batch["image"])
        noise = jax.random.uniform(ctx.fork("mask"), (len(pixels), math.prod(grid_of(pixels.shape, self.patch))))
        predicted, patches, _, latent = self.predict_hidden(pixels, noise, ctx)
        value = pixel_loss(predicted, patches, norm_pix=self.norm_pix)
        return Loss(value=value, metrics={"monitor": feature_std(jnp.mean(latent.tokens, axis=1))})

    def predict_hidden(
        self, pixels: Float[Array, "B H W C"], noise: Float[Array, "B N"], ctx: Context
    ) -> tuple[Float[Array, "B M PPC"], Float[Array, "B M PPC"], Int[Array, "B N"], Features]:
        """Predictions for the hidden patches, their pixels, the ascending order of the noise, and the latent.

        Patches and the latent of the visible ones are in that order.
        """
        decoded, order, latent = self._decode(pixels, noise, ctx)
        kept = latent.tokens.shape[1]
        patches = pick(patchify(pixels, self.patch), order[:, kept:])
        return self.decoder.pixels(decoded[:, kept:]), patches, order, latent

    def reconstruct(
        self, pixels: Float[Array, "B H W C"], noise: Float[Array, "B N"], ctx: Context
    ) -> tuple[Float[Array, "B N PPC"], Float[Array, "B N"], Features]:
        """Predictions for all patches in their places, the mask (1 is hidden), and the latent: for pictures."""
        decoded, order, latent = self._decode(pixels, noise, ctx)
        place = jnp.argsort(order, axis=1)
        hidden = (place >= latent.tokens.shape[1]).astype(jnp.float32)
        return pick(self.decoder.pixels(decoded), place), hidden, latent

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        """``features`` of whole images; ``reconstruction`` and what is ``hidden``, with one mask for all images.

        With ``norm_pix`` the mean and the deviation of each patch are those of its true pixels, as in the official
        pictures.
        """
        if not {"reconstruction", "hidden"} & set(want):
            return super().predict(batch, ctx, want=want)
        given = super().predict(batch, ctx, want=want) if "features" in want else {}
        pixels = self.backbone.normalise(batch["image"])
        noise = fixed_noise(math.prod(grid_of(pixels.shape, self.patch)), len(pixels))
        predicted, hidden, _ = self.reconstruct(pixels, noise, ctx)
        if self.norm_pix:
            mean, deviation = patch_moments(patchify(pixels, self.patch))
            predicted = predicted * deviation + mean
        return {**given, "reconstruction": as_pixels(predicted, self.backbone), "hidden": hidden > 0}

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """See the contract. The decoder predicts hidden patches alone; the rest is the official computation."""
        count, *size, _ = batch["image"].shape
        patches = math.prod(grid_of(batch["image"].shape, self.patch))
        kept, (dim, width) = kept_tokens(patches, self.mask_ratio), self.decoder.embed.kernel.shape
        decoder = closed_form.linear(kept + self.prefix_length, dim, width)
        decoder += closed_form.transformer(patches + self.prefix_length, width, len(self.decoder.blocks))
        decoder += closed_form.linear(patches - kept, width, 3 * self.patch**2)
        return count * (self.backbone.flops(tuple(size), kept=kept, train=True) + 3 * decoder)

    def _decode(
        self, pixels: Float[Array, "B H W C"], noise: Float[Array, "B N"], ctx: Context
    ) -> tuple[Float[Array, "B N E"], Int[Array, "B N"], Features]:
        """Decoded patches in ascending order of the noise, that order, and the latent of the first ones."""
        tokens = self.backbone.embed(pixels)
        order = jnp.argsort(noise, axis=1)
        visible = tokens.take(order[:, : kept_tokens(noise.shape[1], self.mask_ratio)])
        latent = self.backbone.encode(visible, ctx.scoped("encoder"))
        return self.decoder(latent, order, tokens.grid, ctx.scoped("decoder")), order, latent


class Decoder(nnx.Module):
    """Narrow transformer from visible latents to all patches (section 3, "MAE decoder").

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

    def __call__(
        self, latent: Features, order: Int[Array, "B N"], grid: tuple[int, ...], ctx: Context
    ) -> Float[Array, "B N E"]:
        """All patches in ``order``, the visible ones first; the prefix takes part and is dropped at the end."""
        count = latent.prefix.shape[1]
        x = self.embed(jnp.concatenate([latent.prefix, latent.tokens], axis=1))
        prefix, visible = x[:, :count], x[:, count:]
        batch, kept, dim = visible.shape
        hidden = jnp.broadcast_to(self.mask_token[...], (batch, order.shape[1] - kept, dim))
        positions = jnp.asarray(sincos_table(grid, dim))[order]
        # The prefix's rows of the position table are zeros.
        x = jnp.concatenate([prefix, jnp.concatenate([visible, hidden], axis=1) + positions], axis=1)
        for index, block in enumerate(self.blocks):
            x = block(x, ctx.scoped(f"block{index}"))
        return x[:, count:]

    def pixels(self, x: Float[Array, "B K E"]) -> Float[Array, "B K PPC"]:
        """Pixels of decoded patches, each in the order (row, column, channel)."""
        return self.pred(self.norm(x))


def patch_moments(patches: Float[Array, "B N PPC"]) -> tuple[Float[Array, "B N 1"], Float[Array, "B N 1"]]:
    """What ``norm_pix`` takes out of each patch: mean and sqrt(var + 1e-6)."""
    mean, var = jnp.mean(patches, axis=-1, keepdims=True), jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(var + 1e-6)


def pixel_loss(
    predicted: Float[Array, "B M PPC"], patches: Float[Array, "B M PPC"], *, norm_pix: bool
) -> Float[Array, ""]:
    """Equation (1) over hidden patches, of which every image has the same number."""
    if norm_pix:
        mean, deviation = patch_moments(patches)
        patches = (patches - mean) / deviation
    return jnp.mean(jnp.square(predicted - patches))
