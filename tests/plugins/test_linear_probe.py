"""The linear probe: its loss and its features against numpy, what is frozen, what a step costs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import TINY, apply, batch_of, context, flatten, loss_of, objective, sample, split, tiny
from spendflops_plugins.linear_probe import LinearProbe, ProbeViews
from spendflops_plugins.resnet import ResNet
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.objective import Group
from spendflops.contracts.types import DatasetInfo
from spendflops.parts import images
from spendflops.testing.model import Subject

test_kit = spendflops.testing.objective_tests("linear_probe")
SMALL = functools.partial(ViT, **TINY)
RESIDUAL = functools.partial(ResNet, image_size=16, depths=(1,), width=0.0625)


def vectors(features, kind):
    """What is classified, float64."""
    token, mean = (np.asarray(x, np.float64) for x in (features.prefix[:, 0], features.tokens.mean(1)))
    return {
        "class": token,
        "mean": mean,
        "class_and_mean": np.concatenate([token, mean], axis=-1),
        "summary": np.asarray(features.summary, np.float64),
    }[kind]


def cross_entropy(logits, labels):
    rows = [np.log(np.sum(np.exp(z))) - z[label] for z, label in zip(logits, labels, strict=True)]
    return np.mean(rows)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("kind", ["class", "mean", "class_and_mean", "summary"])
def test_loss_accuracy_and_statistics(kind, norm):
    # Stochastic depth would change the features, if the backbone ran in training mode.
    module = objective(
        LinearProbe, features=kind, norm=norm, backbone={"drop_path": 0.9, "depth": 2, "pooling": "mean"}
    )
    batch = batch_of(ProbeViews(), module.backbone.spec, size=6)
    value, metrics, after, features = loss_of(module, batch, lambda m: m.backbone(batch["image"], context(train=False)))
    x = vectors(features, kind)
    mean, var = x.mean(0), x.var(0)
    weights = {name: np.asarray(w, np.float64) for name, w in flatten(split(module)[1]["head"]).items()}
    normed = (x - mean) / np.sqrt(var + 1e-6) if norm == "batch" else x
    logits = normed @ weights["kernel"] + weights["bias"]
    assert weights["kernel"].shape == ((64 if kind == "class_and_mean" else 32), 6)
    assert float(value) == pytest.approx(cross_entropy(logits, batch["label"]), rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(logits.argmax(-1) == batch["label"]))
    assert float(metrics["monitor"]) > 0
    assert set(after) == ({"norm"} if norm == "batch" else set())
    if norm == "batch":
        np.testing.assert_allclose(after["norm"]["mean"], 0.1 * mean, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(after["norm"]["var"], 0.9 + 0.1 * var, rtol=1e-4)


def test_scores_take_the_running_statistics():
    module = objective(LinearProbe, features="class")
    assert not flatten(split(module)[1]).keys() & {"norm/scale", "norm/bias"}
    module.norm.mean.set_value(jnp.arange(32.0))
    module.norm.var.set_value(jnp.full((32,), 4.0))
    batch = {"image": batch_of(ProbeViews(), module.backbone.spec)["image"]}
    outputs = apply(module, lambda m: m.predict(batch, context(train=False), want=("features", "logits")))
    weights = {name: np.asarray(w, np.float64) for name, w in flatten(split(module)[1]["head"]).items()}
    x = (vectors(outputs["features"], "class") - np.arange(32)) / np.sqrt(4 + 1e-6)
    np.testing.assert_allclose(outputs["logits"], x @ weights["kernel"] + weights["bias"], rtol=1e-4, atol=1e-4)
    assert set(jax.eval_shape(lambda: module.predict(batch, context(train=False), want=("features",)))) == {"features"}
    assert module.couples_batch and not objective(LinearProbe, norm="none").couples_batch


def test_head_starts_small():
    head = LinearProbe(SMALL(rngs=nnx.Rngs(0), depth=0), info=CLASSES, rngs=nnx.Rngs(1)).head
    assert np.std(head.kernel[...]) == pytest.approx(0.01, rel=0.1) and not np.any(head.bias[...])


CLASSES = DatasetInfo(name="toy", features={}, classes=tuple(map(str, range(40))))


@pytest.mark.parametrize("backbone", [SMALL, RESIDUAL], ids=["vit", "resnet"])
def test_backbone_and_its_statistics_stay_as_they_are(backbone):
    assert LinearProbe.groups[0] == Group(match=r"backbone/.*", train=False)
    subject = Subject(LinearProbe, options={"features": "mean"}, backbone=backbone, batch_size=4)
    optimizer = subject.optimizer(subject.definition)
    assert optimizer.trained(subject.definition.params, subject.definition.example) == ["head/bias", "head/kernel"]
    state = subject.initial
    for batch in subject.batches[:2]:
        state, _ = subject.step(state, batch)
    for kind in ("params", "stats"):
        old, new = flatten(subject.initial[kind]), flatten(state[kind])
        moved = {path.split("/")[0] for path in new if not np.array_equal(old[path], new[path])}
        assert moved == {"params": {"head"}, "stats": {"norm"}}[kind]


def test_the_bias_is_without_trust_ratio_and_decay():
    subject = Subject(LinearProbe, options={}, batch_size=4)
    table = subject.optimizer(subject.definition).assign(subject.definition.params, subject.definition.example)
    assert [(group.decay, paths) for group, paths in table if group.train] == [
        (False, ["head/bias"]),
        (True, ["head/kernel"]),
    ]


@pytest.mark.parametrize(
    "backbone, features, width",
    [(SMALL, "class", 32), (SMALL, "class_and_mean", 64), (RESIDUAL, "summary", 16)],
    ids=["vit", "two_halves", "resnet"],
)
def test_a_step_is_billed_one_forward_pass_of_the_backbone(backbone, features, width):
    subject = Subject(LinearProbe, options={"features": features}, backbone=backbone, batch_size=4)
    trunk, classes = subject.definition.example.backbone, len(subject.dataset.info.classes)
    size = subject.spec.size
    forward = 4 * trunk.flops(size)
    cost = subject.train.cost()
    head = 2 * 4 * width * classes
    assert cost.total == subject.train.closed_form == forward + 2 * head
    # The backward phase holds the one product of the head's kernel.
    assert cost.phases == {"forward": forward + head, "backward": head}
    assert cost.total < 4 * trunk.flops(size, train=True)  # what fine-tuning would pay


def test_a_backbone_without_a_class_token_is_refused_when_it_is_traced():
    for kind in ("class", "class_and_mean"):
        module = objective(LinearProbe, features=kind, backbone={"class_token": False, "pooling": "mean"})
        batch = {"image": np.zeros((2, 32, 32, 3), np.uint8)}
        with pytest.raises(ConfigError, match="class token"):
            jax.eval_shape(lambda m=module, b=batch: m.predict(b, context(train=False), want=("logits",)))


def test_refusals():
    with pytest.raises(ConfigError, match="no classes"):
        objective(LinearProbe, info=DatasetInfo(name="web", features={}))
    with pytest.raises(ConfigError, match="class_and_mean"):
        objective(LinearProbe, features="clas_and_mean")
    with pytest.raises(ConfigError, match="batch"):
        objective(LinearProbe, norm="bach")


def test_views():
    spec = dataclasses.replace(tiny().spec, classes=tuple("abcdef"))
    views = ProbeViews(sampler="torchvision", interpolation="bilinear", scale=(0.2, 0.5))
    assert views.features == ("image", "label")
    found, rng = views(sample(3), np.random.default_rng(0), spec), np.random.default_rng(0)
    options = {"scale": (0.2, 0.5), "ratio": (3 / 4, 4 / 3), "sampler": "torchvision", "interpolation": "bilinear"}
    expected = images.random_resized_crop(sample(3)["image"], rng, size=spec.size, **options)
    np.testing.assert_array_equal(found["image"], images.random_flip(expected, rng))
    assert found["label"] == 3 and found["label"].dtype == np.int32 and found["label"].shape == ()
    for label in (-1, 6):
        with pytest.raises(DataError, match=f"label {label} of 6 classes"):
            views(sample(0) | {"label": label}, np.random.default_rng(0), spec)


def test_the_last_four_class_tokens_each_through_the_last_norm():
    deep = {"depth": 5}
    module = objective(LinearProbe, features="class_last4", norm="none", backbone=deep)
    batch = {"image": batch_of(ProbeViews(), module.backbone.spec, size=3)["image"]}
    logits = apply(module, lambda m, b: m.predict(b, context(train=False), want=("logits",))["logits"], batch)
    weights = flatten(split(module)[1]["head"])
    assert weights["kernel"].shape[0] == 4 * 32

    def of_each_depth(m):
        """The class token after the last norm of the same model, cut after each of its blocks."""
        tokens = []
        for last in range(1, 5):
            level = m.backbone(batch["image"], context(train=False), levels=(last,)).levels[0]
            tokens.append(level.prefix[:, 0])
        return tokens

    norm = {name: np.asarray(x, np.float64) for name, x in flatten(split(module)[1]["backbone"]["norm"]).items()}
    parts = []
    for token in apply(module, of_each_depth):
        x = np.asarray(token, np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        parts.append(x * norm["scale"] + norm["bias"])
    want = np.concatenate(parts, axis=-1) @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights["bias"])
    np.testing.assert_allclose(logits, want, rtol=1e-3, atol=1e-4)
    # The last of them is what the model gives as its class token.
    last = apply(module, lambda m: m.backbone(batch["image"], context(train=False)).prefix[:, 0])
    np.testing.assert_allclose(parts[-1], last, rtol=1e-3, atol=1e-4)


def test_four_blocks_are_needed_for_four_class_tokens():
    module = objective(LinearProbe, features="class_last4", backbone={"depth": 3})
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8)}
    with pytest.raises(ConfigError, match="no block -4"):
        jax.eval_shape(lambda: module.predict(batch, context(train=False), want=("logits",)))
