"""Semantic segmentation with a convolutional or linear head on the last tokens.

The head is the FCN head (Long et al. 2015, arXiv 1411.4038) in the form of mmsegmentation that Koppula et al. 2022
(arXiv 2209.15589, A.4) put on a vision transformer: two 3x3 convolutions and a classifier for every token, whose
logits are upsampled bilinearly to the pixels before the softmax cross-entropy. Without convolutions it is a linear
classifier of tokens, on a frozen backbone the linear probe of segmentation.

A.4 leaves open: the norm in the head, dilation (here none), the flip, whether the head sees the tokens before or after
the backbone's last norm, the denominator of the loss, what else BYOL's colour function does beside its four strengths.
Each is an option.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, InputSpec, Loss, Sample
from spendflops.parts import closed_form, images
from spendflops.parts.augment.byol import color_jitter_byol, to_gray_byol
from spendflops.parts.metrics import IGNORE
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.conv import Conv
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.nn.resize import resize_map
from spendflops.parts.pixel_loss import pixel_accuracy, pixel_cross_entropy
from spendflops.parts.windows import label_map, mean_canvas


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationViews(Views):
    """A random scale, crop and flip of image and label map alike; what is missing is mean colour and ignored.

    Colours change in the image alone, by BYOL's operators, before it is padded.

    Attributes:
        scales: One of these factors on the image's size is drawn.
        fit: Whether the shorter side is first brought to the model's size; else factors are on the stored size.
        flip: Probability of a horizontal flip.
        color: Probability that colours are changed at all, A.4's ``apply_prob``: 0.5 there.
        jitter: Given that, the probability of the four operators in random order. 1 reads A.4 as one probability, 0.8
            leaves BYOL's own ``color_jitter_prob`` in place.
        grey: Given that, the probability of grey; in the second reading 0.2.
        brightness, contrast, saturation, hue: Strengths of the operators.
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    fit: bool = False
    flip: float = 0.5
    color: float = 0.0
    jitter: float = 1.0
    grey: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.1

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", "mask")

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        mask, stored = label_map(sample), sample["image"].size
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
        if self.color and rng.random() < self.color:
            image = self._recoloured(image, rng)
        canvas, labels = mean_canvas(spec.size, spec.mean), np.full(spec.size, IGNORE, np.uint8)
        canvas[: target[0], : target[1]], labels[: target[0], : target[1]] = image, mask
        return {"image": canvas, "mask": labels}

    def _recoloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = color_jitter_byol(
            image,
            rng,
            probability=self.jitter,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )
        return to_gray_byol(image, rng, probability=self.grey)


class Segmentation(Objective):
    """Classifies every pixel; trains the backbone with the head, unless it is frozen.

    Args:
        backbone: Any that keeps its tokens' grid.
        info: ``info.mask_classes`` gives the number of classes.
        rngs: Source of the initial values.
        channels: Of the convolutions.
        convs: Number of 3x3 convolutions. With 0 the head is linear.
        concat: Whether one more convolution sees input and result of the others together (mmsegmentation's default).
        norm: "batch" or "none", after every convolution; of a linear head, before it.
        dropout: Probability of dropping a whole channel before the classifier.
        normalise_by: Pixels that the loss is divided by: "valid", or "all" with the ignored ones (mmsegmentation's
            default).
        final_norm: Whether the head sees the backbone's tokens after its last norm; without, the last block's
            (mmsegmentation's ViT).
        frozen: The backbone is not trained, and runs as it does in evaluation: nothing is dropped, its statistics
            stand still. It costs no backward FLOPs. An optimiser with groups of its own must freeze it itself.
        compute_dtype: Of the convolutions' products, see the backbone's.

    Raises:
        ConfigError: A data set without pixel classes, an unknown option, ``concat`` without convolutions.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "mask": "uint8 B H W"}
    outputs = ("features", "seg_logits")
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
        final_norm: bool = True,
        frozen: bool = False,
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
        if concat and not convs:
            raise ConfigError("concat needs a convolution", why="its own sees what another one gives", fix="convs = 1")
        self.backbone, self.normalise_by = backbone, normalise_by
        self.levels, self.frozen = () if final_norm else (-1,), frozen
        if frozen:
            self.groups = (Group(match="backbone/.*", train=False), *type(self).groups)
        # By statistics of the head's norms or of the backbone's, or by the number of valid pixels.
        backbone_couples = backbone.couples_batch and not frozen
        self.couples_batch = norm == "batch" or normalise_by == "valid" or backbone_couples
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
        features, labels = self._features(batch, ctx), batch["mask"].astype(jnp.int32)
        logits = resize_map(self._seg_logits(features, ctx), labels.shape[1:])
        valid = labels != IGNORE
        value = pixel_cross_entropy(logits, labels, valid, normalise_by=self.normalise_by)
        hits = pixel_accuracy(logits, labels, valid)
        return Loss(value=value, metrics={"pixel_accuracy": hits, "monitor": feature_std(features.summary)})

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self._features(batch, ctx)
        outputs = {"features": features}
        if "seg_logits" in want:
            outputs["seg_logits"] = self._seg_logits(features, ctx)
        return outputs

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """See the contract. The upsampling is of each image, its matrices are constants."""
        count, *size, _ = batch["image"].shape
        grid = tuple(side // stride for side, stride in zip(size, self.backbone.stride, strict=True))
        upsampling = closed_form.resize(grid, tuple(batch["mask"].shape[1:]), self.head.classifier.kernel.shape[-1])
        head = 3 * self.head.flops(grid)
        if self.frozen and self.head.norm is None:
            # Nobody asks for the gradient of what the first layer sees.
            head -= self.head.first_flops(grid)
        trunk = self.backbone.flops(tuple(size), train=not self.frozen, images=count)
        return trunk + count * (head + 2 * upsampling)

    def _features(self, batch: Batch, ctx: Context) -> Features:
        ctx = dataclasses.replace(ctx, train=False) if self.frozen else ctx
        return self.backbone(batch["image"], ctx, levels=self.levels)

    def _seg_logits(self, features: Features, ctx: Context) -> Float[Array, "B h w K"]:
        source = features.levels[-1] if self.levels else features
        tokens = source.tokens
        return self.head(tokens.reshape(len(tokens), *source.grid, -1), ctx.scoped("head"))


class FCNHead(nnx.Module):
    """Convolutions with batch norm and ReLU, channel dropout, a linear classifier (1x1 convolution).

    Arguments are :class:`Segmentation`'s; ``norm`` says whether there is batch norm.
    """

    def __init__(self, inputs, outputs, *, rngs, channels, convs, concat, norm, dropout, dtype_name):
        widths = [inputs, *[channels] * (convs - 1), *[inputs + channels] * concat] if convs else []
        dtype, start = compute_dtype(dtype_name), initialisers.mmcv_kaiming
        self.convs = nnx.List(
            Conv(width, channels, rngs=rngs, bias=not norm, kernel_init=start, compute_dtype=dtype) for width in widths
        )
        # Of a linear head the norm is of the tokens.
        self.norms = nnx.List(BatchNorm(channels) for _ in widths) if norm and widths else None
        self.norm = BatchNorm(inputs) if norm and not widths else None
        last = channels if widths else inputs
        self.classifier = Linear(last, outputs, rngs=rngs, kernel_init=initialisers.normal(0.01))
        self.concat, self.dropout = concat, dropout

    def __call__(self, x: Float[Array, "B h w D"], ctx: Context) -> Float[Array, "B h w K"]:
        given = x = x if self.norm is None else self.norm(x, ctx)
        for index, conv in enumerate(self.convs):
            last = self.concat and index == len(self.convs) - 1
            x = conv(jnp.concatenate([given, x], axis=-1) if last else x)
            x = jax.nn.relu(x if self.norms is None else self.norms[index](x, ctx))
        if ctx.train and self.dropout:
            keep = jax.random.bernoulli(ctx.fork("dropout"), 1 - self.dropout, (len(x), 1, 1, x.shape[-1]))
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return self.classifier(x)

    def flops(self, grid: tuple[int, int]) -> int:
        """Of one image, forward."""
        return sum(self._layers(grid))

    def first_flops(self, grid: tuple[int, int]) -> int:
        """Of the first layer alone."""
        return self._layers(grid)[0]

    def _layers(self, grid: tuple[int, int]) -> list[int]:
        convs = [closed_form.convolution(grid, *conv.kernel.shape[2:], kernel=3)[0] for conv in self.convs]
        return [*convs, closed_form.linear(grid[0] * grid[1], *self.classifier.kernel.shape)]
