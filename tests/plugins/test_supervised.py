"""Supervised classification: the cases of methods_sup.md under their numbers, a slow oracle, views."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, batch_of, context, flatten, loss_of, objective, sample, split, tiny
from spendflops_plugins.supervised import Supervised, SupervisedViews, softmax_cross_entropy
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo

test_kit = spendflops.testing.objective_tests("supervised")


def oracle(logits, labels, smoothing):
    """Averaged one-hot vectors, smoothed, one image at a time, float64."""
    values = []
    for row, given in zip(np.asarray(logits, np.float64), labels, strict=True):
        given = [label for label in given if label >= 0]
        if not given:
            continue
        y = sum(np.eye(len(row))[label] for label in given) / len(given)
        y = (1 - smoothing) * y + smoothing / len(row)
        log_p = row - row.max() - np.log(np.sum(np.exp(row - row.max())))
        values.append(-np.sum(y * log_p))
    return np.mean(values) if values else 0.0


@jax.jit
def compiled(logits, labels, smoothing):
    return softmax_cross_entropy(logits, labels, smoothing=smoothing)


def cross_entropy(logits, labels, smoothing=0.1):
    with jax.enable_x64(True):
        return float(compiled(jnp.asarray(logits), jnp.asarray(labels, jnp.int32), smoothing))


@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_loss_equals_the_oracle(classes, smoothing, scale):
    rng = np.random.default_rng(0)
    logits = scale * rng.normal(size=(6, classes))
    labels = rng.integers(-1, classes, (6, 4))
    labels[0], labels[1, 1:] = -1, -1
    assert cross_entropy(logits, labels, smoothing) == pytest.approx(oracle(logits, labels, smoothing), rel=1e-10)
    single = float(compiled(logits.astype(np.float32), labels, smoothing))
    assert single == pytest.approx(oracle(logits, labels, smoothing), rel=1e-5)


@pytest.mark.parametrize("bias", [0.0, -10.0, -6.9])
def test_t7_constant_logits_give_ln_c_whatever_the_bias(bias):
    assert cross_entropy(np.full((2, 21_843), bias), [[5], [7]]) == pytest.approx(9.9916357831, abs=1e-9)


def test_t8_targets():
    # The gradient at the logits is softmax - target: with equal logits it shows the target.
    def target(labels):
        with jax.enable_x64(True):
            labels = jnp.asarray([labels], jnp.int32)
            return 0.1 - np.asarray(jax.jit(jax.grad(compiled))(jnp.zeros((1, 10)), labels, 0.1))[0]

    two = np.full(10, 0.01)
    two[[2, 5]] = 0.46
    np.testing.assert_allclose(target([2, 5]), two, atol=1e-12)
    double = np.full(10, 0.01)
    double[1], double[3] = 0.31, 0.61
    np.testing.assert_allclose(target([1, 3, 3]), double, atol=1e-12)
    np.testing.assert_allclose(target([3, 7, -1, -1]), target([3, 7]), atol=1e-15)


def test_t8_values_and_their_floor():
    logits = np.zeros((1, 10))
    logits[0, [2, 5]] = 5
    assert cross_entropy(logits, [[2, 5]]) == pytest.approx(1.1197421659, abs=1e-10)
    best = np.full((1, 10), np.log(0.01))
    best[0, [2, 5]] = np.log(0.46)
    assert cross_entropy(best, [[2, 5]]) == pytest.approx(1.0828201012, abs=1e-10)
    for classes, count, floor in ((1000, 1, 1.0148), (21_843, 1, 1.3242), (18_291, 8, 3.1775)):
        y = np.full((1, classes), 0.1 / classes)
        y[0, :count] += 0.9 / count
        assert cross_entropy(np.log(y), [list(range(count))]) == pytest.approx(floor, abs=5e-5)


def test_labels_beyond_the_classes_are_not_clipped():
    assert np.isnan(cross_entropy(np.zeros((1, 3)), [[3]]))


def test_loss_of_the_objective_and_its_metrics():
    module = objective(Supervised)
    batch = batch_of(SupervisedViews(labels="labels"), module.backbone.spec)
    run = lambda m: m.predict({"image": batch["image"]}, context(train=False), want=("logits",))["logits"]  # noqa: E731
    value, metrics, after, logits = loss_of(module, batch, run)
    logits = np.asarray(logits)
    assert float(value) == pytest.approx(oracle(logits, batch["labels"], 0.1), rel=1e-5)
    hits = [logits[b].argmax() in batch["labels"][b] for b in range(4)]
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(hits))
    assert float(metrics["monitor"]) > 0 and not after


def test_predict_gives_what_is_wanted():
    module = objective(Supervised)
    images = np.zeros((2, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(lambda: module.predict({"image": images}, context(), want=("features",)))
    assert set(shapes) == {"features"}
    shapes = jax.eval_shape(lambda: module.predict({"image": images}, context(), want=("features", "logits")))
    assert shapes["logits"].shape == (2, 6)


def test_head_options():
    def head(**options):
        backbone = ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 0}))
        return Supervised(backbone, info=INFO, rngs=nnx.Rngs(1), **options)

    plain, other = head(), head(head_init="trunc_normal", head_bias=-10.0, head_norm=True)
    assert not np.any(plain.head.kernel[...]) and not np.any(plain.head.bias[...]) and plain.head_norm is None
    kernel = np.asarray(other.head.kernel[...])
    assert 0 < np.abs(kernel).max() <= 0.04 and np.all(np.asarray(other.head.bias[...]) == -10)
    assert set(flatten(split(other)[1]["head_norm"])) == {"bias", "scale"}


def test_fine_tuning_counts():
    """methods_mim 2.6: mean pooling, a fresh norm instead of the final one, 1000 classes."""
    info = DatasetInfo(name="imagenet", features={}, classes=tuple(map(str, range(1000))))

    def build():
        trunk = ViT(rngs=nnx.Rngs(0), positions="learned_sincos", pooling="mean", final_norm=False)
        return Supervised(trunk, info=info, rngs=nnx.Rngs(1), head_norm=True)

    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param))
    assert sum(x.size for x in leaves) == 86_567_656


def test_groups_exempt_biases_norms_and_tokens_from_decay():
    _, params, _ = split(objective(Supervised, backbone={"positions": "learned"}))
    match = Supervised.groups[0].match
    decayed = {path.rsplit("/", 1)[1] for path in flatten(params) if not re.fullmatch(match, path)}
    assert decayed == {"kernel"}


def test_refusals():
    with pytest.raises(ConfigError, match="no classes"):
        objective(Supervised, info=DatasetInfo(name="web", features={}))
    with pytest.raises(ConfigError, match="zeros"):
        objective(Supervised, head_init="zero")
    with pytest.raises(ConfigError, match="rrc"):
        SupervisedViews(crop="rcc")


@pytest.mark.parametrize("crop", ["rrc", "none"])
def test_views_take_one_label_or_several(crop):
    spec, rng = tiny().spec, np.random.default_rng(0)
    one = SupervisedViews(crop=crop)
    assert one.features == ("image", "label") and one.letters(spec)["M"] == 1
    entry = one(sample(3), rng, spec)
    assert entry["image"].shape == (32, 32, 3) and entry["image"].dtype == np.uint8
    assert entry["labels"].tolist() == [3] and entry["labels"].dtype == np.int32
    several = SupervisedViews(crop=crop, labels="labels", max_labels=3)
    assert several.features == ("image", "labels") and several.letters(spec)["M"] == 3
    assert several(sample(3), rng, spec)["labels"].tolist() == [1, 3, -1]
    long = sample(3) | {"labels": np.arange(5)}
    assert several(long, rng, spec)["labels"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="2 axes"):
        several(sample(3) | {"labels": np.zeros((2, 2))}, rng, spec)


def test_views_without_crop_and_flip_are_the_whole_image():
    spec = tiny().spec
    image = SupervisedViews(crop="none", flip=0.0)(sample(0, (32, 32)), np.random.default_rng(0), spec)["image"]
    np.testing.assert_array_equal(image, sample(0, (32, 32))["image"].array)
    flipped = SupervisedViews(crop="none", flip=1.0)(sample(0, (32, 32)), np.random.default_rng(0), spec)["image"]
    np.testing.assert_array_equal(flipped, image[:, ::-1])
