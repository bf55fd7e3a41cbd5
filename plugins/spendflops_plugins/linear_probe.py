"""Linear probe: a linear classifier on the features of a frozen backbone, trained by gradient descent.

Protocols (the optimisers are in ``gin/transfer``):

    MAE (He et al. 2022, arXiv 2111.06377, table 10)   the class token; batch norm without factor and offset, 1e-6
    DINO (Caron et al. 2021, arXiv 2104.14294), ViT-B  the class token beside the mean of the patch tokens; no norm
    DINO, ViT-S                                        the class tokens after the last four blocks, each through the
                                                       last norm, beside each other; no norm

In both the head starts at N(0, 0.01^2) with a bias of 0, and the loss is the softmax cross-entropy of one label.

The backbone runs as it does when it is scored: without stochastic depth, its batch norms on their running statistics,
which stay as they are. It is closed over, so that a step is billed one forward pass of it, and no backward work.

Deviation: batch statistics are those of the global batch, not of 512 images on each device, and the running variance is
the biased one (MAE's are PyTorch's). Where class token and mean stand beside each other they are two halves; in DINO's
code they alternate, channel by channel, which matters for its stored heads alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Features, InputSpec, Loss, Sample
from spendflops.parts import closed_form
from spendflops.parts.labels import softmax_cross_entropy
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.views import CropFlip


def _class(features: Features) -> Float[Array, "B D"]:
    return _first(features.prefix)


def _first(prefix: Float[Array, "B P D"] | None) -> Float[Array, "B D"]:
    if prefix is None or not prefix.shape[1]:
        raise ConfigError(
            "the probe reads the class token, and this backbone has none",
            why="features = 'class', 'class_and_mean' or 'class_last4'",
            fix="linear_probe.features = 'mean' or 'summary'",
        )
    return prefix[:, 0]


def _mean(features: Features) -> Float[Array, "B D"]:
    return jnp.mean(features.tokens, axis=1)


FEATURES = {
    "class": (_class,),
    "mean": (_mean,),
    "class_and_mean": (_class, _mean),
    "summary": (lambda features: features.summary,),
}
"""Name -> what stands beside each other, each as wide as the backbone and after its last norm."""
LAST = {"class_last4": (-4, -3, -2, -1)}
"""Name -> blocks whose class tokens stand beside each other, each through the last norm."""
NORMS = ("batch", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeViews(CropFlip):
    """One random resized crop, flipped at random, and the label; options are :class:`CropFlip`'s.

    Attributes:
        sampler: Distribution of the crops, by origin: "mae" draws once, as MAE's probe does; DINO's is "torchvision".
    """

    sampler: str = "mae"

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", "label")

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        label = np.asarray(sample["label"], np.int32)
        if spec.classes and not 0 <= label < len(spec.classes):
            raise DataError(
                f"label {label} of {len(spec.classes)} classes",
                why="labels are numbers of classes from 0 on; a probe has no use for an image without one",
                fix="correct the labels, or leave these images out",
            )
        return {**super().__call__(sample, rng, spec), "label": label}


class LinearProbe(Objective):
    """Trains a linear classifier on a frozen backbone.

    Args:
        backbone: Any; its weights come from another stage, a run or a file.
        info: ``info.classes`` gives the number of classes.
        rngs: Source of the initial values.
        features: What is classified: "class" (the class token), "mean" (of the patch tokens), "class_and_mean",
            "class_last4" or "summary" (what the backbone itself says), all after the backbone's last norm.
        norm: "batch" is a batch norm without factor and offset before the head, "none" is none.

    Raises:
        ConfigError: A data set without classes, an unknown name; in the first trace, a class token that is not there.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "label": "int32 B"}
    outputs = ("features", "logits")
    groups = (Group(match=r"backbone/.*", train=False), Group(match=r".*/bias", decay=False))
    views = ProbeViews

    def __init__(
        self, backbone: Backbone, *, info: DatasetInfo, rngs: nnx.Rngs, features: str = "class", norm: str = "batch"
    ):
        if not info.classes:
            raise ConfigError(f"data set {info.name!r} has no classes", why="a probe needs labels", fix="labelled data")
        for option, value, known in (("features", features, {**FEATURES, **LAST}), ("norm", norm, NORMS)):
            if value not in known:
                near = suggest(value, list(known))
                raise ConfigError(f"unknown {option} {value!r}{near}", why=f"known: {', '.join(known)}")
        self.backbone, self.features = backbone, features
        self.levels = LAST.get(features, ())
        width = backbone.dim * len(self.levels or FEATURES[features])
        self.norm = BatchNorm(width, eps=1e-6, scale=False, offset=False) if norm == "batch" else None
        self.couples_batch = norm == "batch"
        self.head = Linear(width, len(info.classes), rngs=rngs, kernel_init=initialisers.normal(0.01))

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        vectors, labels = self._vectors(self._features(batch, ctx)), batch["label"]
        logits = self._logits(vectors, ctx)
        value = softmax_cross_entropy(logits, labels[:, None], jnp.ones((len(labels), 1), jnp.float32))
        hits = jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
        return Loss(value=value, metrics={"accuracy": hits, "monitor": feature_std(vectors)})

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self._features(batch, ctx)
        outputs: dict[str, Any] = {"features": features}
        if "logits" in want:
            outputs["logits"] = self._logits(self._vectors(features), ctx)
        return outputs

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        count, *size, _ = batch["image"].shape
        # The head's input is given: of its two backward products only the kernel's is made.
        return self.backbone.flops(tuple(size), images=count) + 2 * closed_form.linear(count, *self.head.kernel.shape)

    def _features(self, batch: Batch, ctx: Context) -> Features:
        return self.backbone(batch["image"], dataclasses.replace(ctx, train=False), levels=self.levels)

    def _vectors(self, features: Features) -> Float[Array, "B F"]:
        if self.levels:
            return jnp.concatenate([self.backbone.finish(_first(x.prefix)) for x in features.levels], axis=-1)
        return jnp.concatenate([read(features) for read in FEATURES[self.features]], axis=-1)

    def _logits(self, vectors: Float[Array, "B F"], ctx: Context) -> Float[Array, "B K"]:
        return self.head(vectors if self.norm is None else self.norm(vectors, ctx))
