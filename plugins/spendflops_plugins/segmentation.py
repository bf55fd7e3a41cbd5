"""Semantic segmentation with a convolutional head on the last tokens.

The head is the FCN head (Long et al. 2015, arXiv 1411.4038) in the form of mmsegmentation that Koppula et al. 2022
(arXiv 2209.15589, A.4) put on a vision transformer: two 3x3 convolutions and a classifier for every token, whose
logits are upsampled bilinearly to the pixels before the softmax cross-entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, InputSpec, Loss, Sample
from spendflops.parts import images
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.conv import Conv
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.nn.resize import resize_map

IGNORED = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationViews(Views):
    """A random scale, crop and flip of image and label map alike; what is missing is mean colour and ignored.

    Attributes:
        scales: One of these factors on the image's size is drawn.
        fit: Whether the shorter side is first brought to the model's size; else factors are on the stored size.
        flip: Probability of a horizontal flip.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    fit: bool = False
    flip: float = 0.5

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", "mask")

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        mask, stored = images.decode_mask(sample["mask"]), sample["image"].size
        if mask.shape != tuple(stored):
            raise DataError(f"a mask of {mask.shape} pixels for an image of {tuple(stored)}", why="they must be alike")
        factor = self.scales[rng.integers(len(self.scales))]
        factor *= max(new / old for new, old in zip(spec.size, stored, strict=True)) if self.fit else 1
        # The window is cut out of the stored pixels and then scaled, so that no larger image is ever made.
        window = [min(old, max(1, round(new / factor))) for new, old in zip(spec.size, stored, strict=True)]
        top, left = (int(rng.integers(old - part + 1)) for part, old in zip(window, stored, strict=True))
        target = tuple(min(new, max(1, round(part * factor))) for part, new in zip(window, spec.size, strict=True))
        image = images.crop_resize(sample["image"], (top, left, *window), target, "bilinear")
        mask = images.resize(mask[top : top + window[0], left : left + window[1]], target, "nearest")
        if rng.random() < self.flip:
            image, mask = images.flip(image), images.flip(mask)
        canvas = np.empty((*spec.size, 3), np.uint8)
        canvas[:] = np.rint(255 * np.asarray(spec.mean)).astype(np.uint8)
        labels = np.full(spec.size, IGNORED, np.uint8)
        canvas[: target[0], : target[1]], labels[: target[0], : target[1]] = image, mask
        return {"image": canvas, "mask": labels}


class Segmentation(Objective):
    """Classifies every pixel; trains the backbone with the head.

    Args:
        backbone: Any that keeps its tokens' grid.
        info: ``info.mask_classes`` gives the number of classes.
        rngs: Source of the initial values.
        channels: Of the convolutions.
        convs: Number of 3x3 convolutions.
        concat: Whether one more convolution sees input and result of the others together (mmsegmentation's default).
        norm: "batch" or "none", after every convolution.
        dropout: Probability of dropping a whole channel before the classifier.
        normalise_by: Pixels that the loss is divided by: "valid", or "all" with the ignored ones (mmsegmentation's
            default).
        compute_dtype: Of the convolutions' products, see the backbone's.

    Raises:
        ConfigError: A data set without pixel classes, an unknown option.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "mask": "uint8 B H W"}
    outputs = ("features", "seg_logits")
    couples_batch = True
    groups = (Group(match=r".*/(bias|scale|cls_token|pos_embed)", decay=False),)
    views = SegmentationViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        channels: int = 256,
        convs: int = 2,
        concat: bool = False,
        norm: str = "batch",
        dropout: float = 0.1,
        normalise_by: str = "valid",
        compute_dtype: str = "float32",
    ):
        if not info.mask_classes:
            raise ConfigError(f"data set {info.name!r} has no pixel classes", why="segmentation needs label maps")
        for option, value, known in (
            ("norm", norm, ("batch", "none")),
            ("normalise_by", normalise_by, ("valid", "all")),
        ):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}"
                )
        self.backbone, self.normalise_by = backbone, normalise_by
        self.head = FCNHead(
            backbone.dim,
            len(info.mask_classes),
            rngs=rngs,
            channels=channels,
            convs=convs,
            concat=concat,
            norm=norm == "batch",
            dropout=dropout,
            dtype_name=compute_dtype,
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        features, labels = self.backbone(batch["image"], ctx), batch["mask"].astype(jnp.int32)
        logits = resize_map(self._seg_logits(features, ctx), labels.shape[1:])
        valid = labels != IGNORED
        value = pixel_cross_entropy(logits, labels, valid, normalise_by=self.normalise_by)
        hits = jnp.sum((jnp.argmax(logits, axis=-1) == labels) & valid) / jnp.maximum(jnp.sum(valid), 1)
        return Loss(value=value, metrics={"pixel_accuracy": hits, "monitor": feature_std(features.summary)})

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self.backbone(batch["image"], ctx)
        outputs = {"features": features}
        if "seg_logits" in want:
            outputs["seg_logits"] = self._seg_logits(features, ctx)
        return outputs

    def _seg_logits(self, features: Features, ctx: Context) -> Float[Array, "B h w K"]:
        tokens = features.tokens
        return self.head(tokens.reshape(len(tokens), *features.grid, -1), ctx.scoped("head"))


class FCNHead(nnx.Module):
    """Convolutions with batch norm and ReLU, channel dropout, a linear classifier (1x1 convolution).

    Arguments are :class:`Segmentation`'s; ``norm`` says whether there is batch norm.
    """

    def __init__(self, inputs, outputs, *, rngs, channels, convs, concat, norm, dropout, dtype_name):
        widths = [inputs] + [channels] * (convs - 1) + ([inputs + channels] if concat else [])
        dtype, start = compute_dtype(dtype_name), initialisers.mmcv_kaiming
        self.convs = nnx.List(
            Conv(width, channels, rngs=rngs, bias=not norm, kernel_init=start, compute_dtype=dtype) for width in widths
        )
        self.norms = nnx.List(BatchNorm(channels) for _ in widths) if norm else None
        self.classifier = Linear(channels, outputs, rngs=rngs, kernel_init=initialisers.normal(0.01))
        self.concat, self.dropout = concat, dropout

    def __call__(self, x: Float[Array, "B h w D"], ctx: Context) -> Float[Array, "B h w K"]:
        given = x
        for index, conv in enumerate(self.convs):
            last = self.concat and index == len(self.convs) - 1
            x = conv(jnp.concatenate([given, x], axis=-1) if last else x)
            x = jax.nn.relu(x if self.norms is None else self.norms[index](x, ctx))
        if ctx.train and self.dropout:
            keep = jax.random.bernoulli(ctx.fork("dropout"), 1 - self.dropout, (len(x), 1, 1, x.shape[-1]))
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return self.classifier(x)


def pixel_cross_entropy(
    logits: Float[Array, "B H W K"], labels: Int[Array, "B H W"], valid: Array, *, normalise_by: str
) -> Float[Array, ""]:
    """Softmax cross-entropy summed over valid pixels, divided by their number ("valid") or by that of all ("all")."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    losses = -jnp.take_along_axis(log_p, jnp.where(valid, labels, 0)[..., None], axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(valid), 1) if normalise_by == "valid" else valid.size
    return jnp.sum(jnp.where(valid, losses, 0)) / count
