"""What lies between operators and losses, with the model's own heads: which level, channel, class and start is used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles_detection as oracle
import oracles_detection_losses as slow
import oracles_detection_pixels as pixels
import pytest
from detectorlib import filled
from flax import nnx
from spendflops_plugins.detection.mask_rcnn import MaskRCNN
from spendflops_plugins.detection.regions import Regions, detect
from spendflops_plugins.detection.rpn import Proposals
from spendflops_plugins.resnet import ResNet
from spendflops_plugins.vit import ViT

from spendflops.contracts.types import DatasetInfo
from spendflops.testing.model import context

INFO = DatasetInfo(name="three", features={}, box_classes=("a", "b", "c"), box_counts=(4, 900, 1))
VIT = {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 1, "heads": 2, "class_token": False, "pooling": "mean"}
CTX = context()


def started(*, backbone=None, **options):
    backbone = backbone or ViT(rngs=nnx.Rngs(0), **VIT)
    small = {"channels": 4, "box_convs": 1, "box_hidden": 8, "mask_convs": 1, "regions": 6}
    return MaskRCNN(backbone, info=INFO, rngs=nnx.Rngs(1), **{**small, **options})


def made(**options):
    return filled(lambda: started(**options))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_boxes(rng, *shape, most=64):
    corner = rng.uniform(0, most - 6, (*shape, 2))
    sides = np.minimum(rng.uniform(4, most / 2, (*shape, 2)), most - corner)
    return np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)


def maps(rng, channels=4):
    return tuple(jnp.asarray(rng.normal(0, 1, (2, side, side, channels)), jnp.float32) for side in (16, 8, 4, 2, 1))


def test_regions_are_read_from_the_level_of_their_size(rng):
    model, sides = made(), (128, 64, 32, 16, 8)
    levels = tuple(jnp.asarray(rng.normal(0, 1, (1, side, side, 4)), jnp.float32) for side in sides)
    found = np.array([[8, 8, 100, 90], [4, 9, 160, 300], [10, 10, 400, 390], [0, 0, 512, 512]], np.float32)
    assert [oracle.level(box) for box in found] == [2, 3, 4, 5]
    given = jax.jit(lambda *maps: model._pooled(maps, found[None], 7))(*levels)[0]
    named = {number: np.asarray(x[0]) for number, x in enumerate(levels[:4], start=2)}
    for box, one in zip(found, given, strict=True):
        np.testing.assert_allclose(one, pixels.pooled(named, box, 7, 2), rtol=1e-4, atol=1e-5)


def test_each_class_has_its_own_box_and_mask(rng):
    model, levels = made(), maps(rng)
    truth, labels = random_boxes(rng, 2, 3), rng.integers(0, 3, (2, 3))
    regions = Regions(
        boxes=random_boxes(rng, 2, 6),
        valid=np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], bool),
        positive=np.array([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], bool),
        index=rng.integers(0, 3, (2, 6)),
    )
    masks = (rng.random((2, 3, 28, 28)) < 0.5).astype(np.uint8)
    batch = jax.tree.map(jnp.asarray, {"boxes": truth, "box_labels": labels, "masks": masks})
    given = jax.tree.map(jnp.asarray, regions)
    parts = jax.jit(lambda batch: model._box_losses(levels, given, batch, CTX))(batch)
    outputs = jax.jit(lambda boxes: model._box_outputs(levels, boxes, model.box_heads[0], CTX.scoped("box0")))
    logits, offsets = outputs(given.boxes)
    rows = np.arange(2)[:, None]
    own = np.where(regions.positive, labels[rows, regions.index], 3)
    wanted = slow.box_head_loss(
        np.asarray(logits).reshape(12, 4),
        np.asarray(offsets).reshape(12, 3, 4),
        regions.boxes.reshape(-1, 4),
        truth[rows, regions.index].reshape(-1, 4),
        own.ravel(),
        regions.valid.ravel(),
    )
    np.testing.assert_allclose([parts["classes"], parts["boxes"]], wanted, rtol=1e-6)

    # A quarter of six regions, rounded: two go through the mask head.
    assert model.positives == 2
    pooled = jax.jit(lambda boxes: model._pooled(levels, boxes, 14))(given.boxes[:, :2])
    every = all_masks(model.mask_head, pooled.reshape(-1, 14, 14, 4))
    classes = labels[rows, regions.index[:, :2]]
    seen = jax.jit(lambda *args: model._mask_logits(levels, *args, CTX))(given.boxes[:, :2], jnp.asarray(classes))
    np.testing.assert_allclose(
        seen.reshape(-1, 28, 28), every[np.arange(4), :, :, classes.ravel()], rtol=1e-4, atol=1e-5
    )
    # Masks of a whole box leave no pixel to a threshold.
    batch["masks"] = jnp.ones((2, 3, 28, 28), jnp.uint8)
    inside = np.zeros((4, 28, 28))
    for n, (box, of) in enumerate(
        zip(regions.boxes[:, :2].reshape(4, 4), truth[rows, regions.index[:, :2]].reshape(4, 4), strict=True)
    ):
        x, y = (box[a] + (np.arange(28) + 0.5) / 28 * (box[a + 2] - box[a]) for a in (0, 1))
        inside[n] = ((y >= of[1]) & (y < of[3]))[:, None] & ((x >= of[0]) & (x < of[2]))
    loss = jax.jit(lambda batch: model._mask_loss(levels, given, batch, CTX))(batch)
    wanted = slow.mask_head_loss(every, inside, classes.ravel(), regions.positive[:, :2].ravel())
    assert float(loss) == pytest.approx(wanted, rel=1e-6)


def all_masks(head, pooled):
    """The maps of all classes, of which He et al. 2017 read one."""
    seen = np.asarray(jax.nn.relu(head.deconv(head.convs(pooled, CTX))), np.float64)
    return np.einsum("rijc,ck->rijk", seen, np.asarray(head.classifier.kernel[...])) + head.classifier.bias[...]


def test_masks_are_computed_for_the_own_class_alone(rng):
    """Numbers and gradients are those of the maps of all classes; other classes have no gradient."""
    head = made().mask_head
    pooled, labels = jnp.asarray(rng.normal(0, 1, (5, 14, 14, 4)), jnp.float32), jnp.array([2, 0, 2, 2, 0])
    weights = rng.normal(0, 1, (5, 28, 28)).astype(np.float32)
    definition, state = nnx.split(head)

    def total(state):
        logits = nnx.merge(definition, state)(pooled, labels, CTX)
        return jnp.sum(weights * logits), logits

    (_, logits), gradient = jax.value_and_grad(total, has_aux=True)(state)
    wanted = all_masks(head, pooled)[np.arange(5), :, :, labels]
    assert np.linalg.norm(logits - wanted) < 1e-6 * np.linalg.norm(wanted)
    seen = np.asarray(jax.nn.relu(head.deconv(head.convs(pooled, CTX))), np.float64)
    own = np.eye(3)[labels]
    kernel, bias = np.einsum("rij,rijc,rk->ck", weights, seen, own), np.einsum("rij,rk->k", weights, own)
    for name, each in {"kernel": kernel, "bias": bias}.items():
        given = gradient["classifier"][name][...]
        assert np.linalg.norm(given - each) < 1e-6 * np.linalg.norm(each), name
    assert not np.any(gradient["classifier"]["kernel"][...][:, 1]) and np.any(gradient["deconv"]["kernel"][...])


def test_federated_losses_are_of_few_classes_and_scores_are_sigmoids(rng):
    model = made(classification="federated", federated_classes=2)
    labels, valid = jnp.array([[0, 3], [3, 3]]), jnp.ones((2, 2), bool)
    logits = jnp.asarray(rng.normal(0, 2, (2, 2, 4)), jnp.float32)
    loss = jax.jit(lambda key: model._class_loss(logits, labels, valid, key))
    found = {round(float(loss(jax.random.key(seed))), 4) for seed in range(200)}
    # The first image has a class and the background: nothing is drawn. The second draws one of three.
    given = np.asarray(logits)
    first = slow.federated_loss(given[0], [0, 3], [True] * 2, [0], background=3)
    others = [slow.federated_loss(given[1], [3, 3], [True] * 2, [drawn], background=3) for drawn in range(3)]
    assert sorted(found) == pytest.approx(sorted((first + other) / 2 for other in others), abs=1e-4)
    proposals = Proposals(jnp.asarray(random_boxes(rng, 1, 5)), jnp.ones((1, 5), bool))
    levels = jax.tree.map(lambda x: x[:1], maps(rng))
    outputs = jax.jit(lambda boxes: model._box_outputs(levels, boxes, model.box_heads[0], CTX.scoped("box0")))
    logits, _ = outputs(proposals.boxes)
    _, scores = jax.jit(lambda given: model._scored(levels, given, jnp.array([[64, 64]]), CTX))(proposals)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.asarray(logits)[..., :3])), rtol=1e-5)


def test_layers_start_as_in_detectron2():
    backbone = filled(lambda: ViT(rngs=nnx.Rngs(0), **VIT))
    model = started(backbone=backbone, channels=64, box_hidden=256)
    head = model.box_heads[0]
    stds = {
        "rpn conv": (model.rpn.convs[0], 0.01),
        "rpn objectness": (model.rpn.objectness, 0.01),
        "rpn offsets": (model.rpn.offsets, 0.01),
        "classes": (head.classes, 0.01),
        "offsets": (head.offsets, 0.001),
        "mask classes": (model.mask_head.classifier, 0.001),
        "box conv": (head.convs.convs[0], (2 / (9 * 64)) ** 0.5),
        "hidden": (head.fc, (1 / (49 * 64)) ** 0.5),
        "mask deconv": (model.mask_head.deconv, (2 / (4 * 64)) ** 0.5),
    }
    for name, (layer, std) in stds.items():
        kernel = np.asarray(layer.kernel[...])
        assert np.std(kernel) == pytest.approx(std, rel=4 / kernel.size**0.5), name
        assert layer.bias is None or not np.any(layer.bias[...]), name


def test_a_score_that_is_no_number_is_not_taken_for_no_detection():
    scores = jnp.array([[0.9, jnp.nan], [0.2, 0.1]])
    found = detect(jnp.ones((2, 1, 4)), scores, threshold=0.5, overlap=0.5, candidates=4, detections=3)
    assert np.isnan(found[1]).all()


def test_padding_of_the_canvas_has_no_detections(rng):
    model = made(threshold=0.0)
    image = jnp.asarray(rng.integers(0, 256, (1, 64, 64, 3)), jnp.uint8)
    ctx, want = dataclasses.replace(CTX, train=False), ("boxes", "box_scores", "box_labels")
    predict = jax.jit(lambda batch: model.predict(batch, ctx, want=want))
    whole, part = predict({"image": image}), predict({"image": image, "extent": jnp.array([[40, 30]])})
    limits = np.array([30, 40, 30, 40])
    assert (np.asarray(whole["boxes"]) > limits).any() and (part["box_scores"] > 0).any()
    assert not (np.asarray(part["boxes"])[np.asarray(part["box_scores"]) > 0] > limits).any()


@pytest.mark.slow
def test_residual_network_with_batch_norm_in_the_heads(rng):
    backbone = ResNet(rngs=nnx.Rngs(0), image_size=64, depths=(1, 1, 1, 1))
    model = started(backbone=backbone, head_norm="batch", rpn_convs=1)
    assert model.pyramid.strides == (4, 8, 16, 32, 64)
    batch = {
        "image": rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8),
        "boxes": random_boxes(rng, 2, 2),
        "box_labels": np.array([[0, 1], [2, 0]], np.int32),
        "valid": np.array([[True, True], [False, False]]),
        "masks": np.ones((2, 2, 14, 14), np.uint8),
        "extent": np.array([[64, 64], [40, 64]], np.int32),
        "dropped": np.array([[1, 0, 0], [0, 2, 4]], np.int32),
    }
    loss = model.loss(jax.tree.map(jnp.asarray, batch), None, CTX)
    assert np.isfinite(loss.value)
    dropped = ("objects_beyond_padding", "objects_out_of_sight", "crowds_left_out")
    assert [float(loss.metrics[name]) for name in dropped] == [0.5, 1.0, 2.0]
