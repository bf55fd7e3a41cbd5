"""Masked autoencoder: the cases of methods_mim.md under their numbers, among them the golden run G1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, batch_of, context, count, flatten, loss_of, objective, split, tiny
from spendflops_plugins.mae import MAE, MAEViews, kept_tokens, masked_pixel_loss, random_masking
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.patches import patchify

SMALL = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


test_kit = spendflops.testing.objective_tests("mae", **SMALL)


def small(**options):
    return objective(MAE, **(SMALL | options))


SIZES = {
    "B": {"dim": 768, "depth": 12, "heads": 12, "patch_size": 16},
    "L": {"dim": 1024, "depth": 24, "heads": 16, "patch_size": 16},
    "H": {"dim": 1280, "depth": 32, "heads": 16, "patch_size": 14},
}


ENCODER = {"B": 85_647_360, "L": 303_099_904, "H": 630_435_840}


@pytest.mark.parametrize(
    "name,depth,trainable,decoder",
    [
        ("B", 8, 111_655_680, 26_008_320),
        ("B", 1, 89_588_992, 3_941_632),
        ("L", 8, 329_239_296, 26_139_392),
        ("L", 1, 307_172_608, 4_072_704),
        ("H", 8, 656_613_964, 26_178_124),
        ("H", 1, 634_547_276, 4_111_436),
    ],
)
def test_t1_parameter_counts(name, depth, trainable, decoder):
    options = SIZES[name] | {"depth": 1}  # one encoder block is traced, the others are copies

    def build():
        return MAE(ViT(rngs=nnx.Rngs(0), **options), info=INFO, rngs=nnx.Rngs(1), decoder_depth=depth)

    dim = options["dim"]
    total = count(build) + (SIZES[name]["depth"] - 1) * (12 * dim**2 + 13 * dim)
    assert total == trainable
    assert total - ENCODER[name] == decoder


def test_t1_with_the_fixed_tables_the_base_model_has_the_published_total():
    assert 111_655_680 + 197 * 768 + 197 * 512 == 111_907_840


@pytest.mark.parametrize("ratio,counts", [(0.55, (88, 115, 460)), (0.65, (68, 89, 358))])
def test_t2_visible_tokens(ratio, counts):
    assert tuple(kept_tokens(n, ratio) for n in (196, 256, 1024)) == counts


def test_t2_visible_tokens_and_ieee_cases():
    assert [kept_tokens(n, 0.75) for n in (196, 256, 1024)] == [49, 64, 256]
    assert [kept_tokens(n, 0.85) for n in (196, 256, 1024)] == [29, 38, 153]
    assert [kept_tokens(100, r) for r in (0.9, 0.8, 0.55)] == [9, 19, 44]


def test_t4_masking():
    noise = jnp.asarray([[0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4]])
    keep, restore, mask = random_masking(noise, 0.75)
    assert keep[0].tolist() == [1, 5]
    assert restore[0].tolist() == [7, 0, 4, 2, 5, 1, 6, 3]
    assert mask[0].tolist() == [1, 0, 1, 1, 1, 0, 1, 1]


def pixel_loss(image, prediction, mask, norm_pix):
    with jax.enable_x64(True):
        target = patchify(jnp.asarray(image, jnp.float64)[None], 16)
        mask = jnp.ones((1, 196)) if mask is None else jnp.asarray(mask[None])
        return float(
            masked_pixel_loss(jnp.full(target.shape, prediction, jnp.float64), target, mask, norm_pix=norm_pix)
        )


def test_t6_constant_images():
    image = np.full((224, 224, 3), 2.0)
    assert pixel_loss(image, 0.0, None, False) == pytest.approx(4.0, abs=1e-12)
    assert pixel_loss(image, 0.0, None, True) == pytest.approx(0.0, abs=1e-12)
    assert pixel_loss(image, 1.0, None, True) == pytest.approx(1.0, abs=1e-12)


def test_t7_unbiased_variance():
    image = np.random.default_rng(0).normal(size=(224, 224, 3))
    patches = np.asarray(patchify(image[None], 16))[0]
    s2 = patches.var(-1, ddof=1)
    assert pixel_loss(image, 0.0, None, True) == pytest.approx(np.mean(767 / 768 * s2 / (s2 + 1e-6)), rel=1e-12)
    assert pixel_loss(image, 0.0, None, True) == pytest.approx(0.998698, abs=2e-6)


def test_t8_ramp():
    row, col = np.mgrid[:224, :224]
    image = np.stack([0.01 * row, 0.01 * col, 0.005 * (row + col)], axis=-1)
    odd = (np.arange(196) % 2 == 1).astype(np.float64)
    assert pixel_loss(image, 0.0, odd, False) == pytest.approx(1.6808624, abs=1e-7)
    assert pixel_loss(image, 0.0, None, False) == pytest.approx(1.5916624, abs=2e-7)
    assert pixel_loss(image, 0.0, odd, True) == pytest.approx(0.9986228, abs=1e-7)
    assert pixel_loss(image, 0.5, odd, True) == pytest.approx(1.2486229, abs=2e-7)
    patch = np.asarray(patchify(image[None], 16))[0, 0]
    assert (patch.mean(), patch.var(ddof=1), patch.var()) == pytest.approx((0.075, 0.00177314, 0.00177083), abs=1e-8)
    np.testing.assert_allclose(patch[:6], [0, 0, 0, 0, 0.01, 0.005], atol=1e-12)
    assert patch[48] == pytest.approx(0.01)


def test_t9_visible_pixels_are_no_target_and_order_among_the_kept_is_free():
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=(2, 1, 16, 12))
    mask = (np.arange(16) >= 4)[None].astype(np.float32)
    changed = target.copy()
    changed[:, :4] += 5
    for norm_pix in (False, True):
        assert masked_pixel_loss(prediction, target, mask, norm_pix=norm_pix) == masked_pixel_loss(
            prediction, changed, mask, norm_pix=norm_pix
        )
    model = small(norm_pix=True)
    noise = rng.permutation(16)[None].astype(np.float32)
    swapped = noise.copy()
    low = np.argsort(noise[0])[:4]
    swapped[0, low] = noise[0, low[::-1]]
    pixels = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
    run = jax.jit(lambda noise: model.reconstruct(pixels, noise, context())[0])
    np.testing.assert_allclose(run(noise), run(swapped), atol=1e-5)


def fill(torch_shape, key):
    """The golden runs' fill rule, in PyTorch's layout."""
    index = np.arange(np.prod(torch_shape))
    values = 0.05 * np.sin(0.1 * (index + 1) + 0.7 * len(key))
    values += 1.0 if len(torch_shape) == 1 and key.endswith("weight") else 0.0
    return values.reshape(torch_shape)


def torch_key(path):
    """Our path -> (the official key, our array's axes -> PyTorch's)."""
    path = path.replace("backbone/", "").replace("decoder/blocks", "decoder_blocks").replace("decoder/", "decoder_")
    path = path.replace("decoder_mask_token", "mask_token").replace("patch_embed/", "patch_embed/proj/")
    *head, last = path.split("/")
    return ".".join([*head, {"kernel": "weight", "scale": "weight"}.get(last, last)])


def golden_model(ratio, norm_pix):
    graph, params, stats = split(small(backbone={"depth": 2}, mask_ratio=ratio, norm_pix=norm_pix))

    def value(path, leaf):
        name = "/".join(str(k.key) for k in path)
        key = torch_key(name)
        if leaf.ndim == 4:
            return jnp.asarray(fill(leaf.shape[::-1][:2] + leaf.shape[:2], key).transpose(2, 3, 1, 0))
        if name.endswith("kernel"):
            return jnp.asarray(fill(leaf.shape[::-1], key).T)
        return jnp.asarray(fill(leaf.shape, key))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, params), stats), params


GOLDEN = [
    (0.75, 4, 0.506375951, 1.001018240, -0.000552852, 0.072830825),
    (0.55, 7, 0.505840375, 1.000294124, -0.000556961, 0.073263503),
    (0.65, 5, 0.507076416, 1.001331498, -0.000554620, 0.072960569),
    (0.85, 2, 0.506074486, 1.000779897, -0.000550768, 0.072188870),
]


@pytest.mark.parametrize("ratio,kept,raw,norm,mean,std", GOLDEN)
def test_g1_official_run(ratio, kept, raw, norm, mean, std):
    n, row, col, ch = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), np.arange(3), indexing="ij")
    pixels = np.sin(0.3 * row + 0.2 * col + ch + n)
    i = np.arange(16)
    noise = np.stack([(7 * i % 16) / 16, ((5 * i + 3) % 16) / 16])
    with jax.enable_x64(True):
        model, params = golden_model(ratio, False)
        predicted, mask, latent = jax.jit(lambda x, e: model.reconstruct(x, e, context()))(pixels, noise)
        target = patchify(jnp.asarray(pixels), 8)
        losses = [float(masked_pixel_loss(predicted, target, mask, norm_pix=flag)) for flag in (False, True)]
    predicted, latent_all = np.asarray(predicted), np.concatenate([latent.prefix, latent.tokens], axis=1)
    assert sum(v.size for v in jax.tree.leaves(params)) + 17 * 32 + 17 * 16 == 39_616
    assert latent.tokens.shape[1] == kept
    assert losses == pytest.approx([raw, norm], abs=1e-6)
    assert (predicted.mean(), predicted.std(ddof=1)) == pytest.approx((mean, std), abs=1e-6)
    if ratio == 0.75:
        np.testing.assert_allclose(predicted[0, 0, :3], [-0.02169689, -0.16468891, -0.01473849], atol=1e-6)
        assert latent_all.mean() == pytest.approx(0.026933850, abs=1e-6)
        np.testing.assert_allclose(latent_all[0, 0, :3], [0.68979578, 0.98359482, -0.22042443], atol=1e-6)
        assert [sorted(np.flatnonzero(row == 0)) for row in np.asarray(mask)] == [[0, 5, 7, 14], [0, 3, 6, 9]]


def test_loss_is_that_of_the_drawn_mask():
    module, ctx = small(norm_pix=True), context()
    batch = batch_of(MAEViews(), module.backbone.spec, size=3)
    pixels = np.asarray(module.backbone.normalise(batch["image"]))
    noise = np.asarray(jax.random.uniform(ctx.fork("mask"), (3, 16)))
    again = lambda m: m.reconstruct(jnp.asarray(pixels), jnp.asarray(noise), ctx)[0]  # noqa: E731
    value, metrics, _, predicted = loss_of(module, batch, again)
    patches, errors = np.asarray(patchify(pixels, 8), np.float64), []
    for b in range(3):
        hidden = np.argsort(noise[b])[4:]
        for token in hidden:
            t = patches[b, token]
            t = (t - t.mean()) / np.sqrt(t.var(ddof=1) + 1e-6)
            errors.append(np.mean((np.asarray(predicted, np.float64)[b, token] - t) ** 2))
    assert float(value) == pytest.approx(np.mean(errors), rel=1e-5)
    assert 0 < float(metrics["monitor"]) < 1.1


def test_backbones_without_a_class_token():
    module = objective(MAE, backbone={"class_token": False, "pooling": "mean"}, **SMALL)
    batch = batch_of(MAEViews(), module.backbone.spec, size=2)
    assert jax.eval_shape(lambda: module.loss(batch, None, context()).value).shape == ()


def test_groups_decay_tokens_but_not_biases_and_norms():
    import re

    _, params, _ = split(small())
    exempt = [p for p in flatten_paths(params) if any(re.fullmatch(g.match, p) and not g.decay for g in MAE.groups)]
    assert exempt and all(p.endswith(("bias", "scale")) for p in exempt)
    assert {p.rsplit("/", 1)[1] for p in flatten_paths(params)} - {"bias", "scale"} == {
        "kernel",
        "cls_token",
        "mask_token",
    }


def flatten_paths(tree):
    return list(flatten(jax.tree.map(lambda x: np.zeros(()), tree)))


class Pooled(Backbone):
    def __init__(self):
        self.dim, self.stride, self.image_size = 8, (8, 8), (32, 32)

    def __call__(self, images, ctx, *, levels=()):
        raise NotImplementedError


def test_refusals():
    with pytest.raises(ConfigError, match="TokenBackbone"):
        MAE(Pooled(), info=INFO, rngs=nnx.Rngs(0))
    for ratio in (0.0, 0.99, 1.5):
        with pytest.raises(ConfigError, match="of 16 patches"):
            small(mask_ratio=ratio)


def test_views_are_one_crop_of_the_models_size():
    batch = batch_of(MAEViews(flip=1.0), tiny().spec, size=2)
    assert batch["image"].shape == (2, 32, 32, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"], batch_of(MAEViews(flip=1.0), tiny().spec, size=2)["image"])
    assert not np.array_equal(batch["image"], batch_of(MAEViews(flip=0.0), tiny().spec, size=2)["image"])
    assert MAEViews().features == ("image",)
