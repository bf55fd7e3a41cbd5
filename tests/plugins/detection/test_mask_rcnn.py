"""Mask R-CNN and its cascade: the conformance kit, and every step between operators and losses against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles_detection as oracle
import oracles_detection_costs as costs
import oracles_detection_losses as slow
import pytest
from detectorlib import filled
from flax import nnx
from spendflops_plugins.detection.cascade_mask_rcnn import CascadeMaskRCNN
from spendflops_plugins.detection.mask_rcnn import MaskRCNN
from spendflops_plugins.detection.regions import Regions, detect, rematch, sample_regions
from spendflops_plugins.detection.rpn import Proposals
from spendflops_plugins.detection.views import DetectionViews
from spendflops_plugins.vit import ViT

from spendflops import testing
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import DatasetInfo
from spendflops.testing.model import context
from spendflops.testing.samples import KitData

SMALL = {
    "channels": 16,
    "rpn_convs": 1,
    "pyramid_levels": (0,),
    "rpn_samples": 16,
    "rpn_before": (32, 16),
    "rpn_after": (24, 16),
    "regions": 12,
    "box_convs": 1,
    "box_hidden": 32,
    "mask_convs": 1,
    "candidates": 32,
    "detections": 8,
    "anchor_size": 2.0,
    "threshold": 0.01,
}
VIEWS = DetectionViews(scale=(0.8, 1.25), objects=3, mask_size=14, crowd=False)
TINY = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 1, "heads": 2, "final_norm": False, "pooling": "mean"}
BACKBONE = functools.partial(ViT, **TINY, class_token=False)
INFO = KitData().info
CTX = context()
SIZE = (16, 16)
EXTENTS = np.array([[16, 16], [11, 14]], np.int32)
"""Of the second image a part of the canvas is padding."""

test_kit = testing.objective_tests("mask_rcnn", backbone=BACKBONE, views=VIEWS, **SMALL)
test_kit_of_the_cascade = pytest.mark.slow(
    testing.objective_tests("cascade_mask_rcnn", backbone=BACKBONE, views=VIEWS, **SMALL)
)


def made(cls=MaskRCNN, *, info=INFO, **options):
    return filled(lambda: cls(BACKBONE(rngs=nnx.Rngs(0)), info=info, rngs=nnx.Rngs(1), **{**SMALL, **options}))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_boxes(rng, *shape, most=16):
    corner = rng.uniform(0, most - 3, (*shape, 2))
    sides = np.minimum(rng.uniform(2, most / 2, (*shape, 2)), most - corner)
    return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


def doubled(tree):
    """With all that is a float in float64."""

    def each(x):
        x = np.asarray(x)
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    return jax.tree.map(each, tree)


def test_proposals_are_the_best_anchors_of_each_level_moved_clipped_and_thinned_out(rng):
    rpn = made().rpn
    grids = [(4, 4), (2, 2)]
    places = rpn.anchors(grids)
    logits = [rng.normal(0, 1, (2, len(p))).astype(np.float32) for p in places]
    deltas = [rng.normal(0, 0.4, (2, len(p), 4)).astype(np.float32) for p in places]
    best = jax.jit(lambda logits, deltas: rpn.proposals(logits, deltas, places, extents=EXTENTS, ctx=CTX))
    given = best(logits, deltas)
    for image in range(2):
        levels = [
            ([oracle.decode(d, a) for d, a in zip(ds[image], p, strict=True)], ls[image])
            for ls, ds, p in zip(logits, deltas, places, strict=True)
        ]
        wanted = oracle.proposals(levels, *EXTENTS[image].tolist(), before=32, after=24)
        count = int(given.valid[image].sum())
        assert count == len(wanted) and given.valid[image][:count].all()
        np.testing.assert_allclose(given.boxes[image][:count], [box for *_, box, _ in wanted], rtol=1e-5, atol=1e-5)
    # The heads do not train the proposals: what they are taught is where the regions lie, too.
    seen = jax.jit(jax.grad(lambda deltas: jnp.sum(best(logits, deltas).boxes)))(deltas)
    assert not any(np.any(level) for level in seen)


def test_loss_of_the_proposals_is_that_of_the_anchors_matched_one_by_one(rng):
    # With as many samples as there are anchors nothing is left to chance.
    model = made(rpn_samples=120, average="samples")
    places = doubled(model.rpn.anchors([(4, 4), (2, 2)]))
    every = np.concatenate(places)
    # Of the third image nobody annotated anything.
    truth, valid = doubled(random_boxes(rng, 3, 3)), np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    logits = [rng.normal(0, 1, (3, len(p))) for p in places]
    deltas = [rng.normal(0, 0.4, (3, len(p), 4)) for p in places]

    def loss(model):
        with jax.enable_x64(True):
            compute = jax.jit(lambda *given: model.rpn.loss(*given[:2], places, *given[2:], CTX))
            return compute(logits, deltas, truth, valid)

    given = loss(model)
    matched = [oracle.match(every, t, v, 0.3, 0.7, True) for t, v in zip(truth, valid, strict=True)]
    index, sampled = ([m[i] for m in matched] for i in (0, 1))
    flat = np.concatenate(logits, 1), np.concatenate(deltas, 1)
    wanted = slow.rpn_loss(*flat, every, truth, index, sampled, samples=120)
    np.testing.assert_allclose(given, wanted, rtol=1e-10)
    # TensorFlow's: the mean of each level over its coordinates, added up.
    model = made(rpn_samples=120, average="coordinates")
    _, given = loss(model)
    ends = len(places[0])
    wanted = 0
    for level, part in zip(deltas, (slice(None, ends), slice(ends, None)), strict=True):
        rows = [(b, a) for b in range(3) for a in range(*part.indices(len(every)))]
        targets = [oracle.encode(every[a], truth[b][index[b][a]]) for b, a in rows]
        positive = [sampled[b][a] == 1 for b, a in rows]
        wanted += slow.coordinate_mean(level.reshape(-1, 4), targets, positive, abs)
    np.testing.assert_allclose(given, wanted, rtol=1e-10)


def test_regions_are_proposals_and_objects_those_of_objects_first(rng):
    truth = np.array([[[0, 0, 8, 8], [8, 8, 16, 16]]], np.float32)
    found = np.array([[[0, 0, 8, 7], [1, 9, 7, 15], [8, 0, 16, 6], [0, 0, 4, 4]]], np.float32)
    there = np.array([[1, 1, 1, 0]], bool)
    batch = {"boxes": jnp.asarray(truth), "valid": jnp.asarray([[True, True]])}
    draw = jax.jit(functools.partial(sample_regions, overlap=0.5, count=6, positives=2))
    drawn = set()
    for seed in range(20):
        regions = draw(Proposals(found, there), batch, context(key=seed))
        np.testing.assert_array_equal(regions.positive[0], [1, 1, 0, 0, 0, 0])
        # The invalid proposal and the third positive have no place.
        np.testing.assert_array_equal(regions.valid[0], [1, 1, 1, 1, 0, 0])
        drawn |= {tuple(box) for box in np.asarray(regions.boxes[0, :2]).tolist()}
        objects = np.asarray(truth[0])[np.asarray(regions.index[0, :2])]
        assert all(oracle.iou(a, b) >= 0.5 for a, b in zip(regions.boxes[0, :2], objects, strict=True))
    assert drawn == {(0, 0, 8, 7), (0, 0, 8, 8), (8, 8, 16, 16)}
    # Without an object all are background.
    regions = draw(Proposals(found, there), batch | {"valid": jnp.zeros((1, 2), bool)}, CTX)
    assert regions.valid[0].tolist() == [True] * 3 + [False] * 3 and not regions.positive.any()


@pytest.mark.parametrize("agnostic", [False, True])
def test_detections_are_those_of_the_loop(rng, agnostic):
    regions, classes = 12, 3
    scores = rng.dirichlet(np.ones(classes + 1), regions).astype(np.float32)
    found = random_boxes(rng, regions, 1 if agnostic else classes)
    given = detect(
        jnp.asarray(found), jnp.asarray(scores[:, :-1]), threshold=0.2, overlap=0.3, candidates=36, detections=30
    )
    boxes = found[:, 0] if agnostic else found
    wanted = oracle.detections(scores[:, :-1], boxes, *SIZE, minimum=0.2, threshold=0.3, most=30)
    count = int((given[1] > 0).sum())
    assert count == len(wanted) and 0 < count < 30
    np.testing.assert_allclose(given[0][:count], [box for *_, box, _ in wanted], rtol=1e-6)
    np.testing.assert_allclose(given[1][:count], [score for *_, score in wanted], rtol=1e-6)
    np.testing.assert_array_equal(given[2][:count], [label for _, label, *_ in wanted])


class Given(CascadeMaskRCNN):
    """A cascade whose heads say what they are told."""

    def told(self, logits, deltas):
        self.says, self.asked = iter(zip(logits, deltas, strict=True)), []
        return self

    def _box_outputs(self, maps, found, head, ctx):
        self.asked.append(found)
        logits, deltas = next(self.says)
        return logits, deltas[:, :, None]


def test_cascade_is_that_of_the_loop(rng):
    classes, truth = len(INFO.box_classes), random_boxes(rng, 2, 3)
    found = truth[:, [0, 1, 2, 0, 1, 2, 0, 1]] + rng.normal(0, 0.6, (2, 8, 4)).astype(np.float32)
    logits = rng.normal(0, 1, (3, 2, 8, classes + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (3, 2, 8, 4)).astype(np.float32)
    labels, there = rng.integers(0, classes, (2, 3)), np.array([[1, 1, 1], [1, 1, 0]], bool)
    valid = np.ones((2, 8), bool)
    valid[1, 6:] = False
    matched = [oracle.match(b, t, v, 0.5, 0.5, False) for b, t, v in zip(found, truth, there, strict=True)]
    index, label = (np.array([m[i] for m in matched]) for i in (0, 1))
    regions = Regions(boxes=found, valid=valid, positive=(label == 1) & valid, index=index)
    batch = {"boxes": truth, "box_labels": labels, "valid": there, "extent": np.array([SIZE, SIZE])}
    batch = jax.tree.map(jnp.asarray, batch)
    model = made(Given).told(*doubled([logits, deltas]))
    with jax.enable_x64(True):
        parts = model._box_losses(None, doubled(regions), doubled(batch), CTX)
    _, wanted, passed = slow.cascade(logits, deltas, found, valid, truth, labels, there, size=SIZE)
    for number, (entropy, box) in enumerate(wanted):
        name = str(number + 1) if number else ""
        np.testing.assert_allclose([parts[f"classes{name}"], parts[f"boxes{name}"]], [entropy, box], rtol=1e-10)
    for asked, boxes in zip(model.asked, passed, strict=False):
        np.testing.assert_allclose(asked, boxes, rtol=1e-10)
    # No stage trains the one before it, whose boxes its targets are relative to.
    moved = jax.grad(lambda boxes: jnp.sum(rematch(regions, boxes, batch, overlap=0.6).boxes))(jnp.asarray(found))
    assert not np.any(moved)
    # In inference scores are means over the stages, boxes the last one's.
    model.told(jnp.asarray(logits), jnp.asarray(deltas))
    moved, scores = model._scored(None, Proposals(jnp.asarray(found), jnp.asarray(valid)), batch["extent"], CTX)
    for image in range(2):
        mean = np.array(slow.cascade_scores(logits[:, image]))[:, :-1] * valid[image][:, None]
        np.testing.assert_allclose(scores[image], mean, rtol=1e-5)
    np.testing.assert_allclose(moved[:, :, 0], passed[-1], rtol=1e-5, atol=1e-5)


def test_stages_share_the_gradient_of_the_maps(rng):
    found = jnp.asarray(random_boxes(rng, 1, 4))
    maps = tuple(jnp.asarray(rng.normal(0, 1, (1, side, side, 16)), jnp.float32) for side in (4, 2))

    def gradient(model):
        def total(maps):
            logits, offsets = model._box_outputs(maps, found, model.box_heads[0], CTX)
            return jnp.sum(logits**2) + jnp.sum(offsets)

        return jax.jit(jax.grad(total))(maps)[0]

    cascade = made(CascadeMaskRCNN)
    whole = made(CascadeMaskRCNN)
    whole.stages = cascade.stages[:1]
    np.testing.assert_allclose(3 * gradient(cascade), gradient(whole), rtol=1e-4, atol=1e-6)


def test_forward_costs_are_those_of_the_published_sizes():
    info = DatasetInfo(name="eighty", features={}, box_classes=tuple(map(str, range(80))))
    model = nnx.eval_shape(lambda: MaskRCNN(BACKBONE(rngs=nnx.Rngs(0)), info=info, rngs=nnx.Rngs(0)))
    shapes = [(256, 256), (128, 128), (64, 64), (32, 32), (16, 16)]
    assert model.rpn.flops(shapes) == 2 * costs.rpn(shapes, padding=False)
    assert 512 * model.box_heads[0].flops() == 2 * costs.box_head(512, 80, padding=False)
    # Only the map of a region's own class is computed, of 80.
    assert 128 * model.mask_head.flops() == 2 * costs.mask_head(128, 1, padding=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rpn_regression": "smooth_l1", "rpn_beta": 0.0}, "width of 0"),
        ({"positive_fraction": 1.5}, "positive_fraction is 1.5"),
        ({"info": DatasetInfo(name="plain", features={})}, "no classes of boxes"),
        ({"head_norm": "lay"}, "unknown head_norm"),
        ({"average": "sample"}, "did you mean"),
        ({"classification": "federated", "info": DatasetInfo(name="x", features={}, box_classes=("a",))}, "how many"),
    ],
)
def test_options_that_cannot_be_meant(options, said):
    with pytest.raises(ConfigError, match=said):
        made(**options)
