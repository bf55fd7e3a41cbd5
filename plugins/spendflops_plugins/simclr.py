"""SimCLR.

Chen et al. 2020, "A simple framework for contrastive learning of visual representations" (arXiv 2002.05709). Two views
of each of N images; for an anchor i with positive j, among all 2N unit vectors z:

    l(i, j) = -log( exp(z_i z_j / tau) / sum_{k != i} exp(z_i z_k / tau) )                                          (1)

Deviation: images are normalised by the backbone; the official code feeds [0, 1].
"""

from __future__ import annotations

import dataclasses
import itertools
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
from spendflops.parts import augment, images
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import feature_std

REDUCTIONS = {"mean": 1.0, "official_sum": 2.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRViews(Views):
    """Two views of an image, drawn alike: crop, flip, colour jitter, grey, blur (appendix A).

    Attributes:
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

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        return {"view": np.stack([self._view(sample["image"], rng, spec) for _ in range(2)])}

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
        x = augment.to_float(images.random_flip(x, rng, probability=self.flip))
        x = augment.color_jitter_simclr(x, rng, strength=self.strength, probability=self.jitter, hue=self.hue)
        x = augment.to_gray_simclr(x, rng, probability=self.gray)
        x = augment.gaussian_blur_simclr(x, rng, probability=self.blur, sigma=self.sigma)
        return augment.to_uint8(x)


class SimCLR(Objective):
    """Contrast of two views against all other images of the global batch.

    Args:
        backbone: Any; its summary vector is projected.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        temperature: tau of equation (1).
        projector_layers: 3 in the official code's default, 2 in the paper.
        projector_dim: Width of the output; hidden layers are as wide as the backbone's summary.
        reduction: "mean" over the 2N anchors, or "official_sum": the official code's value, twice that.
        compute_dtype: Of the projector's products, see the backbone's. Logits are always float32.

    Raises:
        ConfigError: Unknown reduction, no layer, a temperature that is not positive.
    """

    inputs: ClassVar = {"view": "uint8 B V=2 H W C"}
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
        reduction: str = "mean",
        compute_dtype: str = "float32",
    ):
        if reduction not in REDUCTIONS:
            known = list(REDUCTIONS)
            raise ConfigError(f"unknown reduction {reduction!r}{suggest(reduction, known)}", why=f"known: {known}")
        if projector_layers < 1 or temperature <= 0:
            raise ConfigError(f"projector_layers {projector_layers} and temperature {temperature} must be positive")
        self.backbone, self.temperature, self.reduction = backbone, temperature, reduction
        widths = (backbone.dim,) * projector_layers + (projector_dim,)
        self.projector = Projector(widths, rngs=rngs, dtype_name=compute_dtype)

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        view = batch["view"]
        # Views of one image stay neighbours, so that a batch split over devices is merged without communication;
        # batch norm sees both views of all images whatever their order.
        merged = view.reshape(-1, *view.shape[2:])
        z = unit_vectors(self.projector(self.backbone(merged, ctx).summary, ctx))
        z = z.reshape(*view.shape[:2], -1)
        value, cross = nt_xent(z[:, 0], z[:, 1], temperature=self.temperature)
        log_p = jax.nn.log_softmax(cross, axis=-1)
        metrics = {
            "contrastive_accuracy": jnp.mean(jnp.argmax(cross, axis=-1) == jnp.arange(len(cross))),
            "contrastive_entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
            "monitor": feature_std(z[:, 0]),
        }
        return Loss(value=REDUCTIONS[self.reduction] * value, metrics=metrics)


class Projector(nnx.Module):
    """Dense without bias, batch norm, ReLU; the last batch norm has no offset and no ReLU follows it.

    Args:
        widths: Of the input and of every layer's output.
        rngs: Source of the initial values.
        dtype_name: Compute dtype of the products.
    """

    def __init__(self, widths: tuple[int, ...], *, rngs: nnx.Rngs, dtype_name: str):
        dtype, start = compute_dtype(dtype_name), initialisers.normal(0.01)
        pairs = list(itertools.pairwise(widths))
        self.dense = nnx.List(
            Linear(i, o, rngs=rngs, bias=False, kernel_init=start, compute_dtype=dtype) for i, o in pairs
        )
        self.norm = nnx.List(BatchNorm(o, offset=n < len(pairs) - 1) for n, (_, o) in enumerate(pairs))

    def __call__(self, x: Float[Array, "B D"], ctx: Context) -> Float[Array, "B E"]:
        for index, (dense, norm) in enumerate(zip(self.dense, self.norm, strict=True)):
            x = norm(dense(x), ctx)
            x = jax.nn.relu(x) if index < len(self.dense) - 1 else x
        return x


def unit_vectors(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Unit vectors; 1e-12 bounds the squared norm from below, so that the gradient at zero is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def nt_xent(
    a: Float[Array, "N E"], b: Float[Array, "N E"], *, temperature: float
) -> tuple[Float[Array, ""], Float[Array, "N N"]]:
    """The mean of equation (1) over the 2N anchors, and the logits of every ``a`` against all ``b``."""
    count = len(a)
    z = jnp.concatenate([a, b])
    logits = jnp.einsum("ie,je->ij", z, z, precision="highest") / temperature
    itself = jnp.eye(2 * count, dtype=bool)
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, logits), axis=-1)
    positive = jnp.sum(a * b, axis=-1) / temperature
    return jnp.mean(total) - jnp.mean(positive), logits[:count, count:]
