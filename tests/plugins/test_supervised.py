"""Supervised classification against slow loops, its options, views; the cases of methods_sup.md under their numbers.

Those of the losses (T7, T8) are tests of ``spendflops.parts.labels``.
"""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, apply, batch_of, context, count, flatten, loss_of, objective, sample, split, tiny
from spendflops_plugins.supervised import Supervised, SupervisedViews
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.state import transferred
from spendflops.parts.augment.erasing import Erasing
from spendflops.parts.augment.mix import Mixing
from spendflops.parts.augment.randaugment import RandAugment
from spendflops.testing.model import Subject

test_kit = spendflops.testing.objective_tests("supervised")


def targets(labels, classes=6, smoothing=0.1, kind="softmax"):
    """Whole target vectors of equation (1), or multi-hot ones."""
    rows = []
    for given in labels:
        given = [label for label in given if label >= 0]
        y = sum(np.eye(classes)[label] for label in (given if kind == "softmax" else set(given)))
        y = y / len(given) if kind == "softmax" else y
        rows.append((1 - smoothing) * y + smoothing / classes)
    return np.stack(rows)


def slow_loss(logits, y, kind="softmax"):
    """Its mean over images, float64."""
    z = np.asarray(logits, np.float64)
    if kind == "sigmoid":
        return np.mean(np.sum(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z), axis=-1))
    return np.mean(np.sum(y * (np.log(np.sum(np.exp(z), axis=-1, keepdims=True)) - z), axis=-1))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_loss_of_the_objective_and_its_metrics(kind):
    module = objective(Supervised, loss=kind, head_norm=kind == "sigmoid")
    batch = batch_of(SupervisedViews(labels="labels"), module.backbone.spec)
    run = lambda m: m.predict({"image": batch["image"]}, context(train=False), want=("logits",))["logits"]  # noqa: E731
    value, metrics, after, logits = loss_of(module, batch, run)
    logits, y = np.asarray(logits), targets(batch["labels"], kind=kind)
    assert float(value) == pytest.approx(slow_loss(logits, y, kind), rel=1e-5)
    entropy = -np.sum(y * np.log(y) + ((1 - y) * np.log(1 - y) if kind == "sigmoid" else 0), axis=-1)
    assert float(metrics["above_floor"]) == pytest.approx(float(value) - np.mean(entropy), rel=1e-4)
    hits = [logits[b].argmax() in batch["labels"][b] for b in range(4)]
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(hits))
    assert float(metrics["monitor"]) > 0 and not after


def test_repeated_labels_weigh_double_unless_told():
    batch = {"image": np.zeros((1, 32, 32, 3), np.uint8), "labels": np.array([[1, 3, 3]], np.int32)}
    run = lambda m: m.predict(batch, context(train=False), want=("logits",))["logits"]  # noqa: E731
    for unique, given in ((False, [1, 3, 3]), (True, [1, 3])):
        value, _, _, logits = loss_of(objective(Supervised, unique_labels=unique), batch, run)
        assert float(value) == pytest.approx(slow_loss(logits, targets([given])), rel=1e-5)


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_images_and_labels_are_mixed_in_the_same_proportion(options):
    module, mixing = objective(Supervised, **options), Mixing(**options)
    assert module.couples_batch and not objective(Supervised).couples_batch
    assert not objective(Supervised, mix_probability=0.0, **options).couples_batch
    batch = batch_of(SupervisedViews(), module.backbone.spec, size=4)

    def again(m):
        images, part = mixing(m.backbone.normalise(batch["image"]), context().fork("mix"))
        return m.predict({"image": images}, context(train=False), want=("logits",))["logits"], part

    value, metrics, _, (logits, part) = loss_of(module, batch, again)
    y, part = targets(batch["labels"]), float(part)
    assert 0 < part < 1
    assert float(value) == pytest.approx(slow_loss(logits, part * y + (1 - part) * y[::-1]), rel=1e-5)
    larger = batch["labels"] if part > 0.5 else batch["labels"][::-1]
    assert float(metrics["accuracy"]) == np.mean(np.asarray(logits).argmax(-1) == larger[:, 0])


def test_images_are_normalised_then_erased_then_mixed():
    erasing, mixing = Erasing(probability=0.7), Mixing(mixup=0.8)
    module = objective(Supervised, erasing=0.7, mixup=0.8)
    batch = batch_of(SupervisedViews(), module.backbone.spec, size=4)

    def again(m):
        images = erasing(m.backbone.normalise(batch["image"]), context().fork("erase"))
        inside = images != m.backbone.normalise(batch["image"])
        images, part = mixing(images, context().fork("mix"))
        return m.predict({"image": images}, context(train=False), want=("logits",))["logits"], part, inside

    value, _, _, (logits, part, inside) = loss_of(module, batch, again)
    y, part = targets(batch["labels"]), float(part)
    assert float(value) == pytest.approx(slow_loss(logits, part * y + (1 - part) * y[::-1]), rel=1e-5)
    assert 0 < np.mean(inside) < 0.5 and not objective(Supervised, erasing=0.7).couples_batch


def test_nothing_is_mixed_or_erased_outside_training():
    module = objective(Supervised, mixup=0.8, cutmix=1.0, erasing=1.0)
    batch = batch_of(SupervisedViews(), module.backbone.spec, size=4)

    def run(m):
        return m.loss(batch, None, context(train=False)).value, m.predict(batch, context(), want=("logits",))["logits"]

    value, logits = apply(module, run)
    assert float(value) == pytest.approx(slow_loss(logits, targets(batch["labels"])), rel=1e-5)


@pytest.mark.parametrize(
    "options, teacher",
    [
        ({}, ("backbone", "head")),
        ({"head_norm": True, "pre_logits": True}, ("backbone", "head_norm", "pre_logits", "head")),
    ],
)
def test_moving_average_of_the_weights(options, teacher):
    plain, subject = (Subject(Supervised, options=options | more, batch_size=4) for more in ({}, {"ema": 0.75}))
    module = subject.definition.example
    assert (module.teacher, module.transfer) == (teacher, "teacher")
    assert (plain.definition.example.teacher, plain.definition.example.transfer) == ((), "online")
    # The average costs no product, forward or backward, in any phase.
    cost = plain.train.cost()
    assert subject.train.cost() == cost and subject.train.closed_form == cost.total > 0
    state, _ = subject.step(subject.initial, subject.batches[0])
    old, ema, new = (flatten(tree) for tree in (subject.initial["params"], state["ema"], state["params"]))
    assert set(ema) == set(new)
    for path, value in ema.items():
        np.testing.assert_allclose(value, 0.75 * old[path] + 0.25 * new[path], rtol=1e-5, atol=1e-7)
    # It is what is scored and handed on.
    given = flatten(transferred(subject.definition, state)[0])
    assert all(np.array_equal(given[path], ema[path]) for path in new) and np.any(ema["head/bias"] != new["head/bias"])


def test_t14_drop_path_grows_linearly_over_the_blocks():
    trunk = nnx.eval_shape(lambda: ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 12}), drop_path=0.1))
    rates = [block.drop_path for block in trunk.blocks]
    np.testing.assert_allclose(rates, [i * 0.1 / 11 for i in range(12)], rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"pre_logits": True, "head_norm": True}, {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.25}]
)
def test_closed_form_is_the_cost_of_the_traced_step(options):
    train = Subject(Supervised, options=options, batch_size=4).train
    assert train.closed_form == train.cost().total


@pytest.mark.parametrize(
    "dim, depth, heads, classes, expected",
    [
        (768, 12, 12, 1000, 105_151_758_336),
        (768, 12, 12, 18_291, 105_231_435_264),
        (1024, 24, 16, 1000, 369_019_994_112),
    ],
)
def test_closed_form_of_published_sizes(dim, depth, heads, classes, expected):
    info = DatasetInfo(name="any", features={}, classes=tuple(map(str, range(classes))))
    trunk = {"dim": dim, "depth": depth, "heads": heads}
    build = lambda: Supervised(ViT(rngs=nnx.Rngs(0), **trunk), info=info, rngs=nnx.Rngs(1))  # noqa: E731
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
    assert nnx.eval_shape(build).closed_form({"image": image}) == 2 * expected


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
    fine = head(head_init="mae").head
    assert np.std(fine.kernel[...]) == pytest.approx(2e-5, rel=0.2) and not np.any(fine.bias[...])
    assert set(flatten(split(other)[1]["head_norm"])) == {"bias", "scale"}


THOUSAND = DatasetInfo(name="imagenet", features={}, classes=tuple(map(str, range(1000))))
LARGE = {"dim": 1024, "depth": 24, "heads": 16}


@pytest.mark.parametrize(
    "trunk, head, expected",
    [  # methods_mim 2.6: mean pooling, a fresh norm instead of the final one
        ({}, {"head_norm": True}, 86_567_656),
        (LARGE, {"head_norm": True}, 304_326_632),
        ({"dim": 1280, "depth": 32, "heads": 16, "patch_size": 14}, {"head_norm": True}, 632_045_800),
        # methods_sup: the class token, with a layer before the head
        ({}, {"pre_logits": True}, 87_158_248),
        (LARGE, {"pre_logits": True}, 305_376_232),
    ],
)
def test_t1_counts_with_a_head_of_1000_classes(trunk, head, expected):
    pooling = {"pooling": "mean", "final_norm": False} if "head_norm" in head else {}

    def build():
        one = trunk | {"depth": 1}  # the other blocks are copies
        backbone = ViT(rngs=nnx.Rngs(0), positions="learned_sincos", **pooling, **one)
        return Supervised(backbone, info=THOUSAND, rngs=nnx.Rngs(1), **head)

    dim, depth = trunk.get("dim", 768), trunk.get("depth", 12)
    assert count(build) + (depth - 1) * (12 * dim**2 + 13 * dim) == expected


def test_a_layer_before_the_head():
    module = objective(Supervised, pre_logits=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    outputs = apply(module, lambda m: m.predict({"image": images}, context(), want=("logits",)))
    weights = {name: np.asarray(x, np.float64) for name, x in flatten(split(module)[1]).items()}
    hidden = np.tanh(outputs["features"].summary @ weights["pre_logits/kernel"] + weights["pre_logits/bias"])
    np.testing.assert_allclose(outputs["logits"], hidden @ weights["head/kernel"] + weights["head/bias"], rtol=1e-4)


def test_groups_exempt_biases_norms_and_tokens_from_decay():
    trunk = {"positions": "learned", "layer_scale": 0.1, "key_bias": False}
    _, params, _ = split(objective(Supervised, backbone=trunk))
    match = Supervised.groups[0].match
    decayed = {path.rsplit("/", 1)[1] for path in flatten(params) if not re.fullmatch(match, path)}
    assert decayed == {"kernel"}


def test_refusals():
    with pytest.raises(ConfigError, match="no classes"):
        objective(Supervised, info=DatasetInfo(name="web", features={}))
    with pytest.raises(ConfigError, match="zeros"):
        objective(Supervised, head_init="zero")
    with pytest.raises(ConfigError, match="sigmoid"):
        objective(Supervised, loss="sigmiod")
    with pytest.raises(ConfigError, match="Beta"):
        objective(Supervised, mixup=-0.1)
    with pytest.raises(ConfigError, match="erasing"):
        objective(Supervised, erasing=1.5)
    for ema in (0.0, 1.0):
        with pytest.raises(ConfigError, match="ema"):
            objective(Supervised, ema=ema)
    with pytest.raises(ConfigError, match="rrc"):
        SupervisedViews(crop="rcc")
    with pytest.raises(ConfigError, match="'rand-m9' is not understood"):
        SupervisedViews(randaugment="rand-m9")


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


@pytest.mark.parametrize("label", [3, -2])
def test_views_refuse_labels_that_are_no_class(label):
    spec = dataclasses.replace(tiny().spec, classes=("a", "b", "c"))
    with pytest.raises(DataError, match=f"{label}.* of 3 classes"):
        SupervisedViews()(sample(0) | {"label": label}, np.random.default_rng(0), spec)
    assert SupervisedViews()(sample(0) | {"label": -1}, np.random.default_rng(0), spec)["labels"].tolist() == [-1]


@pytest.mark.parametrize(
    "interpolation, filtered",
    [("bicubic", "bicubic"), ("bilinear_scaled", "bilinear"), ("area", "bicubic"), ("nearest", "nearest")],
)
def test_views_augment_at_random_after_the_flip(interpolation, filtered):
    spec, text = tiny().spec, "rand-m9-mstd0.5-inc1"
    augment = RandAugment.parse(text, interpolation=filtered)
    plain = SupervisedViews(interpolation=interpolation)
    views = dataclasses.replace(plain, randaugment=text)
    changed = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        before = plain(sample(seed), rng, spec)["image"]
        expected = augment(before, rng, fill=(124, 116, 104))
        found = views(sample(seed), np.random.default_rng(seed), spec)
        np.testing.assert_array_equal(found["image"], expected)
        changed += not np.array_equal(before, expected)
    assert 3 <= changed <= 8


def test_views_without_crop_and_flip_are_the_whole_image():
    spec = tiny().spec
    image = SupervisedViews(crop="none", flip=0.0)(sample(0, (32, 32)), np.random.default_rng(0), spec)["image"]
    np.testing.assert_array_equal(image, sample(0, (32, 32))["image"].array)
    flipped = SupervisedViews(crop="none", flip=1.0)(sample(0, (32, 32)), np.random.default_rng(0), spec)["image"]
    np.testing.assert_array_equal(flipped, image[:, ::-1])


def test_labels_with_names_of_their_own_have_their_own_outputs():
    info = dataclasses.replace(INFO, classes=("a", "b"), label_names=("a", "b", "animal"))
    assert objective(Supervised, info=info).head.kernel.shape[1] == 2
    assert objective(Supervised, info=info, labels="labels").head.kernel.shape[1] == 3
    with pytest.raises(ConfigError, match="did you mean 'labels'"):
        objective(Supervised, info=info, labels="label_names")
    spec = dataclasses.replace(tiny().spec, classes=("a", "b"), label_names=("a", "b", "animal"))
    image = sample(0)["image"]
    views, rng = SupervisedViews(labels="labels", max_labels=2), np.random.default_rng(0)
    assert views({"image": image, "labels": [0, 2]}, rng, spec)["labels"].tolist() == [0, 2]
    with pytest.raises(DataError, match="of 3 classes"):
        views({"image": image, "labels": [3]}, rng, spec)
    with pytest.raises(DataError, match="of 2 classes"):
        SupervisedViews()({"image": image, "label": 2}, rng, spec)
