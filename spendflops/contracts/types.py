"""The data that crosses the interfaces.

Shape letters, everywhere: B batch, V views, H W C image, N tokens, P prefix tokens, K kept tokens, D width, L text
length, E embedding, M padded objects.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

Batch = Mapping[str, Array]


def _dataclass(*, static: tuple[str, ...] = ()):
    """A frozen keyword-only dataclass that is a JAX pytree; ``static`` fields are part of its structure."""

    def wrap(cls):
        cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        names = [f.name for f in dataclasses.fields(cls)]
        data = [n for n in names if n not in static]
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))

    return wrap


class Stat(nnx.Variable):
    """State without a gradient (DINO's centre, BatchNorm statistics): assigned in ``loss``, saved by the core."""


@_dataclass(static=("train", "mesh"))
class Context:
    """What a call knows about where it is. One argument, so that fields can be added without breaking plugins."""

    key: Array
    step: Int[Array, ""]
    steps: Int[Array, ""]
    train: bool = True
    mesh: Mesh | None = None

    @property
    def progress(self) -> Float[Array, ""]:
        """The part of the stage that is done, 0 at the first step, below 1 at the last."""
        return self.step / jnp.maximum(self.steps, 1)

    def fork(self, name: str) -> Array:
        """An independent random key for the purpose ``name``: the same name gives the same key."""
        return jax.random.fold_in(self.key, zlib.crc32(name.encode()))

    def scoped(self, name: str) -> Context:
        """A context whose keys are independent of this one's: for a second call of the same module."""
        return dataclasses.replace(self, key=self.fork(name))

    def each(self, function: Callable[..., Any], *batched: Any) -> Any:
        """``jax.vmap(function)(*batched)``, on each device for its own examples and without a word to the others.

        For what XLA does not split over the batch by itself: for ``lax.top_k`` it sends the whole batch to all devices,
        and after every round of a loop whose length depends on the data they ask each other whether to go on. A batch
        that the devices cannot share evenly is mapped by ``jax.vmap`` alone.

        Args:
            function: Of one example. It closes over constants alone.
            batched: Trees of arrays with the examples in front.
        """
        mapped = jax.vmap(function)
        if self.mesh is None or self.mesh.size == 1 or len(jax.tree.leaves(batched)[0]) % self.mesh.size:
            return mapped(*batched)
        spec = PartitionSpec(self.mesh.axis_names)
        return jax.shard_map(mapped, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)(*batched)


@_dataclass(static=("grid",))
class Tokens:
    """Patch embeddings before positions are added.

    Attributes:
        x: [B N D].
        pos: [B|1 N D], added by the encoder.
        prefix: [B|1 P D], class and register tokens, positions already added.
        grid: Token rows and columns, None once tokens were taken out.
        segments: [B N] ids; tokens attend within their segment only.
    """

    x: Float[Array, "B N D"]
    pos: Float[Array, "B N D"]
    prefix: Float[Array, "B P D"]
    grid: tuple[int, ...] | None = None
    segments: Int[Array, "B N"] | None = None

    def take(self, keep: Int[Array, "B K"]) -> Tokens:
        """Only the tokens ``keep``, in that order; positions are gathered with them. The prefix is never touched."""
        pos = jnp.broadcast_to(self.pos, self.x.shape)
        index = keep[..., None]
        return dataclasses.replace(
            self,
            x=jnp.take_along_axis(self.x, index, axis=1),
            pos=jnp.take_along_axis(pos, index, axis=1),
            grid=None,
            segments=None if self.segments is None else jnp.take_along_axis(self.segments, keep, axis=1),
        )

    def fill(self, mask: Bool[Array, "B N"], token: Float[Array, " D"]) -> Tokens:
        """``token`` in the place of every masked patch embedding; positions stay."""
        return dataclasses.replace(self, x=jnp.where(mask[..., None], token.astype(self.x.dtype), self.x))


@_dataclass(static=("grid", "stride"))
class FeatureMap:
    """One level of a feature pyramid: tokens [B N D] in row-major order of ``grid``, ``stride`` pixels apart.

    ``prefix`` [B P D] are the class and register tokens beside them, where there are any.
    """

    tokens: Float[Array, "B N D"]
    grid: tuple[int, ...]
    stride: int
    prefix: Float[Array, "B P D"] | None = None


@_dataclass(static=("grid",))
class Features:
    """What a backbone gives: patch tokens [B N D], prefix tokens [B P D], one summary vector an image [B D], levels."""

    tokens: Float[Array, "B N D"]
    prefix: Float[Array, "B P D"]
    summary: Float[Array, "B D"]
    grid: tuple[int, ...] | None = None
    levels: tuple[FeatureMap, ...] = ()


@_dataclass()
class Loss:
    """A float32 scalar and what is worth showing beside it (scalars, among them the collapse monitor ``monitor``)."""

    value: Float[Array, ""]
    metrics: Mapping[str, Array] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a model expects of its images: handed to views and preprocessing, stored with the weights.

    Attributes:
        size: Height and width in pixels.
        stride: Pixels a token.
        mean, std: Of the normalisation that the backbone does itself (hosts deliver uint8), on the scale 0..1.
        tokenizer: Name of the text tokenizer, for objectives with text.
        classes: Names of the classes of the data, for views that make captions from labels.
        label_names: Names of the values of the feature ``labels``, where these are others.
        box_classes: Names of the classes of boxes.
    """

    size: tuple[int, int]
    stride: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: str | None = None
    classes: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set without opening it: a plan for a set that is not on this disk needs no more.

    Attributes:
        name: Short name.
        features: Feature name -> specification, e.g. ``{"image": "uint8 H W C", "label": "int32"}``.
        classes: Names of the image classes, in label order, all different.
        class_names: The same in words, where ``classes`` are identifiers (wnids); words may be shared.
        label_names: Names of the values in the feature ``labels``, where these are others than ``classes``.
        mask_classes: Names of the pixel classes, in label order; 255 means ignored.
        box_classes: Names of the classes of boxes, in the order of ``box_labels``.
        box_counts: Images of the published training split that have a box of each of them, where they are known.
        box_class_ids: The ids of these classes in published files, where they are not 1, 2, ...
        sizes: Examples by split, where they are known.
        licence: SPDX name or a sentence.
        citation: Reference.
        homepage: Where it comes from.
    """

    name: str
    features: Mapping[str, str]
    classes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    box_counts: tuple[int, ...] = ()
    box_class_ids: tuple[int, ...] = ()
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""


class Image(Protocol):
    """An image that is not decoded yet."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, known without decoding."""

    def decode(self, box: tuple[int, int, int, int] | None = None, min_size: int | None = None) -> np.ndarray:
        """uint8 [H W 3] of the region ``box`` = (top, left, height, width); may be reduced down to ``min_size``."""

    def digest(self) -> str:
        """A hash of the stored bytes: equal images have equal digests."""


Sample = Mapping[str, Any]
