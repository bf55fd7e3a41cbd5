"""Regions of a batch of images: which of them the heads are trained on, and which of them are detections."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spendflops.contracts.types import Batch, Context
from spendflops_plugins.detection import boxes
from spendflops_plugins.detection.matching import match
from spendflops_plugins.detection.nms import nms
from spendflops_plugins.detection.rpn import Proposals
from spendflops_plugins.detection.sampling import sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions with what is true of them.

    Attributes:
        boxes: [B R 4].
        valid: [B R], which of them there are.
        positive: [B R], which of them are an object's.
        index: [B R], the object with which each overlaps most.
    """

    boxes: Float[Array, "B R 4"]
    valid: Bool[Array, "B R"]
    positive: Bool[Array, "B R"]
    index: Int[Array, "B R"]


def sample_regions(
    proposals: Proposals, batch: Batch, ctx: Context, *, overlap: float, count: int, positives: int
) -> Regions:
    """Random regions of each image out of its proposals and its objects; those of objects come first.

    Args:
        proposals: Of each image.
        batch: With ``boxes`` and ``valid``.
        ctx: Its key is that of the draw.
        overlap: From which a region is an object's.
        count: R; all, where there are fewer.
        positives: Most of them that may be an object's.
    """

    def image(found: Array, there: Array, truth: Array, valid: Array, key: Array) -> Regions:
        every, there = jnp.concatenate([found, truth]), jnp.concatenate([there, valid])
        matched = match(every, truth, valid, low=overlap, high=overlap, low_quality=False)
        label, places = jnp.where(there, matched.label, -1), min(count, len(every))
        chosen = sample(label, key, count=places, positives=min(positives, places))
        at = chosen.index
        return Regions(boxes=every[at], valid=chosen.valid, positive=chosen.positive, index=matched.index[at])

    keys = jax.random.split(ctx.key, len(proposals.boxes))
    return ctx.each(image, *proposals, batch["boxes"], batch["valid"], keys)


def rematch(regions: Regions, moved: Float[Array, "B R 4"], batch: Batch, *, overlap: float) -> Regions:
    """The same regions, moved and matched anew, without a gradient; what left the image is no longer there.

    Args:
        regions: Before they were moved.
        moved: Their new boxes.
        batch: With ``boxes``, ``valid`` and ``extent``.
        overlap: From which a region is an object's.
    """

    def image(found: Array, there: Array, truth: Array, valid: Array, extent: Array) -> Regions:
        found = boxes.clip(found, extent)
        there = there & (boxes.area(found) > 0)
        matched = match(found, truth, valid, low=overlap, high=overlap, low_quality=False)
        return Regions(boxes=found, valid=there, positive=there & (matched.label > 0), index=matched.index)

    truth = (batch[name] for name in ("boxes", "valid", "extent"))
    return jax.vmap(image)(jax.lax.stop_gradient(moved), regions.valid, *truth)


def detect(
    moved: Float[Array, "P b 4"],
    scores: Float[Array, "P K"],
    *,
    threshold: float,
    overlap: float,
    candidates: int,
    detections: int,
) -> tuple[Float[Array, "D 4"], Float[Array, " D"], Int[Array, " D"]]:
    """The best (boxes, scores, labels) of one image, each class thinned out by itself; unused ones have score 0.

    Args:
        moved: The box of each region, one for all classes or one a class.
        scores: Of each region and class.
        threshold: Above which a pair of both counts.
        overlap: Above which it is suppressed by a better one of its class.
        candidates: Best pairs that are looked at.
        detections: D.
    """
    classes, broken = scores.shape[1], jnp.isnan(scores).any()
    scores = jnp.where(scores > threshold, scores, 0).reshape(-1)
    scores, pairs = jax.lax.top_k(scores, min(candidates, len(scores)))
    region, labels = pairs // classes, pairs % classes
    found = moved[region, jnp.minimum(labels, moved.shape[1] - 1)]
    keep = nms(found, scores, (scores > 0) & (boxes.area(found) > 0), threshold=overlap, labels=labels)
    scores, best = jax.lax.top_k(jnp.where(keep, scores, 0), min(detections, len(scores)))
    # A model that diverged has not found nothing: whoever scores it must see that.
    scores = jnp.where(broken, jnp.nan, scores)
    return found[best], scores, labels[best].astype(jnp.int32)


def taken(values: Array, index: Int[Array, "B R"]) -> Array:
    """``values[b, index[b, r]]``."""
    return jax.vmap(lambda x, i: x[i])(values, index)
