"""Region proposal network: objectness and offsets of anchors (Ren et al. 2015, arXiv 1506.01497, section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.conv import Conv
from spendflops.parts.nn.linear import Linear
from spendflops_plugins.detection import boxes, losses
from spendflops_plugins.detection.anchors import anchors
from spendflops_plugins.detection.matching import match
from spendflops_plugins.detection.nms import nms
from spendflops_plugins.detection.sampling import sample_masks


class Proposals(NamedTuple):
    """Regions of each image, best first: boxes [B P 4], which of them there are [B P]."""

    boxes: Float[Array, "B P 4"]
    valid: Bool[Array, "B P"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How anchors are matched, sampled and selected.

    Attributes:
        samples: Anchors an image in the loss; half of them may be positive.
        low, high: Overlaps below which an anchor is negative, from which on positive.
        before: Anchors of a level that go into its non-maximum suppression, in training and else.
        after: Proposals of an image, in training and else.
        overlap: Above which a proposal is suppressed by a better one of its level.
        kind, beta: Of the regression, see :func:`losses.regression`.
        average: One of ``losses.AVERAGES``.
    """

    samples: int = 256
    low: float = 0.3
    high: float = 0.7
    before: tuple[int, int] = (2000, 1000)
    after: tuple[int, int] = (1000, 1000)
    overlap: float = 0.7
    kind: str = "l1"
    beta: float = 1 / 9
    average: str = "samples"


class RPN(nnx.Module):
    """3x3 convolutions with ReLU and two linear layers, shared by all levels.

    Args:
        channels: Of the maps.
        rngs: Source of the initial values.
        strides: Pixels a place, by level.
        convs: Number of 3x3 convolutions: 2 in ViTDet, 1 in Faster R-CNN.
        anchor_size: Side of an anchor over its level's stride: 8 makes 32 pixels at stride 4.
        ratios: Heights over widths.
        offset: Where in its cell an anchor is centred: 0 is the upper left corner (detectron2), 0.5 the middle.
        rules: See there.
        compute_dtype: Of the operands of the convolutions.
    """

    def __init__(
        self,
        channels: int,
        *,
        rngs: nnx.Rngs,
        strides: tuple[int, ...],
        convs: int,
        anchor_size: float,
        ratios: tuple[float, ...],
        offset: float,
        rules: Rules,
        compute_dtype=None,
    ):
        start = initialisers.normal(0.01)
        self.convs = nnx.List(
            Conv(channels, channels, rngs=rngs, kernel_init=start, compute_dtype=compute_dtype) for _ in range(convs)
        )
        self.objectness = Linear(channels, len(ratios), rngs=rngs, kernel_init=start)
        self.offsets = Linear(channels, 4 * len(ratios), rngs=rngs, kernel_init=start)
        self.strides, self.anchor_size, self.ratios = tuple(strides), anchor_size, tuple(ratios)
        self.offset, self.rules = offset, rules

    def __call__(self, maps: Sequence[Float[Array, "B h w C"]]) -> tuple[list[Array], list[Array]]:
        """Objectness logits [B h w A] and offsets [B h w A 4] of each level, flattened to [B n] and [B n 4]."""
        logits, deltas = [], []
        for x in maps:
            for conv in self.convs:
                x = jax.nn.relu(conv(x))
            logits.append(self.objectness(x).reshape(len(x), -1))
            deltas.append(self.offsets(x).reshape(len(x), -1, 4))
        return logits, deltas

    def anchors(self, grids: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The anchors of each level, [n 4], in the order of the outputs."""
        return [
            anchors(grid, stride, size=self.anchor_size * stride, ratios=self.ratios, offset=self.offset)
            for grid, stride in zip(grids, self.strides, strict=True)
        ]

    def loss(
        self,
        logits: Sequence[Array],
        deltas: Sequence[Array],
        places: Sequence[np.ndarray],
        truth: Float[Array, "B M 4"],
        valid: Bool[Array, "B M"],
        ctx: Context,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(objectness, regression) on sampled anchors.

        Args:
            logits, deltas: From ``__call__``.
            places: From :meth:`anchors`.
            truth, valid: The objects of each image.
            ctx: Its key is that of the sampling.
        """
        rules, every = self.rules, jnp.concatenate([jnp.asarray(level) for level in places])

        def targets(truth: Array, valid: Array, key: Array) -> tuple[Array, Array, Array]:
            found = match(every, truth, valid, low=rules.low, high=rules.high, low_quality=True)
            positive, negative = sample_masks(found.label, key, count=rules.samples, positives=rules.samples // 2)
            return boxes.encode(truth[found.index], every), positive, negative

        wanted, positive, negative = ctx.each(targets, truth, valid, jax.random.split(ctx.key, len(truth)))
        scores = losses.objectness(jnp.concatenate(logits, axis=1), positive, negative, samples=rules.samples)
        form = {"kind": rules.kind, "beta": rules.beta}
        if rules.average == "samples":
            count = rules.samples * len(truth)
            return scores, losses.offsets(jnp.concatenate(deltas, axis=1), wanted, positive, count=count, **form)
        ends = np.cumsum([len(level) for level in places])[:-1]
        levels = zip(deltas, *(jnp.split(x, ends, axis=1) for x in (wanted, positive)), strict=True)
        return scores, sum(losses.offsets(*level, count=None, **form) for level in levels)

    def proposals(
        self,
        logits: Sequence[Array],
        deltas: Sequence[Array],
        places: Sequence[np.ndarray],
        *,
        extents: Int[Array, "B 2"],
        ctx: Context,
    ) -> Proposals:
        """The best regions of each image, without a gradient: by level the best anchors, moved, clipped, thinned out.

        Args:
            logits, deltas: From ``__call__``.
            places: From :meth:`anchors`.
            extents: Height and width of each image on its canvas: beyond it there is nothing to find.
            ctx: In training the first number of ``Rules.before`` and ``Rules.after`` counts, else the second.
        """
        before, after = (pair[0 if ctx.train else 1] for pair in (self.rules.before, self.rules.after))

        def level(logits: Array, deltas: Array, places: Array, extent: Array) -> tuple[Array, Array]:
            scores, best = jax.lax.top_k(logits, min(before, len(logits)))
            moved = boxes.clip(boxes.decode(deltas[best], places[best]), extent)
            keep = nms(moved, scores, boxes.area(moved) > 0, threshold=self.rules.overlap)
            return moved, jnp.where(keep, scores, -jnp.inf)

        def image(logits: list[Array], deltas: list[Array], extent: Array) -> Proposals:
            found = [level(*each, jnp.asarray(p), extent) for *each, p in zip(logits, deltas, places, strict=True)]
            moved, scores = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            scores, best = jax.lax.top_k(scores, min(after, len(scores)))
            return Proposals(moved[best], scores > -jnp.inf)

        return ctx.each(image, *jax.lax.stop_gradient((list(logits), list(deltas))), extents)

    def flops(self, grids: Sequence[tuple[int, int]]) -> int:
        """Counter A: of one image, forward."""
        total = 0
        for grid in grids:
            for conv in self.convs:
                total += closed_form.convolution(grid, *conv.kernel.shape[2:], kernel=3)[0]
            for layer in (self.objectness, self.offsets):
                total += closed_form.linear(grid[0] * grid[1], *layer.kernel.shape)
        return total
