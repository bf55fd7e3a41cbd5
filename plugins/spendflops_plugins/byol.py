"""BYOL.

Grill et al. 2020, "Bootstrap your own latent" (arXiv 2006.07733). An online network (backbone f, projector g, predictor
q) predicts what a slowly moving average of itself, the target network (f', g'), makes of another view of the image:

    L = mean |q(z1)^ - z2'^|^2 + mean |q(z2)^ - z1'^|^2,    z = g(f(view)), z' = g'(f'(view)), ^ of unit length     (2)
    target <- m target + (1 - m) online,    m = 1 - (1 - m0) (cos(pi k / S) + 1) / 2    after step k of S

Deviation: there is no online classifier behind a stop-gradient; evaluators score the weights.
Deviation: the target copies the online weights at the start (``teacher_init``), the official code draws others.
Deviation: the target has no running statistics of its own; they are not used in training.
Deviation: views are resized with antialiasing and rounded to 8 bits; the official ones are neither.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample
from spendflops.parts import images, schedules
from spendflops.parts.augment import byol as augment
from spendflops.parts.augment import common
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.heads import MLPHead, mean_cosine, unit_vectors
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.pooling import feature_std

REDUCTIONS = {"official_sum": 2.0, "mean": 1.0}
TEACHER_INITS = ("copy", "independent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOLViews(Views):
    """Two views of an image, drawn differently: crop, flip, colour jitter, grey, blur, solarise (appendix C).

    Attributes:
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        sampler: Distribution of the crops, by origin; the official code draws once, as MAE's does ("mae").
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
        jitter: Probability of the colour jitter.
        brightness: Largest value that is added.
        contrast: Largest change of the factor 1.
        saturation: Largest change of the factor 1.
        hue: Largest turn of the colour circle.
        gray: Probability of grey.
        blur: Probability of a Gaussian blur in the first and in the second view; 0 for small images.
        sigma: Range of the blur's standard deviation in pixels.
        solarize: Probability of solarisation in the first and in the second view.
        threshold: From where on values are turned over, on the scale 0..1.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: str = "mae"
    interpolation: str = "bicubic"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, float] = (0.0, 0.2)
    threshold: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        return {"view": np.stack([self._view(sample["image"], rng, spec, index) for index in range(2)])}

    def _view(self, image: Any, rng: np.random.Generator, spec: InputSpec, index: int) -> np.ndarray:
        x = images.random_resized_crop(
            image,
            rng,
            size=spec.size,
            scale=self.scale,
            ratio=self.ratio,
            sampler=self.sampler,
            interpolation=self.interpolation,
        )
        x = common.to_float(images.random_flip(x, rng, probability=self.flip))
        x = augment.color_jitter_byol(
            x,
            rng,
            probability=self.jitter,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )
        x = augment.to_gray_byol(x, rng, probability=self.gray)
        x = augment.gaussian_blur_byol(x, rng, probability=self.blur[index], sigma=self.sigma)
        x = augment.solarize_byol(x, rng, probability=self.solarize[index], threshold=self.threshold)
        return common.to_uint8(x)


class BYOL(Objective):
    """Prediction of a moving average's view of the same image.

    Batch norms of the heads see one view at a time, and so does a backbone with batch statistics; any other backbone
    gets both views in one call. The target network runs in training mode, with the statistics of its own batch.

    Args:
        backbone: Any; its summary vector is projected.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        hidden_dim: Width of the hidden layers of projector and predictor.
        output_dim: Width of what projector and predictor give.
        projector_layers: 2 officially; MoCo v3's projector for vision transformers has 3.
        predictor_layers: 2 officially.
        head_norm: After every hidden layer of the heads: "bn", "ln", "gn_ws" or "none". Without batch statistics BYOL
            is more likely to collapse: look at the monitor.
        output_norm: Whether the norm follows the last layers of the heads, too: not officially, but in MoCo v3.
        ema: m0, the target's decay at the first step.
        ema_end: The decay at the end; equal to ``ema`` for a constant one.
        reduction: "official_sum" of the two directions, 0 to 8, or their "mean", 0 to 4.
        teacher_init: "copy" of the online weights, or "independent" ones, as officially.
        compute_dtype: Of the heads' products, see the backbone's. Distances are always float32.

    Raises:
        ConfigError: An unknown choice, a head without a layer, a decay outside of 0..1, a batch norm over one image.
    """

    inputs: ClassVar = {"view": "uint8 B V=2 H W C"}
    teacher = ("backbone", "projector")
    transfer = "online"  # what the official code evaluates
    couples_batch = True
    groups = (Group(match=r".*/(bias|scale)", decay=False),)
    views = BYOLViews
    kit_options: ClassVar = {"hidden_dim": 64, "output_dim": 16}

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        hidden_dim: int = 4096,
        output_dim: int = 256,
        projector_layers: int = 2,
        predictor_layers: int = 2,
        head_norm: str = "bn",
        output_norm: bool = False,
        ema: float = 0.996,
        ema_end: float = 1.0,
        reduction: str = "official_sum",
        teacher_init: str = "copy",
        compute_dtype: str = "float32",
    ):
        for name, value, known in (
            ("reduction", reduction, list(REDUCTIONS)),
            ("teacher_init", teacher_init, list(TEACHER_INITS)),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}{suggest(value, known)}", why=f"known: {known}")
        if not 0 <= ema <= 1 or not 0 <= ema_end <= 1:
            raise ConfigError(
                f"ema {ema} and ema_end {ema_end} must be within 0 and 1",
                why="the target is ema * target + (1 - ema) * online",
                fix="0.99 for short runs, 0.996 for long ones",
            )
        if projector_layers < 1 or predictor_layers < 1:
            raise ConfigError(f"projector_layers {projector_layers} and predictor_layers {predictor_layers} start at 1")
        if output_norm and head_norm == "none":
            raise ConfigError(
                "output_norm has no effect", why="head_norm is 'none'", fix="choose a norm, or leave it out"
            )
        self.backbone, self.ema, self.ema_end = backbone, ema, ema_end
        self.reduction, self.teacher_init, self.head_norm = reduction, teacher_init, head_norm
        self.couples_batch = head_norm == "bn" or backbone.couples_batch

        def head(inputs: int, layers: int) -> MLPHead:
            return MLPHead(
                (inputs, *(hidden_dim,) * (layers - 1), output_dim),
                rngs=rngs,
                norm=head_norm,
                output_norm=output_norm,
                # Haiku's default.
                kernel_init=lambda fan_in: initialisers.jax_truncated_normal(fan_in**-0.5),
                compute_dtype=dtype_of(compute_dtype),
            )

        self.projector, self.predictor = head(backbone.dim, projector_layers), head(output_dim, predictor_layers)

    def targets(self, batch: Batch, ctx: Context) -> Float[Array, "V B E"]:
        summaries = self.summaries(batch["view"], ctx.scoped("target"))
        return jnp.stack([unit_vectors(self.projector(x, ctx)) for x in summaries])

    def loss(self, batch: Batch, targets: Float[Array, "V B E"], ctx: Context) -> Loss:
        if self.couples_batch and batch["view"].shape[0] < 2:
            raise ConfigError(
                "byol cannot train on a batch of one image",
                why="batch norm takes its statistics from the images of one view: over one image all features are 0",
                fix="a larger batch_size, or head_norm = 'ln' with a backbone without batch norm",
            )
        summaries = self.summaries(batch["view"], ctx)
        z = [self.projector(x, ctx) for x in summaries]
        first, second = (unit_vectors(self.predictor(x, ctx)) for x in z)
        value = regression_loss(first, targets[1]) + regression_loss(second, targets[0])
        projected = unit_vectors(z[0])
        metrics = {
            "target_cosine": 1 - value / 4,
            "batch_cosine": mean_cosine(projected),
            "summary_std": feature_std(summaries[0]),
            "target_std": feature_std(targets[0]),
            "teacher_decay": self.teacher_decay(ctx),
            "monitor": feature_std(projected),
        }
        return Loss(value=value * (REDUCTIONS[self.reduction] / 2), metrics=metrics)

    def summaries(self, view: Array, ctx: Context) -> list[Float[Array, "B D"]]:
        """The backbone's, of each of the views uint8 [B V H W C]."""
        if self.backbone.couples_batch:
            return [self.backbone(view[:, v], ctx.scoped(f"view{v}")).summary for v in range(view.shape[1])]
        # Views of one image stay neighbours, so that a batch split over devices is merged without communication.
        merged = self.backbone(view.reshape(-1, *view.shape[2:]), ctx).summary
        return list(jnp.moveaxis(merged.reshape(*view.shape[:2], -1), 1, 0))

    def teacher_decay(self, ctx: Context) -> Float[Array, ""]:
        return schedules.Cosine(start=self.ema, end=self.ema_end)(ctx)

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """Counter A: online forward and backward, target forward; the predictor is the online network's alone."""
        shape = batch["view"].shape
        size, heads = tuple(shape[2:4]), 4 * self.projector.flops() + 3 * self.predictor.flops()
        trained, target = self.backbone.flops(size, train=True), self.backbone.flops(size)
        return math.prod(shape[:2]) * (trained + target + heads)


def regression_loss(predicted: Float[Array, "B E"], target: Float[Array, "B E"]) -> Float[Array, ""]:
    """Mean squared distance of unit vectors, 2 - 2 cos: one direction of equation (2)."""
    return jnp.mean(jnp.sum(jnp.square(predicted - target), axis=-1))
