"""SimCLR.

Chen et al. 2020, "A simple framework for contrastive learning of visual representations" (arXiv 2002.05709). Two views
of each of N images; for an anchor i with positive j, among all 2N unit vectors z:

    l(i, j) = -log( exp(z_i z_j / tau) / sum_{k != i} exp(z_i z_k / tau) )                                          (1)

averaged over all ordered pairs (i, j) of views of one image. With V views there are V N vectors and V - 1 positives an
anchor: the average stays outside of the logarithm, and all other vectors are in the sum.

Deviation: images are normalised by the backbone; the official code feeds [0, 1].
Deviation: views are resized with antialiasing and rounded to 8 bits; the official ones are neither.
Deviation: the blur of an image has a width of its own; the official code draws one a batch and view.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample
from spendflops.parts import closed_form, images
from spendflops.parts.augment import common
from spendflops.parts.augment import simclr as augment
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.heads import MLPHead, mean_cosine, unit_vectors
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.pooling import feature_std

REDUCTIONS = ("mean", "official_sum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRViews(Views):
    """Views of an image, drawn alike: crop, flip, colour jitter, grey, blur (appendix A).

    Attributes:
        count: How many views; 2 officially.
        scale: Range of the crop's area, as parts of the image's.
        ratio: Range of width / height of the crop.
        sampler: Distribution of the crops, by origin.
        interpolation: Of the resize.
        flip: Probability of a horizontal flip.
        strength: Of the colour jitter; 0.5 for small images.
        hue: Largest turn of the colour circle at strength 1.
        jitter: Probability of the colour jitter.
        gray: Probability of grey.
        blur: Probability of a Gaussian blur; 0 for small images.
        sigma: Range of the blur's standard deviation in pixels.
    """

    count: int = 2
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    sampler: str = "tf"
    interpolation: str = "bicubic"
    flip: float = 0.5
    strength: float = 1.0
    hue: float = 0.2
    jitter: float = 0.8
    gray: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self):
        if self.count < 2:
            raise ConfigError(
                f"simclr needs two views of an image or more, not {self.count}",
                why="the positive of a view is another view of the same image",
                fix="objectives.simclr.views.count = 2",
            )

    def letters(self, spec: InputSpec) -> dict[str, int]:
        return {**super().letters(spec), "V": self.count}

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        return {"view": np.stack([self._view(sample["image"], rng, spec) for _ in range(self.count)])}

    def _view(self, image: Any, rng: np.random.Generator, spec: InputSpec) -> np.ndarray:
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
        x = augment.color_jitter_simclr(x, rng, strength=self.strength, probability=self.jitter, hue=self.hue)
        x = augment.to_gray_simclr(x, rng, probability=self.gray)
        x = augment.gaussian_blur_simclr(x, rng, probability=self.blur, sigma=self.sigma)
        return common.to_uint8(x)


class SimCLR(Objective):
    """Contrast of the views of an image against all other images of the global batch.

    Args:
        backbone: Any; its summary vector is projected. One with batch statistics sees all views of all images together.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        temperature: tau of equation (1).
        projector_layers: 3 in the official code's default, 2 in the paper.
        projector_dim: Width of the output.
        hidden_dim: Width of the projector's hidden layers; officially that of the backbone's summary, which is the
            default.
        reduction: "mean" over the anchors (the textbook's), or "official_sum": the official code adds up the views'
            means, so its value is the number of views times as large.
        compute_dtype: Of the projector's products, see the backbone's. Logits are always float32.

    Raises:
        ConfigError: Unknown reduction, no layer, a temperature that is not positive, a batch of one image.
    """

    inputs: ClassVar = {"view": "uint8 B V H W C"}
    couples_batch = True
    groups = (Group(match=r".*/(bias|scale)", decay=False),)
    views = SimCLRViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        temperature: float = 0.1,
        projector_layers: int = 3,
        projector_dim: int = 128,
        hidden_dim: int | None = None,
        reduction: str = "mean",
        compute_dtype: str = "float32",
    ):
        if reduction not in REDUCTIONS:
            known = list(REDUCTIONS)
            raise ConfigError(f"unknown reduction {reduction!r}{suggest(reduction, known)}", why=f"known: {known}")
        if projector_layers < 1 or temperature <= 0:
            raise ConfigError(f"projector_layers {projector_layers} and temperature {temperature} must be positive")
        self.backbone, self.temperature, self.reduction = backbone, temperature, reduction
        # A batch norm follows every layer, the last one, too, so that none needs a bias.
        self.projector = MLPHead(
            (backbone.dim, *(hidden_dim or backbone.dim,) * (projector_layers - 1), projector_dim),
            rngs=rngs,
            norm="bn",
            output_norm=True,
            bias=False,
            kernel_init=lambda fan_in: initialisers.normal(0.01),
            compute_dtype=dtype_of(compute_dtype),
        )

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        view = batch["view"]
        count, number = view.shape[:2]
        if count < 2:
            raise ConfigError(
                "simclr cannot train on a batch of one image",
                why="its negatives are the other images of the batch",
                fix="a larger batch_size; the official one is 4096",
            )
        # Views of one image stay neighbours, so that a batch split over devices is merged without communication;
        # batch norm sees all views of all images whatever their order.
        merged = view.reshape(-1, *view.shape[2:])
        z = unit_vectors(self.projector(self.backbone(merged, ctx).summary, ctx))
        z = z.reshape(count, number, -1)
        value, cross = nt_xent(z, temperature=self.temperature)
        log_p = jax.nn.log_softmax(cross, axis=-1)
        positive = positive_cosine(z)
        metrics = {
            "contrastive_accuracy": jnp.mean(jnp.argmax(cross, axis=-1) == jnp.arange(count)),
            "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
            "positive_cosine": positive,
            "negative_cosine": negative_cosine(z, positive),
            "loss_minus_collapsed": value - math.log(count * number - 1),
            "monitor": feature_std(z[:, 0]),
        }
        return Loss(value=value * (number if self.reduction == "official_sum" else 1), metrics=metrics)

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """Counter A: backbone and projector forward and backward, and the similarities of all pairs of vectors."""
        shape = batch["view"].shape
        count, width = math.prod(shape[:2]), self.projector.widths[-1]
        one = self.backbone.flops(tuple(shape[2:4]), train=True) + 3 * self.projector.flops()
        return count * one + 3 * closed_form.linear(count, width, count)


def nt_xent(views: Float[Array, "N V E"], *, temperature: float) -> tuple[Float[Array, ""], Float[Array, "N N"]]:
    """The mean of equation (1) over all ordered pairs of views of an image, and the logits of first to second views."""
    count, number = views.shape[:2]
    z = views.reshape(count * number, -1)
    logits = jnp.einsum("ie,je->ij", z, z, precision="highest") / temperature
    itself = jnp.eye(count * number, dtype=bool)
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=-1)
    value = jnp.mean(total) - positive_cosine(views) / temperature
    return value, logits.reshape(count, number, count, number)[:, 0, :, 1]


def positive_cosine(z: Float[Array, "N V E"]) -> Float[Array, ""]:
    """Mean product of two different views of an image: |sum of views|^2 holds every pair, and each with itself."""
    count, number = z.shape[:2]
    pairs = jnp.sum(jnp.square(jnp.sum(z, axis=1))) - jnp.sum(jnp.square(z))
    return pairs / (count * number * (number - 1))


def negative_cosine(z: Float[Array, "N V E"], positive: Float[Array, ""]) -> Float[Array, ""]:
    """Mean cosine of views of different images, from the mean over all pairs and that over the positive ones."""
    count, number = z.shape[:2]
    every = mean_cosine(z.reshape(count * number, -1))
    return (every * (count * number - 1) - positive * (number - 1)) / ((count - 1) * number)
