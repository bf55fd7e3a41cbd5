"""CLIP: the objective against numpy, its price, what it refuses, its views (the loss is in test_clip_loss.py)."""

from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, context, flatten, objective, sample, split, tiny
from spendflops_plugins.clip import CLIP, CLIPViews
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.engine.build import open_source
from spendflops.parts import text
from spendflops.parts.schedules import WarmupCosine
from spendflops.testing.samples import KitData

SMALL = {"embedding_dim": 8, "text_dim": 16, "text_depth": 1, "text_heads": 2, "text_positions": 12}
NAMES = ("tench", "goldfish", "white shark", "tiger", "cock", "hen")

test_kit = spendflops.testing.objective_tests("clip", views=CLIPViews(max_length=12), **SMALL)


def oracle(x, y, scale, groups):
    """Equation (1) with equal captions sharing their target."""
    logits = scale * x @ y.T
    same = groups[:, None] == groups[None]
    target = same / same.sum(1, keepdims=True)
    entropy = np.mean(np.log(same.sum(1)))
    log_p = [z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (logits, logits.T)]
    return -np.mean([np.mean(np.sum(target * each, axis=1)) for each in log_p]) - entropy


@pytest.mark.parametrize("step,expected", [(0, 1e-7), (5000, 5.0005e-4), (10_000, 1e-3), (130_000, 5e-4)])
def test_t10_learning_rate_rises(step, expected):
    learning_rate(step, expected)


@pytest.mark.parametrize("step,expected", [(190_000, 1.4644660941e-4), (250_000, 0.0)])
def test_t10_learning_rate_falls(step, expected):
    learning_rate(step, expected)


def learning_rate(step, expected):
    schedule = WarmupCosine(peak=1e-3, start=1e-7, warmup_steps=10_000)
    ctx = dataclasses.replace(context(), step=jnp.int32(step), steps=jnp.int32(250_000))
    assert float(schedule(ctx)) == pytest.approx(expected, rel=1e-5, abs=1e-10)


def batch_of(views, spec, *, size=4):
    spec = dataclasses.replace(spec, tokenizer=text.BUILTIN)
    captions = ["a red dog", "two dogs on grass", "a picture of a blue star", "here is a cat, asleep in the sun"]
    rows = [views(sample(i) | {"caption": captions[i]}, np.random.default_rng(i), spec) for i in range(size)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("options", [{}, {"merge_equal": True, "chunk": 2}], ids=["default", "merged-chunks"])
def test_objective_from_the_backbones_summaries_in_numpy(options):
    module = objective(CLIP, **SMALL, **options)
    module.logit_scale.set_value(jnp.float32(0.7))
    batch = batch_of(CLIPViews(max_length=12), module.backbone.spec)
    batch["tokens"][3] = batch["tokens"][2]
    graph, params, stats = split(module)

    @jax.jit
    def run(params, batch):
        module = nnx.merge(graph, params, stats)
        loss = module.loss(batch, None, context())
        lengths = jnp.sum(batch["tokens"] != 0, axis=1)
        towers = module.backbone(batch["image"], context()).summary, module.text(batch["tokens"], lengths, context())
        given = module.predict(batch, context(train=False), want=CLIP.outputs)
        return loss, towers, given

    loss, towers, given = run(params, batch)
    kernels = module.image_projection.kernel[...], module.text_projection.kernel[...]
    z = [np.asarray(x, np.float64) @ np.asarray(k, np.float64) for x, k in zip(towers, kernels, strict=True)]
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in z)
    groups = np.array([0, 1, 2, 2]) if options else np.arange(4)
    assert float(loss.value) == pytest.approx(oracle(x, y, math.exp(0.7), groups), rel=1e-5)
    np.testing.assert_allclose(given["image_embedding"], x, atol=1e-5)
    np.testing.assert_allclose(given["text_embedding"], y, atol=1e-5)
    hits = (x @ y.T).argmax(1) == np.arange(4)
    hits[2:] |= bool(options) & ((x @ y.T).argmax(1)[2:] >= 2)
    metrics = {name: float(v) for name, v in loss.metrics.items()}
    assert metrics["retrieval_accuracy"] == np.mean(hits)
    assert metrics["temperature"] == pytest.approx(math.exp(-0.7), rel=1e-6)
    assert metrics["monitor"] == pytest.approx(np.mean(x.std(0)) * np.sqrt(8), rel=1e-4)
    assert metrics["text_std"] == pytest.approx(np.mean(y.std(0)) * np.sqrt(8), rel=1e-4)


def abstract(cls=CLIP, **options):
    return nnx.eval_shape(lambda: cls(ViT(rngs=nnx.Rngs(0), **TINY), info=INFO, rngs=nnx.Rngs(1), **(SMALL | options)))


def gradient_of(module):
    graph, params, stats = split(module)
    return params, lambda p, b: jax.value_and_grad(lambda p: nnx.merge(graph, p, stats).loss(b, None, context()).value)(
        p
    )


@pytest.mark.parametrize("options", [{}, {"chunk": 2, "text_pooling": "pooler", "text_depth": 2}])
def test_closed_form_is_what_the_step_costs(options):
    module = abstract(**options)
    batch = {
        "image": jax.ShapeDtypeStruct((4, 32, 32, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((4, 12), np.int32),
    }
    params, step = gradient_of(module)
    assert count_jaxpr(jax.make_jaxpr(step)(params, batch)).total == module.closed_form(batch)


def test_closed_form_of_the_paper():
    """ViT-B/16 with the two towers, 55 tokens and 4096 x 4096 logits: FLOPs an image of the reference table."""
    for size, expected in (((256, 4, 4), 106_246_004_736), ((512, 8, 8), 113_625_329_664)):
        text_size = dict(zip(("text_dim", "text_depth", "text_heads"), size, strict=True))
        module = nnx.eval_shape(lambda o=text_size: CLIP(ViT(rngs=nnx.Rngs(0)), info=INFO, rngs=nnx.Rngs(1), **o))
        batch = {
            "image": jax.ShapeDtypeStruct((4096, 224, 224, 3), np.uint8),
            "tokens": jax.ShapeDtypeStruct((4096, 55), np.int32),
        }
        assert module.closed_form(batch) == 4096 * expected


def test_start_values():
    """The scale is 1 / 0.07; projections have no bias and a standard deviation of 1 / sqrt(width)."""
    small = SMALL | {"text_depth": 0, "embedding_dim": 128}
    made = jax.jit(lambda: CLIP(ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 0})), info=INFO, rngs=nnx.Rngs(1), **small))
    module = made()
    assert float(module.logit_scale[...]) == pytest.approx(2.659260036932778, rel=1e-7)
    for layer, width in ((module.image_projection, 32), (module.text_projection, 16)):
        assert layer.kernel.shape == (width, 128) and layer.bias is None
        assert np.std(layer.kernel[...]) == pytest.approx(width**-0.5, rel=0.05)


def test_scale_is_kept_in_range_after_a_step():
    module = objective(CLIP, **SMALL)
    for start, kept in ((5.0, math.log(100)), (2.0, 2.0), (-3.0, -3.0)):
        module.logit_scale.set_value(jnp.float32(start))
        module.project()
        assert float(module.logit_scale[...]) == pytest.approx(kept, rel=1e-6)
    module.scale_range = (1.0, 100.0)
    module.project()
    assert float(module.logit_scale[...]) == 0


def test_groups_decay_kernels_and_embedding_tables_alone():
    _, params, _ = split(objective(CLIP, backbone={"positions": "learned"}, **SMALL, text_types=2, text_norm="pre"))
    decayed = {path for path in flatten(params) if not re.fullmatch(CLIP.groups[0].match, path)}
    assert {path.rsplit("/", 1)[1] for path in decayed} == {"kernel", "embedding", "type_embedding"}
    assert {path.split("/")[0] for path in decayed} == {"backbone", "text", "image_projection", "text_projection"}
    assert all(flatten(params)[path].ndim >= 2 for path in decayed)


def test_predict_gives_what_is_asked_for():
    graph, params, stats = split(abstract())
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), np.uint8)
    tokens = jax.ShapeDtypeStruct((2, 12), np.int32)

    def given(want, **batch):
        def predict(params, batch):
            return nnx.merge(graph, params, stats).predict(batch, context(train=False), want=want)

        return jax.eval_shape(predict, params, batch)

    assert set(given(("features",), image=image)) == {"features"}
    assert given(CLIP.outputs, image=image)["image_embedding"].shape == (2, 8)
    assert set(given(CLIP.outputs, image=image, tokens=tokens)) == set(CLIP.outputs)
    # Texts without images, as a zero-shot classifier has them.
    assert given(("text_embedding",), tokens=tokens)["text_embedding"].shape == (2, 8)


def test_refusals(tmp_path):
    for options, said in (
        ({"vocabulary_size": 100}, r"(?s)100 does not hold.*6144"),
        ({"temperature": 0.001}, "scale_range"),
        ({"temperature": 0.0}, "scale_range"),
        ({"chunk": 0}, "divisor"),
        ({"tokenizer": "bert"}, "builtin"),
        ({"text_pooling": "average"}, "pooler"),
    ):
        with pytest.raises(ConfigError, match=said):
            abstract(**options)
    with pytest.raises(DataError, match="cannot be read"):
        abstract(tokenizer=str(tmp_path / "vocab.txt"))
    assert abstract(vocabulary_size=30_522).text.embedding.shape == (30_522, 16)


@pytest.mark.parametrize(
    "count,length,options,said",
    [
        (1, 12, {}, r"(?s)batch of one.*negatives.*at least 2"),
        (4, 13, {}, r"(?s)13 tokens.*max_length of 12"),
        (4, 12, {"chunk": 3}, r"(?s)batch of 4.*chunks of 3"),
    ],
)
def test_batches_that_cannot_be(count, length, options, said):
    """Known while tracing: nothing is compiled."""
    batch = {
        "image": jax.ShapeDtypeStruct((count, 32, 32, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((count, length), np.int32),
    }
    params, step = gradient_of(abstract(**options))
    with pytest.raises(ConfigError, match=said):
        jax.eval_shape(step, params, batch)


SPEC = dataclasses.replace(tiny().spec, tokenizer=text.BUILTIN)


def seen(views, given, seed=0):
    return views(given, np.random.default_rng(seed), SPEC)


def spelled(tokens):
    names = list(text.tokenizer(text.BUILTIN).index)
    return [names[i] for i in tokens if i]


def test_views_read_captions():
    views = CLIPViews()
    assert views.features == ("image", "caption") and views.letters(SPEC) == {"H": 32, "W": 32, "C": 3, "L": 55}
    given = sample() | {"caption": "Two dogs\n on grass"}
    one, again, other = seen(views, given), seen(views, given), seen(views, given, seed=1)
    assert one["image"].shape == (32, 32, 3) and one["image"].dtype == np.uint8
    assert one["tokens"].shape == (55,) and one["tokens"].dtype == np.int32
    assert spelled(one["tokens"]) == ["[CLS]", "two", "dogs", "on", "grass", "[SEP]"]
    np.testing.assert_array_equal(one["image"], again["image"])
    assert np.any(one["image"] != other["image"])
    assert spelled(seen(CLIPViews(max_length=4), given)["tokens"]) == ["[CLS]", "two", "dogs", "[SEP]"]
    letters = CLIPViews(unit="characters", max_length=6)
    assert spelled(seen(letters, given)["tokens"]) == ["[CLS]", "two", "do", "[SEP]"]
    with pytest.raises(DataError, match="bytes"):
        seen(views, given | {"caption": b"dogs"})


def test_views_draw_one_of_several_captions():
    views = CLIPViews(captions="captions")
    assert views.features == ("image", "captions")
    given = sample() | {"captions": ("dogs", "a cat", "on grass")}
    drawn = {tuple(spelled(seen(views, given, seed=seed)["tokens"])[1:-1]) for seed in range(40)}
    assert drawn == {("dogs",), ("a", "cat"), ("on", "grass")}
    with pytest.raises(DataError, match="no caption"):
        seen(views, given | {"captions": ()})


@pytest.mark.parametrize(
    "labels,options,expected",
    [
        (2, {}, "This is a photo of white shark."),
        (np.array([1, 3, -1, -1]), {}, "This is a photo of goldfish and tiger."),
        (np.array([0, 1, 2, 3]), {"max_labels": 2}, "This is a photo of tench and goldfish."),
    ],
)
def test_views_make_captions_from_labels(labels, options, expected):
    views = CLIPViews(captions="labels", labels="labels", class_names=NAMES, **options)
    given = sample() | {"labels": labels}
    assert views.features == ("image", "labels") and views.caption(given) == expected
    assert spelled(seen(views, given)["tokens"])[1:-1] == [w for w in re.split(r"[ .]", expected.lower()) if w] + ["."]


def test_labels_without_names():
    with pytest.raises(ConfigError, match=r"(?s)names of the labels.*class_names = "):
        CLIPViews(captions="labels").letters(SPEC)
    views = CLIPViews(captions="labels", class_names=NAMES)
    for labels in (6, -1):
        with pytest.raises(DataError, match="6 names"):
            views.caption({"label": labels})


def test_views_without_crop_and_flip_are_the_whole_image():
    given = sample(0, (32, 32)) | {"caption": ""}
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    np.testing.assert_array_equal(seen(CLIPViews(**whole), given)["image"], given["image"].array)
    flipped = seen(CLIPViews(**whole, flip=1.0), given)["image"]
    np.testing.assert_array_equal(flipped, given["image"].array[:, ::-1])


def test_views_refuse():
    for options, said in (
        ({"captions": "text"}, "caption"),
        ({"unit": "words"}, "tokens"),
        ({"max_length": 2}, "room"),
    ):
        with pytest.raises(ConfigError, match=said):
            CLIPViews(**options)
    with pytest.raises(ConfigError, match="tokenizer"):
        CLIPViews()(sample() | {"caption": "a"}, np.random.default_rng(0), tiny().spec)


def test_data_without_captions_are_refused_before_anything_is_read():
    data = KitData()
    data.info = dataclasses.replace(data.info, features={"image": "uint8 H W C", "label": "int32"})
    with pytest.raises(ConfigError, match="no 'caption'"):
        open_source(data, "train", CLIPViews().features)
