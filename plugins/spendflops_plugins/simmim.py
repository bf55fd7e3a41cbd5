"""SimMIM: hidden patches are replaced by a learned token, and their pixels predicted by one linear layer.

Xie et al. 2022, "SimMIM: a simple framework for masked image modeling" (arXiv 2111.09886), section 3, as its ViT-B code
has it; and the variant of the ViNy study (arXiv 2512.03862, "SimMIM stage"), as explicit options. With the normalised
pixels x of the hidden patches M of a batch, 3 values a pixel, the predictions y and n hidden patches an image:

    loss = sum over M of |y - x| / (3 |M|)                                                    (1)      reduction "mean"
    loss = mean over M of |y - x| / n                                                         (2)      reduction "viny"

The encoder sees all patches, hidden ones as the token plus their position. Only hidden patches are predicted (the
official code predicts all, and weighs the others with zero).

Deviation: masks are drawn on the device, not by the loader. Deviation: the official divisor of (1) is |M| + 1e-5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, Loss
from spendflops.parts import closed_form
from spendflops.parts.masking import as_pixels, fixed_noise, pick, prefix_length, token_backbone
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.patches import grid_of, patchify
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.views import CropFlip

ROUNDINGS: dict[str, Callable[[float], int]] = {"ceil": math.ceil, "truncate": int}
LAYOUTS = ("channel_row_column", "row_column_channel")
REDUCTIONS = ("mean", "viny")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimMIMViews(CropFlip):
    """One random resized crop of torchvision's, bilinear, flipped at random."""

    scale: tuple[float, float] = (0.67, 1.0)
    interpolation: str = "bilinear"


class SimMIM(Objective):
    """Masked pixels by linear regression, on any backbone that takes tokens one by one.

    Args:
        backbone: A TokenBackbone. The official encoder has shared relative positions, LayerScale 0.1, no bias of the
            keys and drop path 0.1.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        mask_unit: Side in pixels of the squares that are hidden as a whole. None is two patches, officially 32; 16, one
            patch, in ViNy.
        mask_ratio: Part of the squares that is hidden; 0.5 in ViNy.
        rounding: Of their number: "ceil", or "truncate" in ViNy.
        class_token: Whether the backbone's class token is in the sequence; not in ViNy. It is frozen if it is not.
        init: Scheme of :mod:`spendflops.parts.nn.initialisers` whose class token the mask token starts like: "simmim"
            (0.02, cut at one standard deviation), or "viny" (N(0, 1)).
        layout: Order of a patch's pixels in the head's output: "channel_row_column", or "row_column_channel" in ViNy.
        reduction: "mean" is equation (1), "viny" equation (2).
        compute_dtype: Of the head's product, see the backbone's.

    Raises:
        ConfigError: A backbone that takes no tokens, a unit that is no whole number of patches or does not divide the
            image, a ratio that hides nothing or everything, an unknown name.
    """

    inputs: ClassVar = {"image": "uint8 B H W C"}
    outputs = ("features", "reconstruction", "hidden")
    # The mask token and the table of relative positions are decayed, as officially for ViTs.
    groups = (Group(match=r".*/(.*bias|scale|gamma_[12]|cls_token|pos_embed)", decay=False),)
    views = SimMIMViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        mask_unit: int | None = None,
        mask_ratio: float = 0.6,
        rounding: str = "ceil",
        class_token: bool = True,
        init: str = "simmim",
        layout: str = "channel_row_column",
        reduction: str = "mean",
        compute_dtype: str = "float32",
    ):
        options = (("rounding", rounding, ROUNDINGS), ("layout", layout, LAYOUTS), ("reduction", reduction, REDUCTIONS))
        for option, value, known in options:
            if value not in known:
                near = suggest(value, list(known))
                raise ConfigError(f"unknown {option} {value!r}{near}", why=f"known: {', '.join(known)}")
        self.backbone, self.patch = token_backbone(backbone, "simmim"), backbone.stride[0]
        mask_unit = 2 * self.patch if mask_unit is None else mask_unit
        if mask_unit < 1 or mask_unit % self.patch:
            raise ConfigError(f"mask_unit {mask_unit} is no whole number of patches of {self.patch} pixels")
        self.mask_unit, self.mask_ratio, self.rounding = mask_unit, mask_ratio, rounding
        units = math.prod(grid_of((*backbone.image_size, 3), mask_unit))
        if not 0 < self.hidden_units(units) < units:
            raise ConfigError(
                f"mask_ratio {mask_ratio} hides {self.hidden_units(units)} of {units} squares of {mask_unit} pixels",
                fix="choose a ratio that hides at least one and leaves at least one",
            )
        self.class_token, self.prefix_length = class_token, prefix_length(backbone)
        if not class_token and self.prefix_length:
            self.groups = (Group(match=r"backbone/cls_token", train=False), *type(self).groups)
        self.layout, self.reduction = layout, reduction
        self.mask_token = nnx.Param(
            initialisers.scheme(init).cls_token(rngs.params(), (1, 1, backbone.dim), jnp.float32)
        )
        self.head = Linear(
            backbone.dim,
            3 * self.patch**2,
            rngs=rngs,
            kernel_init=initialisers.torch_uniform(backbone.dim),
            bias_init=initialisers.torch_uniform(backbone.dim),
            compute_dtype=dtype_of(compute_dtype),
        )

    def hidden_units(self, units: int) -> int:
        """How many of ``units`` squares are hidden."""
        return ROUNDINGS[self.rounding](units * self.mask_ratio)

    def hidden_tokens(self, noise: Float[Array, "B U"], grid: tuple[int, int]) -> Int[Array, "B M"]:
        """The tokens of the squares with the largest noise, of a token grid that has U squares."""
        members = tokens_of_units(grid, self.mask_unit // self.patch)
        units = jnp.argsort(noise, axis=1)[:, noise.shape[1] - self.hidden_units(noise.shape[1]) :]
        return jnp.asarray(members)[units].reshape(noise.shape[0], -1)

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        pixels = self.backbone.normalise(batch["image"])
        units = math.prod(grid_of(pixels.shape, self.mask_unit))
        noise = jax.random.uniform(ctx.fork("mask"), (pixels.shape[0], units))
        hidden = self.hidden_tokens(noise, grid_of(pixels.shape, self.patch))
        value, features = self.masked_loss(pixels, hidden, ctx)
        return Loss(value=value, metrics={"monitor": feature_std(jnp.mean(features.tokens, axis=1))})

    def masked_loss(
        self, pixels: Float[Array, "B H W C"], hidden: Int[Array, "B M"], ctx: Context
    ) -> tuple[Float[Array, ""], Features]:
        """The loss where the tokens ``hidden`` are hidden, and the encoder's features."""
        features = self._encode(pixels, hidden, ctx)
        predicted = self._pixels(pick(features.tokens, hidden))
        error = jnp.mean(jnp.abs(predicted - pick(patchify(pixels, self.patch), hidden)))
        return error / hidden.shape[1] if self.reduction == "viny" else error, features

    def reconstruct(
        self, pixels: Float[Array, "B H W C"], hidden: Int[Array, "B M"], ctx: Context
    ) -> tuple[Float[Array, "B N PPC"], Features]:
        """Predictions for all patches, each in the order (row, column, channel), and the encoder's features."""
        features = self._encode(pixels, hidden, ctx)
        return self._pixels(features.tokens), features

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        """``features`` of whole images; ``reconstruction`` and what is ``hidden``, with one mask for all images."""
        if not {"reconstruction", "hidden"} & set(want):
            return super().predict(batch, ctx, want=want)
        given = super().predict(batch, ctx, want=want) if "features" in want else {}
        pixels = self.backbone.normalise(batch["image"])
        noise = fixed_noise(math.prod(grid_of(pixels.shape, self.mask_unit)), len(pixels))
        hidden = self.hidden_tokens(noise, grid_of(pixels.shape, self.patch))
        predicted, _ = self.reconstruct(pixels, hidden, ctx)
        mask = as_mask(hidden, predicted.shape[1])
        return {**given, "reconstruction": as_pixels(predicted, self.backbone), "hidden": mask}

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """See the contract. All patches are embedded, hidden ones for nothing, as in the official code."""
        count, *size, _ = batch["image"].shape
        patches = math.prod(grid_of(batch["image"].shape, self.patch))
        hidden = self.hidden_units(math.prod(grid_of(batch["image"].shape, self.mask_unit)))
        hidden *= (self.mask_unit // self.patch) ** 2
        # Without the prefix the sequence is as long as one of so many patches fewer with it.
        kept = None if self.class_token else patches - self.prefix_length
        head = closed_form.linear(hidden, self.backbone.dim, 3 * self.patch**2)
        return count * (self.backbone.flops(tuple(size), kept=kept, train=True) + 3 * head)

    def _encode(self, pixels: Float[Array, "B H W C"], hidden: Int[Array, "B M"], ctx: Context) -> Features:
        tokens = self.backbone.embed(pixels)
        tokens = tokens.fill(as_mask(hidden, tokens.x.shape[1]), self.mask_token[...])
        if not self.class_token:
            tokens = dataclasses.replace(tokens, prefix=tokens.prefix[:, :0])
        return self.backbone.encode(tokens, ctx.scoped("encoder"))

    def _pixels(self, x: Float[Array, "B M D"]) -> Float[Array, "B M PPC"]:
        """Pixels of patches in the order (row, column, channel)."""
        y = self.head(x)
        if self.layout == "row_column_channel":
            return y
        return jnp.moveaxis(y.reshape(*y.shape[:2], 3, -1), 2, 3).reshape(y.shape)


def tokens_of_units(grid: tuple[int, int], side: int) -> np.ndarray:
    """Token numbers [U side^2] of the squares of ``side`` x ``side`` tokens of a grid, all in row-major order."""
    tokens = np.arange(grid[0] * grid[1]).reshape(grid[0] // side, side, grid[1] // side, side)
    return tokens.transpose(0, 2, 1, 3).reshape(-1, side * side)


def as_mask(hidden: Int[Array, "B M"], count: int) -> Bool[Array, "B N"]:
    """True at the tokens ``hidden`` of ``count``."""
    return jnp.any(hidden[:, :, None] == jnp.arange(count), axis=1)
