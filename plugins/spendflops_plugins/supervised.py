"""Supervised classification with one or several labels an image.

Koppula et al. 2022, "Where should I spend my FLOPS?" (arXiv 2209.15589), appendix A.3: the targets are averaged one-hot
vectors, smoothed, under a softmax:

    y = (1 - a) (sum of one-hots) / k + a / C,    loss = -sum_c y_c log softmax(logits)_c,    mean over images    (1)

A label that occurs twice among an image's k labels weighs double. Missing labels are -1.
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
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample
from spendflops.parts import images
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.pooling import feature_std

HEAD_INITS = {"zeros": initialisers.zeros, "trunc_normal": initialisers.jax_truncated_normal(0.02)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedViews(Views):
    """One random view and the labels of an image.

    Attributes:
        crop: "rrc" is a random resized crop, "none" the whole image resized.
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
        labels: The feature that holds the labels: one integer ("label") or several ("labels").
        max_labels: Several labels are cut or padded with -1 to this number.
    """

    crop: str = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.5
    labels: str = "label"
    max_labels: int = 8

    def __post_init__(self):
        if self.crop not in ("rrc", "none"):
            raise ConfigError(
                f"unknown crop {self.crop!r}{suggest(self.crop, ('rrc', 'none'))}", why="known: rrc, none"
            )

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
        return {"image": image, "labels": self._padded(np.asarray(sample[self.labels], np.int32))}

    def _padded(self, labels: np.ndarray) -> np.ndarray:
        if labels.ndim == 0:
            return labels[None]
        if labels.ndim > 1:
            raise DataError(f"feature {self.labels!r} has {labels.ndim} axes", why="labels are a number or a list")
        labels = labels[: self.max_labels]
        return np.pad(labels, (0, self.max_labels - len(labels)), constant_values=-1)


class Supervised(Objective):
    """A linear classifier on the backbone's summary vector, trained with it.

    Args:
        backbone: Any.
        info: ``info.classes`` gives the number of classes.
        rngs: Source of the initial values.
        label_smoothing: a of equation (1).
        head_init: "zeros" (original ViT; the backbone gets no gradient in the first step) or "trunc_normal" (0.02, cut
            at two standard deviations).
        head_bias: Initial value of the head's bias. The paper's -10 changes nothing under a softmax.
        head_norm: A fresh layer norm before the head; with ``final_norm`` off and mean pooling in the backbone this is
            MAE's fine-tuning head.

    Raises:
        ConfigError: A data set without classes.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "labels": "int32 B M"}
    outputs = ("features", "logits")
    groups = (Group(match=r".*/(bias|scale|cls_token|pos_embed)", decay=False),)
    views = SupervisedViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        label_smoothing: float = 0.1,
        head_init: str = "zeros",
        head_bias: float = 0.0,
        head_norm: bool = False,
    ):
        if not info.classes:
            raise ConfigError(
                f"data set {info.name!r} has no classes",
                why="supervised training needs labels",
                fix="use labelled data (a folder of images: one folder a class), or a method that needs no labels",
            )
        if head_init not in HEAD_INITS:
            known = list(HEAD_INITS)
            raise ConfigError(f"unknown head_init {head_init!r}{suggest(head_init, known)}", why=f"known: {known}")
        self.backbone, self.label_smoothing = backbone, label_smoothing
        self.head_norm = LayerNorm(backbone.dim) if head_norm else None
        self.head = Linear(
            backbone.dim,
            len(info.classes),
            rngs=rngs,
            kernel_init=HEAD_INITS[head_init],
            bias_init=nnx.initializers.constant(head_bias),
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        summary = self.backbone(batch["image"], ctx).summary
        logits, labels = self._logits(summary), batch["labels"]
        value = softmax_cross_entropy(logits, labels, smoothing=self.label_smoothing)
        hit = jnp.any(jnp.argmax(logits, axis=-1)[:, None] == labels, axis=-1)
        metrics = {"accuracy": jnp.mean(hit.astype(jnp.float32)), "monitor": feature_std(summary)}
        return Loss(value=value, metrics=metrics)

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self.backbone(batch["image"], ctx)
        outputs = {"features": features}
        if "logits" in want:
            outputs["logits"] = self._logits(features.summary)
        return outputs

    def _logits(self, summary: Float[Array, "B D"]) -> Float[Array, "B K"]:
        return self.head(summary if self.head_norm is None else self.head_norm(summary))


def softmax_cross_entropy(
    logits: Float[Array, "B K"], labels: Int[Array, "B M"], *, smoothing: float
) -> Float[Array, ""]:
    """Equation (1) without its one-hot vectors; images without any label do not count."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    valid = labels >= 0
    count = jnp.sum(valid, axis=-1)
    picked = jnp.take_along_axis(log_p, jnp.maximum(labels, 0), axis=-1)
    averaged = jnp.sum(jnp.where(valid, picked, 0), axis=-1) / jnp.maximum(count, 1)
    losses = -((1 - smoothing) * averaged + smoothing * jnp.mean(log_p, axis=-1))
    return jnp.sum(jnp.where(count > 0, losses, 0)) / jnp.maximum(jnp.sum(count > 0), 1)
