"""Supervised classification with one or several labels an image.

Koppula et al. 2022, "Where should I spend my FLOPS?" (arXiv 2209.15589), appendix A.3: the targets are averaged one-hot
vectors, smoothed, under a softmax:

    y = (1 - a) (sum of one-hots) / k + a / C,    loss = -sum_c y_c log softmax(logits)_c,    mean over images    (1)

A label that occurs twice among an image's k labels weighs double. Missing labels are -1. Options: the sigmoid
cross-entropy that the original ViT was trained with on ImageNet-21K (summed over classes, every label 1, not averaged),
and what MAE (He et al. 2022, arXiv 2111.06377, table 9) and others fine-tune with: RandAugment, random erasing, mixup
and CutMix, in this order, and a moving average of the weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample
from spendflops.parts import closed_form, images
from spendflops.parts.augment.erasing import Erasing
from spendflops.parts.augment.mix import Mixing
from spendflops.parts.augment.randaugment import FILTERS, RandAugment, fill_of
from spendflops.parts.labels import (
    averaged,
    mixed,
    multi_hot,
    sigmoid_cross_entropy,
    sigmoid_floor,
    softmax_cross_entropy,
    softmax_floor,
)
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.pooling import feature_std

HEAD_INITS = {
    "zeros": initialisers.zeros,
    "trunc_normal": initialisers.jax_truncated_normal(0.02),
    "mae": initialisers.normal(2e-5),
}
LOSSES = {
    "softmax": (averaged, softmax_cross_entropy, softmax_floor),
    "sigmoid": (lambda labels, *, unique: multi_hot(labels), sigmoid_cross_entropy, sigmoid_floor),
}
"""Name -> (weights of the labels, cross-entropy, the least value that it can have)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedViews(Views):
    """One random view and the labels of an image.

    Attributes:
        crop: "rrc" is a random resized crop, "none" the whole image resized.
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
        randaugment: What :meth:`spendflops.parts.augment.randaugment.RandAugment.parse` understands, applied after the
            flip: MAE fine-tunes with "rand-m9-mstd0.5-inc1". It takes the filter of the crop (bicubic for "area") and
            the mean of the normalisation for what comes in from outside.
        labels: The feature that holds the labels: one integer ("label") or several ("labels").
        max_labels: Several labels are cut or padded with -1 to this number.
    """

    crop: str = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.5
    randaugment: str | None = None
    labels: str = "label"
    max_labels: int = 8

    def __post_init__(self):
        if self.crop not in ("rrc", "none"):
            raise ConfigError(
                f"unknown crop {self.crop!r}{suggest(self.crop, ('rrc', 'none'))}", why="known: rrc, none"
            )
        if self.randaugment is not None:
            _randaugment(self.randaugment, self.interpolation)  # a mistake is one of the configuration

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", self.labels)

    def letters(self, spec: InputSpec) -> dict[str, int]:
        return {**super().letters(spec), "M": 1 if self.labels == "label" else self.max_labels}

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        if self.crop == "rrc":
            image = images.random_resized_crop(
                sample["image"],
                rng,
                size=spec.size,
                scale=self.scale,
                ratio=self.ratio,
                interpolation=self.interpolation,
            )
        else:
            image = images.resize(sample["image"].decode(), spec.size, self.interpolation)
        image = images.random_flip(image, rng, probability=self.flip)
        if self.randaugment is not None:
            image = _randaugment(self.randaugment, self.interpolation)(image, rng, fill=fill_of(spec.mean))
        names = spec.classes if self.labels == "label" else spec.label_names or spec.classes
        return {"image": image, "labels": self._padded(np.asarray(sample[self.labels], np.int32), names)}

    def _padded(self, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        # Out of range it would be a target of zeros, and a loss that looks fine.
        if classes and labels.size and not -1 <= labels.min() <= labels.max() < len(classes):
            raise DataError(
                f"{self.labels} {labels.tolist()} of {len(classes)} classes",
                why="labels are numbers of classes from 0 on, or -1 for none",
                fix="correct the labels, or name all classes in the data set",
            )
        if labels.ndim == 0:
            return labels[None]
        if labels.ndim > 1:
            raise DataError(f"feature {self.labels!r} has {labels.ndim} axes", why="labels are a number or a list")
        labels = labels[: self.max_labels]
        return np.pad(labels, (0, self.max_labels - len(labels)), constant_values=-1)


@functools.cache
def _randaugment(text: str, interpolation: str) -> RandAugment:
    kind = interpolation.removesuffix("_scaled")
    return RandAugment.parse(text, interpolation=kind if kind in FILTERS else "bicubic")


class Supervised(Objective):
    """A linear classifier on the backbone's summary vector, trained with it.

    Args:
        backbone: Any.
        info: ``info.classes`` gives the number of classes.
        rngs: Source of the initial values.
        loss: "softmax", equation (1), or "sigmoid".
        label_smoothing: a of equation (1).
        labels: The feature that the views read: "label", or "labels", whose values may have names of their own
            (``info.label_names``): families above the classes, as in JFT.
        unique_labels: Whether a label that occurs twice counts once. Under the sigmoid it always does.
        head_init: "zeros" (original ViT; the backbone gets no gradient in the first step), "trunc_normal" (0.02, cut
            at two standard deviations) or "mae" (normal, 2e-5: MAE's fine-tuning).
        head_bias: Initial value of the head's bias. The paper's -10 changes nothing under a softmax.
        head_norm: A fresh layer norm before the head; with ``final_norm`` off and mean pooling in the backbone this is
            MAE's fine-tuning head.
        pre_logits: A layer tanh(W x + b) before the head, as wide as the summary (original ViT, pre-training).
        mixup: See :class:`spendflops.parts.augment.mix.Mixing`; MAE fine-tunes with 0.8. In training alone.
        cutmix: Likewise; MAE fine-tunes with 1.0.
        mix_probability: Of mixing a batch at all.
        mix_switch: Probability of CutMix where both are on.
        erasing: Probability of an image to lose a rectangle, see :class:`spendflops.parts.augment.erasing.Erasing`; MAE
            fine-tunes with 0.25. In training alone.
        ema: Decay of a moving average of the weights, which is then what is scored and handed on; None for none. The
            statistics of a batch norm are no part of it. It costs memory, and no model FLOPs.

    Raises:
        ConfigError: A data set without classes, an unknown name, a number out of range.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "labels": "int32 B M"}
    outputs = ("features", "logits")
    groups = (Group(match=r".*/(.*bias|scale|gamma_[12]|cls_token|pos_embed)", decay=False),)
    views = SupervisedViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        loss: str = "softmax",
        label_smoothing: float = 0.1,
        labels: str = "label",
        unique_labels: bool = False,
        head_init: str = "zeros",
        head_bias: float = 0.0,
        head_norm: bool = False,
        pre_logits: bool = False,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        mix_switch: float = 0.5,
        erasing: float = 0.0,
        ema: float | None = None,
    ):
        if not info.classes:
            raise ConfigError(
                f"data set {info.name!r} has no classes",
                why="supervised training needs labels",
                fix="use labelled data (a folder of images: one folder a class), or a method that needs no labels",
            )
        for option, value, known in (
            ("head_init", head_init, HEAD_INITS),
            ("loss", loss, LOSSES),
            ("labels", labels, ("label", "labels")),
        ):
            if value not in known:
                near = suggest(value, list(known))
                raise ConfigError(f"unknown {option} {value!r}{near}", why=f"known: {', '.join(known)}")
        if ema is not None and not 0 < ema < 1:
            raise ConfigError(f"ema {ema} is a decay", why="it must lie between 0 and 1", fix="None for no average")
        self.backbone, self.label_smoothing, self.unique_labels = backbone, label_smoothing, unique_labels
        self.weigh, self.cross_entropy, self.floor = LOSSES[loss]
        self.mixing = Mixing(mixup=mixup, cutmix=cutmix, probability=mix_probability, switch=mix_switch)
        self.couples_batch = self.mixing.active  # partners are of the batch
        self.erasing, self.ema = Erasing(probability=erasing), ema
        self.head_norm = LayerNorm(backbone.dim) if head_norm else None
        dense = {"rngs": rngs, "kernel_init": initialisers.lecun_normal}
        self.pre_logits = Linear(backbone.dim, backbone.dim, **dense) if pre_logits else None
        self.head = Linear(
            backbone.dim,
            len(info.classes if labels == "label" else info.label_names or info.classes),
            rngs=rngs,
            kernel_init=HEAD_INITS[head_init],
            bias_init=nnx.initializers.constant(head_bias),
        )
        if ema is not None:
            averaged_too = [name for name in ("head_norm", "pre_logits") if getattr(self, name) is not None]
            self.teacher, self.transfer = ("backbone", *averaged_too, "head"), "teacher"

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        pixels, labels = batch["image"], batch["labels"]
        weights = self.weigh(labels, unique=self.unique_labels)
        if ctx.train and (self.erasing.active or self.mixing.active):
            pixels = self.backbone.normalise(pixels)
        if ctx.train and self.erasing.active:
            pixels = self.erasing(pixels, ctx.fork("erase"))
        if ctx.train and self.mixing.active:
            pixels, part = self.mixing(pixels, ctx.fork("mix"))
            labels, weights = mixed(labels, weights, part)
        summary = self.backbone(pixels, ctx).summary
        logits = self._logits(summary)
        value = self.cross_entropy(logits, labels, weights, smoothing=self.label_smoothing)
        floor = self.floor(labels, weights, classes=logits.shape[-1], smoothing=self.label_smoothing)
        # A hit is one of the labels that weigh most: of the larger part, where images are mixed.
        best = (weights > 0) & (weights >= jnp.max(weights, axis=-1, keepdims=True))
        hit = jnp.any((jnp.argmax(logits, axis=-1)[:, None] == labels) & best, axis=-1)
        metrics = {
            "accuracy": jnp.mean(hit.astype(jnp.float32)),
            "above_floor": value - floor,
            "monitor": feature_std(summary),
        }
        return Loss(value=value, metrics=metrics)

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self.backbone(batch["image"], ctx)
        outputs = {"features": features}
        if "logits" in want:
            outputs["logits"] = self._logits(features.summary)
        return outputs

    def teacher_decay(self, ctx: Context) -> Float[Array, ""]:
        return jnp.asarray(self.ema, jnp.float32)

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        count, *size, _ = batch["image"].shape
        head = closed_form.linear(1, *self.head.kernel.shape)
        head += closed_form.linear(1, *self.pre_logits.kernel.shape) if self.pre_logits is not None else 0
        return count * (self.backbone.flops(tuple(size), train=True) + 3 * head)

    def _logits(self, summary: Float[Array, "B D"]) -> Float[Array, "B K"]:
        x = summary if self.head_norm is None else self.head_norm(summary)
        return self.head(x if self.pre_logits is None else jnp.tanh(self.pre_logits(x)))
