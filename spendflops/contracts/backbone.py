"""Backbones: images in, features out."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from spendflops.contracts.registry import API_VERSION
from spendflops.contracts.types import Context, Features, InputSpec, Tokens

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nnx.Module):
    """Turns images into :class:`Features`.

    ``__init__(self, *, rngs, <own options>)`` takes explicit keywords. An instance sets ``dim`` (width of tokens and
    summary), ``stride`` (pixels a token, a number a spatial axis), ``image_size`` (the height and width that it is
    built for), ``mean`` and ``std``.
    """

    api_version: ClassVar[int] = API_VERSION
    couples_batch: ClassVar[bool] = False
    """Whether an image's features depend on the other images of a training batch (BatchNorm)."""
    dim: int
    stride: tuple[int, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    hierarchy: tuple[tuple[int, int], ...] = ()
    """Width and stride of every level, where the map shrinks on the way; empty where all levels have the same."""

    @property
    def spec(self) -> InputSpec:
        """What this backbone expects of its images."""
        return InputSpec(size=self.image_size, stride=self.stride, mean=self.mean, std=self.std)

    def normalise(self, images: UInt8[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        """uint8 to standardised float32. The backbone owns it, so that no host and no loss can forget it."""
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (images.astype(jnp.float32) / 255.0 - mean) / std

    def flops(
        self, size: tuple[int, int] | None = None, *, kept: int | None = None, train: bool = False, images: int = 1
    ) -> int:
        """Counter A: FLOPs of one call, from a formula; see ``Objective.closed_form``.

        Args:
            size: Height and width in pixels; ``image_size`` by default.
            kept: Patch tokens that go through the encoder; all by default.
            train: Forward and backward to the parameters; else forward alone.
            images: Images of the call: they may share work (one resampled table of positions).

        Raises:
            NotImplementedError: There is no formula.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    def resampled(self, name: str, value: Array) -> Array | None:
        """A parameter of the same backbone that was built for another image size, as this one needs it.

        Called for parameters whose shapes differ, when a stage starts from another one; abstractly, too.

        Args:
            name: Path below the backbone, e.g. ``pos_embed``.
            value: What the other one has.

        Returns:
            Its counterpart, or None where there is no rule for it.
        """
        return None

    def finish(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """What follows the last block, a norm or nothing: turns tokens of ``levels`` into such as ``tokens`` are."""
        return x

    @abc.abstractmethod
    def __call__(self, images: Array, ctx: Context, *, levels: Sequence[int] = ()) -> Features:
        """uint8 [B H W C] (or already normalised float) to features; ``levels`` are block numbers to give as maps."""


class TokenBackbone(Backbone):
    """A backbone whose encoder takes any set of tokens: what masked-image methods need."""

    @abc.abstractmethod
    def embed(self, images: Array) -> Tokens:
        """uint8 [B H W C] (or already normalised float) to all patch tokens."""

    @abc.abstractmethod
    def encode(self, tokens: Tokens, ctx: Context, *, levels: Sequence[int] = ()) -> Features:
        """Any number of tokens to features."""

    def __call__(self, images: Array, ctx: Context, *, levels: Sequence[int] = ()) -> Features:
        return self.encode(self.embed(images), ctx, levels=levels)
