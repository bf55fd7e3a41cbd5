"""ViNy's segmentation of pets: methods_mim T10 and G3, the head's layout, splits that move, draws that stay."""

from __future__ import annotations

import pickle

import golden
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, count, loss_of, objective, sample, tiny
from spendflops_plugins.viny_segmentation import VinyPets, VinySegmentation, VinyViews, prepared
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.images import ArrayImage
from spendflops.testing.samples import KitData

TRUNK = {"patch_norm": True, "qkv_bias": False, "norm_eps": 1e-5, "init": "viny", "positions": "learned"}
GOLDEN = TRUNK | {"depth": 2, "dim": 16, "heads": 2, "head_dim": 64, "mlp_ratio": 2}
KEYS = tuple((r"^head\.", "mlp.") if new == "decoder." else (old, new) for old, new in golden.VINY_KEYS)
THREE = DatasetInfo(name="pets", features={}, mask_classes=("pet", "background", "border"))

test_kit = spendflops.testing.objective_tests("spendflops_plugins.viny_segmentation:VinySegmentation")
test_kit_pets = spendflops.testing.dataset_tests(
    "spendflops_plugins.viny_segmentation:VinyPets", dataset=KitData(), train=30, test=12, size=16
)


@pytest.mark.parametrize("pixel_softmax,expected", [(True, 1.108086771), (False, 1.108086331)])
def test_g3_segmentation(pixel_softmax, expected):
    n, row, col = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), indexing="ij")
    batch = {"image": jnp.asarray(golden.images()), "mask": jnp.asarray((row // 4 + col // 4 + n) % 3, jnp.uint8)}
    with jax.enable_x64(True):
        made = objective(VinySegmentation, backbone=GOLDEN, info=THREE, pixel_softmax=pixel_softmax)
        module, sizes = golden.filled(made, KEYS, patches="matrix")
        batch["image"] = jnp.asarray(golden.images())
        value, *_ = loss_of(module, batch, lambda m: 0)
    assert sizes["mlp.weight"] == 16 * 3 * 64 and "transformer.layers.1.1.network.4.weight" in sizes
    assert float(value) == pytest.approx(expected, abs=1e-9)


def test_parameters():
    """methods_mim 5.1: encoder and segmentation head have 4,941,952."""
    trunk = TRUNK | {"image_size": 128, "dim": 128, "heads": 8, "head_dim": 64}
    build = lambda: VinySegmentation(ViT(rngs=nnx.Rngs(0), **trunk), info=THREE, rngs=nnx.Rngs(1))  # noqa: E731
    assert count(build) == 4_941_952


def test_t10_a_zero_head_starts_at_ln_3_and_class_biases_cancel():
    module = objective(VinySegmentation, info=THREE)
    batch = batch_of(VinyViews(), module.backbone.spec)
    batch["mask"] %= 3
    module.head.kernel.set_value(jnp.zeros_like(module.head.kernel[...]))
    module.head.bias.set_value(jnp.zeros_like(module.head.bias[...]))
    assert float(loss_of(module, batch, lambda m: 0)[0]) == pytest.approx(1.0986123, abs=1e-6)

    def losses(module, biases):
        start, values = module.head.bias[...], []
        for bias in biases:
            module.head.bias.set_value(start + jnp.repeat(bias, 64))
            values.append(module.loss(batch, None, context()).value)
        return values

    for pixel_softmax in (True, False):
        module = objective(VinySegmentation, info=THREE, pixel_softmax=pixel_softmax)
        plain, biased = apply(module, losses, jnp.asarray([[0.0, 0, 0], [3, -1, 2]]))
        assert (abs(float(plain) - float(biased)) < 1e-5) == pixel_softmax


def test_loss_and_logits_equal_the_loop():
    module = objective(VinySegmentation)
    batch = batch_of(VinyViews(), module.backbone.spec)
    batch["mask"][0, :5] = 255

    def outputs(m):
        return m.predict(batch, context(), want=("seg_logits", "features"))

    value, metrics, _, made = loss_of(module, batch, outputs)
    tokens, logits = np.asarray(made["features"].tokens, np.float64), np.asarray(made["seg_logits"], np.float64)
    kernel, bias = (np.asarray(x[...], np.float64) for x in (module.head.kernel, module.head.bias))
    raw = np.zeros((4, 32, 32, 5))
    for b, token in np.ndindex(4, 16):
        vector = tokens[b, token] @ kernel + bias
        for c, row, col in np.ndindex(5, 8, 8):
            raw[b, 8 * (token // 4) + row, 8 * (token % 4) + col, c] = vector[c * 64 + row * 8 + col]
    expected = raw - np.log(np.exp(raw).sum(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    log_p = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    seen = batch["mask"] != 255
    picked = np.take_along_axis(log_p, np.where(seen, batch["mask"], 0)[..., None].astype(int), -1)[..., 0]
    assert float(value) == pytest.approx(-picked[seen].mean(), rel=1e-4)
    right = (expected.argmax(-1) == batch["mask"])[seen].mean()
    assert float(metrics["pixel_accuracy"]) == pytest.approx(right, abs=2e-3)


def test_the_class_token_is_not_in_the_sequence():
    module = objective(VinySegmentation)
    batch = batch_of(VinyViews(), module.backbone.spec, size=1)
    before = apply(module, lambda m, x: m.predict({"image": x}, context(), want=("seg_logits",)), batch["image"])
    module.backbone.cls_token.set_value(module.backbone.cls_token[...] + 1)
    after = apply(module, lambda m, x: m.predict({"image": x}, context(), want=("seg_logits",)), batch["image"])
    np.testing.assert_array_equal(before["seg_logits"], after["seg_logits"])
    assert [(g.match, g.train) for g in module.groups] == [("backbone/cls_token", False)]


def made(**options):
    return VinyPets(dataset=KitData(), **({"train": 30, "test": 12, "size": 16} | options))


def arrays(source):
    return [(source[i]["image"].decode(), source[i]["mask"]) for i in range(len(source))]


def same(a, b):
    return all(np.array_equal(x, y) and np.array_equal(m, n) for (x, m), (y, n) in zip(a, b, strict=True))


def test_draws_stay_and_belong_to_test_images_too():
    data = made()
    source = pickle.loads(pickle.dumps(data.source("test")))
    first, again = arrays(source), arrays(data.source("test"))
    assert same(first, again) and len(first) == 12 and first[0][0].shape == (16, 16, 3)
    plain = arrays(made(flip=0.0, contrast=0.0).source("test"))
    assert not same(first, plain) and not same(first, arrays(made(draws=1).source("test")))
    mirrored = arrays(made(flip=1.0, contrast=0.0).source("test"))
    assert all(np.array_equal(x, y[:, ::-1]) for (x, _), (y, _) in zip(mirrored, plain, strict=True))


def test_the_test_set_follows_the_training_set():
    small, large = (made(train=n, flip=0.0, contrast=0.0) for n in (20, 30))
    first, more = arrays(small.source("train")), arrays(large.source("train"))
    assert same(first, more[:20]) and same(arrays(small.source("test"))[:10], more[20:])
    assert small.info.name == "kit_viny_20" and small.info.sizes == {"train": 20, "test": 12}
    assert small.info.mask_classes == KitData().info.mask_classes and small.info.classes == ()
    # Both official splits are in it, and nothing is twice.
    everything = made(train=48, test=48, flip=0.0, contrast=0.0)
    pixels = {x.tobytes() for split in ("train", "test") for x, _ in arrays(everything.source(split))}
    official = [KitData().source(s, features=("image",)) for s in ("train", "test")]
    whole = {
        np.asarray(PIL.Image.fromarray(s[i]["image"].decode()).resize((16, 16), PIL.Image.Resampling.NEAREST)).tobytes()
        for s in official
        for i in range(48)
    }
    assert pixels == whole


def test_what_viny_pets_refuses():
    with pytest.raises(DataError, match="90 and 12 images of 96"):
        made(train=90)
    with pytest.raises(DataError, match="at least one"):
        made(test=0)
    with pytest.raises(DataError, match="did you mean 'train'"):
        made().source("trian")
    with pytest.raises(ConfigError, match="no feature 'label'"):
        made().source("train", features=("label",))
    with pytest.raises(ConfigError, match="give a Dataset"):
        VinyPets(dataset="pets")
    with pytest.raises(ConfigError, match="no pixel classes"):
        objective(VinySegmentation, info=DatasetInfo(name="web", features={}, classes=INFO.classes))


def test_images_and_label_maps_change_alike():
    mask = np.random.default_rng(0).integers(0, 200, (5, 8), dtype=np.uint8)
    coded = {"image": ArrayImage(np.repeat(mask[..., None], 3, axis=-1)), "mask": mask}
    spec = tiny().spec
    kept = VinyViews()(coded, np.random.default_rng(0), spec)
    np.testing.assert_array_equal(kept["image"][..., 0], kept["mask"])
    assert kept["mask"].shape == (32, 32) and set(np.unique(kept["mask"])) <= set(np.unique(mask))
    turned = prepared(coded, np.random.default_rng(0), (32, 32), flip=1.0, contrast=0.0)
    np.testing.assert_array_equal(turned["image"], kept["image"][:, ::-1])
    np.testing.assert_array_equal(turned["mask"], kept["mask"][:, ::-1])
    factors = []
    for seed in range(20):
        one = prepared(coded, np.random.default_rng(seed), (5, 8), flip=0.0, contrast=0.3)
        np.testing.assert_array_equal(one["mask"], mask)
        grey = round(mask.mean())
        factors.append(
            np.median(
                (one["image"][..., 0].astype(float) - grey)[mask != grey] / (mask.astype(float) - grey)[mask != grey]
            )
        )
    assert 0.68 < min(factors) < 0.8 and 1.2 < max(factors) < 1.32
    with pytest.raises(DataError, match="mask"):
        VinyViews()(sample() | {"mask": np.zeros((3, 3), np.uint8)}, np.random.default_rng(0), spec)
