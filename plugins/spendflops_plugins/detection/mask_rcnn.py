"""Mask R-CNN on a feature pyramid (He et al. 2017, arXiv 1703.06870; Lin et al. 2017, arXiv 1612.03144).

On a plain vision transformer the pyramid is ViTDet's (Li et al. 2022, arXiv 2203.16527), on a residual network FPN's.
All shapes are fixed: proposals, sampled regions and detections are padded lists with ``valid`` beside them.

The stages of the box head are a class attribute: one here, three in :mod:`cascade_mask_rcnn`.

Deviation: RoIAlign takes 2 x 2 samples a bin (TensorFlow's implementations), not as many as the region has pixels
(detectron2's ``sampling_ratio`` 0), which no fixed shape can hold. In inference only the ``candidates`` best pairs of a
region and a class go into the last non-maximum suppression; detectron2 takes all above the threshold.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Loss
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.pooling import feature_std
from spendflops_plugins.detection import boxes, losses
from spendflops_plugins.detection.heads import NORMS, BoxHead, MaskHead
from spendflops_plugins.detection.masks import mask_targets
from spendflops_plugins.detection.pyramid import pyramid_for
from spendflops_plugins.detection.regions import Regions, detect, rematch, sample_regions, taken
from spendflops_plugins.detection.roi_align import levels_of, roi_align
from spendflops_plugins.detection.rpn import RPN, Proposals, Rules
from spendflops_plugins.detection.views import DetectionViews

CLASSIFICATIONS = ("softmax", "federated")
POOLED = (7, 14)
"""Sides of the maps that RoIAlign gives to the box head and to the mask head."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxStage:
    """A stage of the box head: from which overlap a region is an object's, and the weights of the offsets."""

    overlap: float
    weights: tuple[float, float, float, float]


class MaskRCNN(Objective):
    """Boxes, classes and masks of objects; trains the backbone with pyramid and heads.

    Args:
        backbone: A token backbone that keeps its grid, or one with levels at strides 4, 8, 16, 32.
        info: ``info.box_classes`` gives the number of classes.
        rngs: Source of the initial values.
        channels: Of pyramid and heads.
        rpn_convs: 3x3 convolutions of the proposal network: 2 in ViTDet, else 1.
        anchor_size: Side of an anchor over its level's stride.
        anchor_ratios: Heights over widths.
        anchor_offset: 0 centres anchors at the upper left corner of their cell (detectron2), 0.5 in the middle.
        rpn_samples: Anchors an image in the loss.
        rpn_before: Anchors of a level before its non-maximum suppression, in training and else.
        rpn_after: Proposals of an image, in training and else.
        rpn_regression: "l1", "smooth_l1" or "huber", of offsets that no weights multiply.
        rpn_beta: Where the parabola of the latter two ends.
        regions: Sampled an image, the objects themselves among the candidates.
        positive_fraction: Most of them that may be an object's. So many regions go through the mask head.
        average: What losses of boxes are divided by, "samples" or "coordinates", see ``losses.AVERAGES``.
        box_convs: Convolutions of the box head.
        box_hidden: Width of its hidden layer.
        box_regression: As ``rpn_regression``.
        box_beta: As ``rpn_beta``.
        mask_convs: Convolutions of the mask head.
        head_norm: "layer", "batch" or "none", after the heads' convolutions.
        classification: "softmax", or "federated": binary losses over a few classes an image, drawn by the square root
            of ``info.box_counts`` (LVIS).
        federated_classes: How many.
        pyramid_levels: Levels of a transformer's pyramid, as powers of two relative to its map; the coarsest is halved
            once more for proposals.
        final_norm: Whether the pyramid sees the backbone's tokens after its last norm. ViTDet has none.
        threshold: Score from which a detection counts.
        overlap: Above which a detection is suppressed by a better one of its class.
        detections: Most of an image.
        candidates: Pairs of a region and a class before that suppression.
        compute_dtype: Of the convolutions' products, see the backbone's.

    Raises:
        ConfigError: A data set without classes of boxes, an unknown option, "federated" without ``info.box_counts``.
    """

    inputs: ClassVar = {
        "image": "uint8 B H W C",
        "boxes": "float32 B M 4",
        "box_labels": "int32 B M",
        "valid": "bool B M",
        "masks": "uint8 B M S S",
        "extent": "int32 B 2",
        "dropped": "int32 B 3",
    }
    outputs = ("features", "boxes", "box_scores", "box_labels", "box_masks")
    groups = (Group(match=r".*/(\w*bias|scale|gamma_\d|\w*_token|pos_embed|relative/.*)", decay=False),)
    views = DetectionViews
    couples_batch = True  # Losses are divided by regions and by pixels of the foreground of the whole batch.
    stages: ClassVar[tuple[BoxStage, ...]] = (BoxStage(overlap=0.5, weights=(10.0, 10.0, 5.0, 5.0)),)
    agnostic: ClassVar[bool] = False
    """Whether one box serves all classes."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        channels: int = 256,
        rpn_convs: int = 2,
        anchor_size: float = 8.0,
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        anchor_offset: float = 0.0,
        rpn_samples: int = 256,
        rpn_before: tuple[int, int] = (2000, 1000),
        rpn_after: tuple[int, int] = (1000, 1000),
        rpn_regression: str = "l1",
        rpn_beta: float = 1 / 9,
        regions: int = 512,
        positive_fraction: float = 0.25,
        average: str = "samples",
        box_convs: int = 4,
        box_hidden: int = 1024,
        box_regression: str = "l1",
        box_beta: float = 1.0,
        mask_convs: int = 4,
        head_norm: str = "layer",
        classification: str = "softmax",
        federated_classes: int = 50,
        pyramid_levels: tuple[int, ...] = (2, 1, 0, -1),
        final_norm: bool = False,
        threshold: float = 0.05,
        overlap: float = 0.5,
        detections: int = 100,
        candidates: int = 2000,
        compute_dtype: str = "float32",
    ):
        classes, dtype = len(info.box_classes), dtype_of(compute_dtype)
        if not classes:
            raise ConfigError(f"data set {info.name!r} has no classes of boxes", why="detection needs labelled boxes")
        for option, value, known in (
            ("rpn_regression", rpn_regression, losses.REGRESSIONS),
            ("box_regression", box_regression, losses.REGRESSIONS),
            ("average", average, losses.AVERAGES),
            ("head_norm", head_norm, NORMS),
            ("classification", classification, CLASSIFICATIONS),
        ):
            if value not in known:
                why = f"known: {', '.join(known)}"
                raise ConfigError(f"unknown {option} {value!r}{suggest(value, known)}", why=why)
        for name, kind, beta in (("rpn", rpn_regression, rpn_beta), ("box", box_regression, box_beta)):
            if kind != "l1" and not beta > 0:
                raise ConfigError(
                    f"{name}_regression {kind!r} with {name}_beta {beta}",
                    why="the parabola needs a width",
                    fix=f"{name}_regression = 'l1' is what a width of 0 is for",
                )
        if not 0 <= positive_fraction <= 1:
            raise ConfigError(f"positive_fraction is {positive_fraction}", fix="a part of the regions, 0 to 1")
        if classification == "federated" and len(info.box_counts) != classes:
            raise ConfigError(
                f"data set {info.name!r} does not say how many images its classes have",
                why="the federated loss draws classes by these numbers",
                fix="use datasets.lvis with its annotations, or classification = 'softmax'",
            )
        self.backbone = backbone
        self.pyramid = pyramid_for(
            backbone, rngs=rngs, channels=channels, levels=pyramid_levels, final_norm=final_norm, compute_dtype=dtype
        )
        self.rpn = RPN(
            channels,
            rngs=rngs,
            strides=self.pyramid.strides,
            convs=rpn_convs,
            anchor_size=anchor_size,
            ratios=anchor_ratios,
            offset=anchor_offset,
            rules=Rules(
                samples=rpn_samples,
                before=tuple(rpn_before),
                after=tuple(rpn_after),
                kind=rpn_regression,
                beta=rpn_beta,
                average=average,
            ),
            compute_dtype=dtype,
        )
        self.box_heads = nnx.List(
            BoxHead(
                channels,
                rngs=rngs,
                classes=classes,
                side=POOLED[0],
                convs=box_convs,
                hidden=box_hidden,
                agnostic=self.agnostic,
                norm=head_norm,
                compute_dtype=dtype,
            )
            for _ in self.stages
        )
        self.mask_head = MaskHead(
            channels, rngs=rngs, classes=classes, side=POOLED[1], convs=mask_convs, norm=head_norm, compute_dtype=dtype
        )
        self.class_weights = tuple(count**0.5 for count in info.box_counts) if classification == "federated" else ()
        self.classes, self.federated_classes = classes, federated_classes
        self.regions, self.positives = regions, round(regions * positive_fraction)
        self.box_form, self.average = {"kind": box_regression, "beta": box_beta}, average
        self.selection = {
            "threshold": threshold,
            "overlap": overlap,
            "candidates": candidates,
            "detections": detections,
        }

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        features = self.backbone(batch["image"], ctx, levels=self.pyramid.wanted)
        maps = self.pyramid(features)
        proposed, places = self.rpn(maps), self.rpn.anchors([x.shape[1:3] for x in maps])
        objectness, offsets = self.rpn.loss(*proposed, places, batch["boxes"], batch["valid"], ctx.scoped("rpn"))
        proposals = self.rpn.proposals(*proposed, places, extents=batch["extent"], ctx=ctx)
        regions = sample_regions(
            proposals,
            batch,
            ctx.scoped("regions"),
            overlap=self.stages[0].overlap,
            count=self.regions,
            positives=self.positives,
        )
        parts = {"rpn_objectness": objectness, "rpn_boxes": offsets}
        parts |= self._box_losses(maps, regions, batch, ctx)
        parts["masks"] = self._mask_loss(maps, regions, batch, ctx)
        beyond, out_of_sight, crowds = jnp.mean(batch["dropped"].astype(jnp.float32), axis=0)
        return Loss(
            value=sum(parts.values()),
            metrics={
                **{f"loss_{name}": value for name, value in parts.items()},
                "positive_regions": jnp.mean(jnp.sum(regions.positive, axis=1).astype(jnp.float32)),
                "objects_beyond_padding": beyond,
                "objects_out_of_sight": out_of_sight,
                "crowds_left_out": crowds,
                "monitor": feature_std(features.summary),
            },
        )

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        features = self.backbone(batch["image"], ctx, levels=self.pyramid.wanted)
        outputs: dict[str, Any] = {"features": features}
        if not any(name.startswith("box") for name in want):
            return outputs
        maps, size = self.pyramid(features), batch["image"].shape[1:3]
        # Evaluators of detections say how much of the canvas is image; to others all of it is.
        extents = batch.get("extent", jnp.broadcast_to(jnp.asarray(size, jnp.int32), (len(batch["image"]), 2)))
        places = self.rpn.anchors([x.shape[1:3] for x in maps])
        proposals = self.rpn.proposals(*self.rpn(maps), places, extents=extents, ctx=ctx)
        best = functools.partial(detect, **self.selection)
        found, scores, labels = ctx.each(best, *self._scored(maps, proposals, extents, ctx))
        outputs |= {"boxes": found, "box_scores": scores, "box_labels": labels}
        if "box_masks" in want:
            outputs["box_masks"] = jax.nn.sigmoid(self._mask_logits(maps, found, labels, ctx))
        return outputs

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """See the contract. Matching, sampling, suppression and RoIAlign have no products."""
        count, *size, _ = batch["image"].shape
        grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in self.pyramid.strides]
        regions = min(self.regions, self._proposed(grids) + batch["boxes"].shape[1])
        heads = sum(head.flops() for head in self.box_heads) * regions + self.mask_head.flops() * self._masked(regions)
        trunk = self.backbone.flops(tuple(size), train=True, images=count)
        return trunk + count * (self.pyramid.flops(tuple(size), train=True) + 3 * (self.rpn.flops(grids) + heads))

    def _proposed(self, grids: Sequence[tuple[int, int]]) -> int:
        anchors = (grid[0] * grid[1] * len(self.rpn.ratios) for grid in grids)
        rules = self.rpn.rules
        return min(rules.after[0], sum(min(rules.before[0], n) for n in anchors))

    def _masked(self, regions: int) -> int:
        return min(self.positives, regions)

    def _box_losses(self, maps: tuple, regions: Regions, batch: Batch, ctx: Context) -> dict[str, Array]:
        """The losses of each stage; its moved regions, matched anew, are those of the next one."""
        parts = {}
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            logits, offsets = self._box_outputs(maps, regions.boxes, head, ctx.scoped(f"box{number}"))
            labels = jnp.where(regions.positive, taken(batch["box_labels"], regions.index), self.classes)
            targets = boxes.encode(taken(batch["boxes"], regions.index), regions.boxes, weights=stage.weights)
            # Of the background any will do.
            own = jnp.minimum(labels, offsets.shape[2] - 1)[..., None, None]
            own = jnp.take_along_axis(offsets, own, axis=2)[:, :, 0]
            name = str(number + 1) if number else ""
            parts[f"classes{name}"] = self._class_loss(logits, labels, regions.valid, ctx.fork(f"federated{number}"))
            count = jnp.sum(regions.valid) if self.average == "samples" else None
            parts[f"boxes{name}"] = losses.offsets(own, targets, regions.positive, count=count, **self.box_form)
            if number + 1 < len(self.stages):
                moved = boxes.decode(own, regions.boxes, weights=stage.weights)
                regions = rematch(regions, moved, batch, overlap=self.stages[number + 1].overlap)
        return parts

    def _class_loss(self, logits: Array, labels: Array, valid: Array, key: Array) -> Array:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (logits, labels, valid)]
        if not self.class_weights:
            return losses.softmax_classes(*flat)
        weights = jnp.asarray(self.class_weights, jnp.float32)

        def image(labels: Array, valid: Array, key: Array) -> Array:
            drawn = losses.federated(labels, valid, weights, key, count=self.federated_classes)
            return jnp.broadcast_to(drawn, (len(labels), self.classes))

        counted = jax.vmap(image)(labels, valid, jax.random.split(key, len(labels)))
        return losses.sigmoid_classes(*flat, counted.reshape(-1, self.classes))

    def _mask_loss(self, maps: tuple, regions: Regions, batch: Batch, ctx: Context) -> Array:
        """Of the first regions: positive ones come first."""
        regions = jax.tree.map(lambda x: x[:, : self._masked(x.shape[1])], regions)
        labels = taken(batch["box_labels"], regions.index)
        logits = self._mask_logits(maps, regions.boxes, labels, ctx)
        targets = jax.vmap(lambda *each: mask_targets(*each, size=2 * POOLED[1]))(
            batch["masks"], batch["boxes"], regions.boxes, regions.index
        )
        return losses.masks(*(x.reshape(-1, *x.shape[2:]) for x in (logits, targets, regions.positive)))

    def _mask_logits(self, maps: tuple, found: Array, labels: Array, ctx: Context) -> Float[Array, "B R S S"]:
        pooled = self._pooled(maps, found, POOLED[1])
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]), labels.reshape(-1), ctx.scoped("masks"))
        return logits.reshape(*labels.shape, *logits.shape[1:])

    def _box_outputs(self, maps: tuple, found: Array, head: BoxHead, ctx: Context) -> tuple[Array, Array]:
        pooled = self._pooled(maps, found, POOLED[0])
        share = 1 / len(self.stages)
        if share < 1:
            # Cai and Vasconcelos 2018, as in detectron2: together the stages move the trunk as one would.
            pooled = share * pooled + jax.lax.stop_gradient((1 - share) * pooled)
        outputs = head(pooled.reshape(-1, *pooled.shape[2:]), ctx)
        return tuple(x.reshape(*found.shape[:2], *x.shape[1:]) for x in outputs)

    def _pooled(self, maps: tuple, found: Array, side: int) -> Float[Array, "B R s s C"]:
        # The coarsest map is for proposals alone.
        maps, strides = maps[:-1], self.pyramid.strides[:-1]

        def image(maps: tuple, found: Array) -> Array:
            level = levels_of(
                found, lowest=0, highest=len(strides) - 1, canonical_size=14.0 * strides[0], canonical_level=0
            )
            return roi_align(maps, found, level, strides=strides, size=side)

        return jax.vmap(image)(maps, found)

    def _scored(self, maps: tuple, proposals: Proposals, extents: Array, ctx: Context) -> tuple[Array, Array]:
        """Boxes [B P 1|K 4] of the last stage; scores [B P K], means over the stages, 0 without a region."""
        found, scores = proposals.boxes, []
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            logits, offsets = self._box_outputs(maps, found, head, ctx.scoped(f"box{number}"))
            each = jax.nn.sigmoid(logits) if self.class_weights else jax.nn.softmax(logits)
            scores.append(each[..., : self.classes])
            moved = jax.vmap(boxes.clip)(boxes.decode(offsets, found[:, :, None], weights=stage.weights), extents)
            found = moved[:, :, 0]
        return moved, jnp.where(proposals.valid[..., None], sum(scores) / len(scores), 0)
