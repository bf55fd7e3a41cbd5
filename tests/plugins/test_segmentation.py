"""Segmentation objective: downstream T2 and T7, slow oracles of head and loss, views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, count, flatten, loss_of, made, objective, sample, tiny
from spendflops_plugins.segmentation import FCNHead, Segmentation, SegmentationViews, pixel_cross_entropy

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts import images
from spendflops.parts.images import ArrayImage

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
