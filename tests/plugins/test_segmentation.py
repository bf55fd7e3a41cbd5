"""Segmentation objective: downstream T2 and T7, slow oracles of head and loss, views."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, count, flatten, loss_of, made, objective, sample, tiny
from spendflops_plugins.resnet import ResNet
from spendflops_plugins.segmentation import FCNHead, Segmentation, SegmentationViews
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Stage
from spendflops.parts import closed_form, images
from spendflops.parts.augment.byol import color_jitter_byol
from spendflops.parts.images import ArrayImage
from spendflops.parts.pixel_loss import pixel_cross_entropy
from spendflops.testing.samples import KitData

HEAD = {"channels": 8, "convs": 2, "concat": False, "norm": True, "dropout": 0.0, "dtype_name": "float32"}

test_kit = spendflops.testing.objective_tests("segmentation", channels=8)


def test_t2_cross_entropy_with_ignored_pixels():
    labels = jnp.asarray([[[0, 1], [255, 255]]])
    for rule, expected in (("valid", 0.693147), ("all", 0.346574)):
        value = pixel_cross_entropy(jnp.zeros((1, 2, 2, 2)), labels, labels != 255, normalise_by=rule)
        assert float(value) == pytest.approx(expected, abs=1e-6)
    ignored = jnp.full((1, 2, 2), 255)
    assert float(pixel_cross_entropy(jnp.zeros((1, 2, 2, 2)), ignored, ignored != 255, normalise_by="valid")) == 0


@pytest.mark.parametrize("rule", ["valid", "all"])
def test_cross_entropy_equals_the_loop(rule):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(2, 4, 5, 6)), rng.integers(0, 6, (2, 4, 5))
    labels[rng.random(labels.shape) < 0.3] = 255
    total = sum(
        np.log(np.exp(logits[i]).sum()) - logits[(*i, labels[i])] for i in np.ndindex(labels.shape) if labels[i] != 255
    )
    expected = total / (np.sum(labels != 255) if rule == "valid" else labels.size)
    with jax.enable_x64(True):
        value = pixel_cross_entropy(
            jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(labels != 255), normalise_by=rule
        )
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_labels_beyond_the_classes_are_not_clipped():
    labels = jnp.full((1, 1, 1), 7)
    assert np.isnan(pixel_cross_entropy(jnp.zeros((1, 1, 1, 5)), labels, labels != 255, normalise_by="valid"))


def test_head_parameter_counts():
    """downstream 1.3: 2.40 M for 768 -> 150 classes with two convolutions; concatenation adds 2.36 M."""

    def build(concat):
        options = HEAD | {"channels": 256, "concat": concat}
        return count(lambda: FCNHead(768, 150, rngs=nnx.Rngs(0), **options))

    assert build(False) == 9 * 768 * 256 + 9 * 256 * 256 + 4 * 256 + 256 * 150 + 150 == 2_398_870
    assert build(True) - build(False) == 9 * (768 + 256) * 256 + 2 * 256


@pytest.mark.parametrize("concat,norm,convs", [(False, True, 2), (True, True, 1), (True, False, 2), (False, False, 1)])
def test_head_equals_the_loop(concat, norm, convs):
    rng = np.random.default_rng(0)
    options = HEAD | {"concat": concat, "norm": norm, "convs": convs}
    head = made(lambda: FCNHead(3, 4, rngs=nnx.Rngs(0), **options))
    x = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    result = apply(head, lambda h, x: h(x, context(train=False)), x)
    y, given = np.asarray(x, np.float64), np.asarray(x, np.float64)
    for index, conv in enumerate(head.convs):
        if concat and index == len(head.convs) - 1:
            y = np.concatenate([given, y], axis=-1)
        padded, kernel = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(conv.kernel[...], np.float64)
        out = np.zeros((2, 4, 5, 8))
        for i in range(4):
            for j in range(5):
                out[:, i, j] = np.einsum("bhwi,hwio->bo", padded[:, i : i + 3, j : j + 3], kernel)
        if norm:  # running mean 0 and variance 1
            layer = head.norms[index]
            out = out / np.sqrt(1 + 1e-5) * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])
        else:
            out = out + np.asarray(conv.bias[...])
        y = np.maximum(out, 0)
    expected = y @ np.asarray(head.classifier.kernel[...], np.float64) + np.asarray(head.classifier.bias[...])
    assert len(head.convs) == convs + concat
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


def test_dropout_drops_whole_channels_in_training_only():
    options = HEAD | {"norm": False, "dropout": 0.5, "channels": 64}
    head = made(lambda: FCNHead(3, 4, rngs=nnx.Rngs(0), **options))
    head.classifier = lambda x: x
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    kept, whole = (np.asarray(jax.jit(head)(x, context(train=train))) for train in (True, False))
    dropped = np.all(kept == 0, axis=(1, 2))
    assert 0.3 < dropped.mean() < 0.7
    np.testing.assert_allclose(kept, np.where(dropped[:, None, None], 0, 2 * whole), rtol=1e-5)


def test_loss_is_of_the_upsampled_logits():
    module = objective(Segmentation, channels=8, dropout=0.0)
    batch = batch_of(SegmentationViews(scales=(1.0,)), module.backbone.spec)
    batch["mask"][0, :4] = 255

    def upsampled(module):
        features = module.backbone(batch["image"], context())
        logits = module.head(features.tokens.reshape(4, 4, 4, -1), context().scoped("head"))
        return jax.image.resize(logits, (4, 32, 32, 5), "bilinear")

    value, metrics, after, logits = loss_of(module, batch, upsampled)
    logits, labels = np.asarray(logits, np.float64), batch["mask"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = labels != 255
    picked = np.take_along_axis(log_p, np.where(valid, labels, 0)[..., None].astype(int), -1)[..., 0]
    assert float(value) == pytest.approx(-picked[valid].mean(), rel=1e-4)
    accuracy = (logits.argmax(-1) == labels)[valid].mean()
    assert float(metrics["pixel_accuracy"]) == pytest.approx(accuracy, abs=2e-3)
    assert len(flatten(after)) == 4


def test_predict_gives_logits_on_the_tokens_grid():
    module = objective(Segmentation, channels=8)
    batch = {"image": np.zeros((2, 32, 48, 3), np.uint8)}
    shapes = jax.eval_shape(lambda: module.predict(batch, context(train=False), want=("seg_logits",)))
    assert shapes["seg_logits"].shape == (2, 4, 6, 5)
    assert set(jax.eval_shape(lambda: module.predict(batch, context(), want=("features",)))) == {"features"}


def test_refusals():
    with pytest.raises(ConfigError, match="no pixel classes"):
        objective(Segmentation, info=DatasetInfo(name="web", features={}, classes=INFO.classes))
    with pytest.raises(ConfigError, match="batch"):
        objective(Segmentation, norm="layer")
    with pytest.raises(ConfigError, match="valid"):
        objective(Segmentation, normalise_by="valids")


def coded(size):
    """An image whose red channel is its label map."""
    mask = np.random.default_rng(0).integers(0, 200, size, dtype=np.uint8)
    return {"image": ArrayImage(np.repeat(mask[..., None], 3, axis=-1)), "mask": mask}


@pytest.mark.parametrize("size", [(32, 32), (50, 70), (20, 90)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_views_move_image_and_mask_alike(size, flip):
    spec = tiny().spec
    entry = SegmentationViews(scales=(1.0,), flip=flip)(coded(size), np.random.default_rng(1), spec)
    image, mask = entry["image"], entry["mask"]
    assert image.shape == (32, 32, 3) and mask.shape == (32, 32) and mask.dtype == np.uint8
    inside = mask != 255
    np.testing.assert_array_equal(image[..., 0][inside], mask[inside])
    assert inside.sum() == min(size[0], 32) * min(size[1], 32)
    np.testing.assert_array_equal(image[~inside], np.tile(np.rint(255 * np.asarray(spec.mean)), ((~inside).sum(), 1)))


@pytest.mark.parametrize("factor,area", [(0.5, 16 * 16), (2.0, 32 * 32)])
def test_views_scale_the_stored_size(factor, area):
    entry = SegmentationViews(scales=(factor,), flip=0.0)(coded((32, 32)), np.random.default_rng(1), tiny().spec)
    assert (entry["mask"] != 255).sum() == area
    if factor == 2.0:
        # Nearest: each stored label becomes two by two pixels.
        np.testing.assert_array_equal(entry["mask"][::2, ::2], entry["mask"][1::2, 1::2])


def test_views_can_fit_the_shorter_side_first():
    entry = SegmentationViews(scales=(1.0,), fit=True)(coded((64, 96)), np.random.default_rng(1), tiny().spec)
    assert np.all(entry["mask"] != 255)


def test_t7_nearest_takes_the_pixel_under_the_centre():
    assert images.resize(np.arange(5, dtype=np.uint8)[None], (1, 3), "nearest")[0].tolist() == [0, 2, 4]


def test_masks_of_another_size_are_an_error():
    with pytest.raises(DataError, match="mask"):
        SegmentationViews()(sample() | {"mask": np.zeros((3, 3), np.uint8)}, np.random.default_rng(0), tiny().spec)


COLOUR = {"scales": (1.0,), "flip": 0.0}


def test_colours_change_in_the_image_alone_and_not_in_the_padding():
    spec, given = tiny().spec, coded((20, 24))
    plain = SegmentationViews(**COLOUR)(given, np.random.default_rng(1), spec)
    changed = SegmentationViews(**COLOUR, color=1.0)(given, np.random.default_rng(1), spec)
    np.testing.assert_array_equal(plain["mask"], changed["mask"])
    inside = plain["mask"] != 255
    np.testing.assert_array_equal(plain["image"][~inside], changed["image"][~inside])
    assert np.abs(plain["image"][inside].astype(int) - changed["image"][inside]).max() > 2
    # The operators are BYOL's, on the crop, after the draws of place and flip.
    rng = np.random.default_rng(1)
    rng.integers(1), rng.integers(1), rng.integers(1), rng.random(), rng.random()
    strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.1)
    expected = color_jitter_byol(given["image"].decode(), rng, probability=1.0, **strengths)
    np.testing.assert_array_equal(changed["image"][:20, :24], expected)


@pytest.mark.parametrize("jitter,grey,parts", [(1.0, 0.0, (0.5, 0.0)), (0.8, 0.2, (0.4, 0.1))])
def test_both_readings_of_the_papers_probabilities(jitter, grey, parts):
    views, spec = SegmentationViews(**COLOUR, color=0.5, jitter=jitter, grey=grey), tiny().spec
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[:16], colour[16:] = (200, 100, 50), (60, 90, 180)
    given = {"image": ArrayImage(colour), "mask": np.zeros((32, 32), np.uint8)}
    made = [views(given, np.random.default_rng(i), spec)["image"] for i in range(600)]
    greyed = [np.ptp(image.astype(int), axis=-1).max() == 0 for image in made]
    kept = [np.array_equal(image, colour) for image in made]
    assert np.mean(greyed) == pytest.approx(parts[1], abs=0.03)
    # Untouched: neither jitter nor grey, given that colours change at all.
    assert np.mean(kept) == pytest.approx(0.5 + 0.5 * (1 - jitter) * (1 - grey), abs=0.05)


@pytest.mark.parametrize("norm", [True, False])
def test_a_linear_head_is_a_product(norm):
    options = HEAD | {"convs": 0, "norm": norm}
    head = made(lambda: FCNHead(3, 4, rngs=nnx.Rngs(0), **options))
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    result = apply(head, lambda h, x: h(x, context(train=False)), x)
    y = np.asarray(x, np.float64)
    if norm:
        y = y / np.sqrt(1 + 1e-5) * np.asarray(head.norm.scale[...]) + np.asarray(head.norm.bias[...])
    expected = y @ np.asarray(head.classifier.kernel[...], np.float64) + np.asarray(head.classifier.bias[...])
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert count(lambda: FCNHead(768, 150, rngs=nnx.Rngs(0), **options)) == 768 * 150 + 150 + 2 * 768 * norm


def test_head_starts_as_in_mmsegmentation():
    """downstream 1.3: classifier N(0, 0.01^2) without bias; convolutions as mmcv starts them; norms of PyTorch."""
    head = FCNHead(64, 150, rngs=nnx.Rngs(0), **HEAD | {"channels": 128, "concat": True})
    assert np.std(head.classifier.kernel[...]) == pytest.approx(0.01, rel=0.03) and not np.any(
        head.classifier.bias[...]
    )
    for conv in head.convs:
        assert conv.bias is None and np.std(conv.kernel[...]) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert {(norm.momentum, norm.eps) for norm in head.norms} == {(0.9, 1e-5)}


def test_the_head_can_see_the_tokens_before_the_last_norm():
    before, after = (objective(Segmentation, channels=8, dropout=0.0, final_norm=norm) for norm in (False, True))
    images = batch_of(SegmentationViews(), before.backbone.spec, size=1)["image"]

    def both(module, images):
        logits = module.predict({"image": images}, context(train=False), want=("seg_logits",))["seg_logits"]
        features = module.backbone(images, context(train=False), levels=(-1,))
        level = features.levels[0].tokens if module.levels else features.tokens
        return logits, module.head(level.reshape(1, 4, 4, -1), context(train=False))

    (a, expected_a), (b, expected_b) = apply(before, both, images), apply(after, both, images)
    np.testing.assert_allclose(a, expected_a, rtol=1e-5)
    np.testing.assert_allclose(b, expected_b, rtol=1e-5)
    assert not np.allclose(a, b, rtol=1e-2)


def stage(frozen, **options):
    """A stage on a small ResNet, whose batch norms show whether it runs in evaluation."""
    return Stage(
        objective=functools.partial(Segmentation, frozen=frozen, channels=8, **options),
        backbone=functools.partial(ResNet, image_size=32, depths=(1,), width=0.125),
        dataset=KitData(),
        optimizer=adamw(lr=1e-2, weight_decay=0.1),
        batch_size=8,
    )


def test_a_frozen_backbone_does_not_change_and_has_no_backward_work():
    frozen, whole = (build_stage(stage(f, convs=0, norm="batch")) for f in (True, False))
    # Backward: both operands of the classifier (a norm is before it), and the upsampling's product.
    head, upsampling = frozen.definition.example.head.flops((8, 8)), closed_form.resize((8, 8), (32, 32), 4)
    assert frozen.train.cost().phases["backward"] == 8 * (2 * head + upsampling)
    assert whole.train.cost().phases["backward"] > 8 * whole.definition.example.backbone.flops()
    rng = np.random.default_rng(0)

    def value(leaf):
        return np.zeros(leaf.shape, leaf.dtype) if leaf.dtype.kind == "i" else rng.random(leaf.shape, np.float32)

    state = jax.tree.map(value, frozen.train.args[0])
    batch = batch_of(SegmentationViews(), frozen.spec, size=8)
    run = {"key": jax.random.key(1), "steps": jnp.asarray(2)}
    after, _ = jax.jit(frozen.train.fn)(state, batch, run)
    for kind in ("params", "stats"):
        old, new = flatten(state[kind]), flatten(after[kind])
        changed = {path for path in old if not np.array_equal(old[path], new[path])}
        # Norms of the head are trained, and move their statistics.
        assert {path.split("/")[0] for path in changed} == {"head"} and any("norm" in path for path in changed)


def test_what_couples_a_batch():
    def couples(**options):
        return objective(Segmentation, channels=8, **options).couples_batch

    assert couples() and couples(norm="none") and couples(normalise_by="all")
    assert not couples(norm="none", normalise_by="all")
    assert objective(Segmentation, channels=8, norm="none", normalise_by="all", frozen=True).groups[0].train is False
    with pytest.raises(ConfigError, match="concat"):
        objective(Segmentation, convs=0, concat=True)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    "options",
    [{"convs": 0, "norm": "none"}, {"convs": 0}, {"convs": 1, "norm": "none"}, {"convs": 2}, {"concat": True}],
    ids=str,
)
def test_the_closed_form_is_that_of_what_is_trained(options, frozen):
    vit = functools.partial(ViT, image_size=32, patch_size=8, dim=16, depth=1, heads=2)
    train = build_stage(dataclasses.replace(stage(frozen, **options), backbone=vit)).train
    assert train.closed_form == train.cost().total
