"""Barlow Twins.

Zbontar et al. 2021, "Barlow Twins: self-supervised learning via redundancy reduction" (arXiv 2103.03230). Embeddings of
two views, standardised over the batch, should agree (diagonal) and have independent components (off the diagonal):

    C_ij = sum_b zA_bi zB_bj / (sqrt(sum_b zA_bi^2) sqrt(sum_b zB_bj^2)),  z centred over the batch                  (2)
    loss = sum_i (1 - C_ii)^2 + lambda sum_i sum_{j != i} C_ij^2                                                     (1)

Deviation: the colour jitter's operators are SimCLR's, with the ranges of the paper's (which are BYOL's).
Deviation: blur is SimCLR's, with a kernel as wide as a tenth of the image.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group, Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample
from spendflops.parts import augment, images
from spendflops.parts.nn.linear import Linear, compute_dtype
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import feature_std

EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowViews(Views):
    """Two views of an image, drawn differently (appendix A, "Image augmentations").

    Attributes:
        scale: Range of the crop's area, as parts of the image's.
        flip: Probability of a horizontal flip.
        strength: Factor on the ranges of the colour jitter: 0.4 brightness and contrast, 0.2 saturation, 0.1 hue.
        jitter: Probability of the colour jitter.
        gray: Probability of grey.
        blur: Probability of a Gaussian blur, of the first and the second view.
        solarize: Probability of solarisation, likewise.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    strength: float = 1.0
    jitter: float = 0.8
    gray: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    solarize: tuple[float, float] = (0.0, 0.2)

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        pairs = zip(self.blur, self.solarize, strict=True)
        return {"view": np.stack([self._view(sample["image"], rng, spec, *pair) for pair in pairs])}

    def _view(self, image: Any, rng: np.random.Generator, spec: InputSpec, blur: float, solarize: float) -> np.ndarray:
        x = images.random_resized_crop(image, rng, size=spec.size, scale=self.scale, interpolation="bicubic")
        x = augment.to_float(images.random_flip(x, rng, probability=self.flip))
        x = augment.color_jitter_simclr(
            x,
            rng,
            strength=self.strength,
            probability=self.jitter,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
        )
        x = augment.to_gray_simclr(x, rng, probability=self.gray)
        x = augment.gaussian_blur_simclr(x, rng, probability=blur)
        x = augment.to_uint8(x)
        return inverted_above(x) if rng.random() < solarize else x


def inverted_above(x: UInt8[np.ndarray, "H W 3"], threshold: int = 128) -> UInt8[np.ndarray, "H W 3"]:
    """Solarisation: values from ``threshold`` on are inverted."""
    return np.where(x < threshold, x, 255 - x)


class BarlowTwins(Objective):
    """Two views whose embeddings have the identity as their cross-correlation matrix.

    Args:
        backbone: Any; its summary vector is projected.
        info: Not used: any images will do.
        rngs: Source of the initial values.
        redundancy: lambda of equation (1); 5e-3 in the paper, 5.1e-3 in the official code.
        projector_dim: Width of the projector's layers and of the embedding.
        projector_layers: Their number.
        compute_dtype: Of the projector's products, see the backbone's. The correlations are always float32.

    Raises:
        ConfigError: No layer, or a redundancy below 0.
    """

    inputs: ClassVar = {"view": "uint8 B V=2 H W C"}
    couples_batch = True
    groups = (Group(match=r".*/(bias|scale)", lr=0.024, decay=False),)  # officially 0.0048 beside 0.2
    views = BarlowViews
    kit_options: ClassVar = {"projector_dim": 32}

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        redundancy: float = 5e-3,
        projector_dim: int = 8192,
        projector_layers: int = 3,
        compute_dtype: str = "float32",
    ):
        if projector_layers < 1 or redundancy < 0:
            raise ConfigError(f"projector_layers {projector_layers}, redundancy {redundancy} must be positive")
        self.backbone, self.redundancy = backbone, redundancy
        widths = (backbone.dim,) + (projector_dim,) * projector_layers
        self.projector = Projector(widths, rngs=rngs, dtype_name=compute_dtype)

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        view = batch["view"]
        # Statistics of each view apart: the official code runs the network once a view.
        z = [self.projector(self.backbone(view[:, v], ctx.scoped(f"view{v}")).summary, ctx) for v in range(2)]
        correlation = cross_correlation(*z)
        metrics = {"agreement": jnp.mean(jnp.diagonal(correlation)), "monitor": feature_std(z[0])}
        return Loss(value=redundancy_loss(correlation, self.redundancy), metrics=metrics)


class Projector(nnx.Module):
    """Linear layers without bias; batch norm and ReLU between them.

    Args:
        widths: Of the input and of every layer's output.
        rngs: Source of the initial values.
        dtype_name: Compute dtype of the products.
    """

    def __init__(self, widths: tuple[int, ...], *, rngs: nnx.Rngs, dtype_name: str):
        dtype = compute_dtype(dtype_name)
        pairs = itertools.pairwise(widths)
        self.dense = nnx.List(Linear(i, o, rngs=rngs, bias=False, compute_dtype=dtype) for i, o in pairs)
        self.norm = nnx.List(BatchNorm(width) for width in widths[1:-1])

    def __call__(self, x: Float[Array, "B D"], ctx: Context) -> Float[Array, "B E"]:
        for dense, norm in zip(self.dense, self.norm, strict=False):
            x = jax.nn.relu(norm(dense(x), ctx))
        return self.dense[-1](x)


def cross_correlation(a: Float[Array, "B E"], b: Float[Array, "B E"]) -> Float[Array, "E E"]:
    """Equation (2); ``EPSILON`` is added to the variances, as batch norm does in the official code."""
    a, b = (standardised(z) for z in (a, b))
    return jnp.einsum("bi,bj->ij", a, b, precision="highest") / len(a)


def standardised(z: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Mean 0 and variance 1 over the batch."""
    centred = z - jnp.mean(z, axis=0)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=0) + EPSILON)


def redundancy_loss(correlation: Float[Array, "E E"], redundancy: float) -> Float[Array, ""]:
    """Equation (1)."""
    diagonal = jnp.diagonal(correlation)
    off = jnp.where(jnp.eye(len(correlation), dtype=bool), 0, correlation)
    return jnp.sum(jnp.square(1 - diagonal)) + redundancy * jnp.sum(jnp.square(off))
