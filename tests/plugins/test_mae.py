"""Masked autoencoder: the cases of methods_mim.md under their numbers, among them the golden run G1."""

from __future__ import annotations

import functools
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, batch_of, context, count, flatten, loss_of, objective, split, tiny
from spendflops_plugins.mae import MAE, Decoder, MAEViews, pixel_loss
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.parts.masking import kept_tokens
from spendflops.parts.nn.patches import patchify, unpatchify
from spendflops.testing.model import Subject

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


COUNTS = [
    # Encoder, blocks of the decoder: total with the fixed tables, trained, of the decoder; tensors of official files.
    ("B", 8, 111_907_840, 111_655_680, 26_008_320, 254),
    ("B", 1, 89_841_152, 89_588_992, 3_941_632, 170),
    ("L", 8, 329_541_888, 329_239_296, 26_139_392, 398),
    ("L", 1, 307_475_200, 307_172_608, 4_072_704, 314),
    ("H", 8, 657_074_508, 656_613_964, 26_178_124, 494),
    ("H", 1, 635_007_820, 634_547_276, 4_111_436, 410),
]


def of_size(name, **options):
    """A model of a published size, but with one block of the encoder: the others are copies."""
    trunk = SIZES[name] | {"depth": 1}
    return lambda: MAE(ViT(rngs=nnx.Rngs(0), **trunk), info=INFO, rngs=nnx.Rngs(1), **options)


@pytest.mark.parametrize("name, depth, total, trained, decoder, keys", COUNTS)
def test_t1_parameter_counts(name, depth, total, trained, decoder, keys):
    dim, blocks, patch = (SIZES[name][key] for key in ("dim", "depth", "patch_size"))
    paths = flatten_paths(nnx.to_pure_dict(nnx.state(nnx.eval_shape(of_size(name, decoder_depth=depth)), nnx.Param)))
    found = count(of_size(name, decoder_depth=depth)) + (blocks - 1) * (12 * dim**2 + 13 * dim)
    assert found == trained and found - ENCODER[name] == decoder
    assert trained + ((224 // patch) ** 2 + 1) * (dim + 512) == total
    official = {golden.torch_key(path, golden.MAE_KEYS) for path in paths}
    assert len(official) + (blocks - 1) * len([k for k in official if k.startswith("blocks.0.")]) + 2 == keys


@pytest.mark.parametrize("width", [128, 256, 768])
def test_decoders_of_any_width(width):
    # 12 E^2 + 13 E a block; embedding, mask token, norm, prediction.
    expected = 8 * (12 * width**2 + 13 * width) + 769 * width + width + 2 * width + 768 * (width + 1)
    assert count(of_size("B", decoder_dim=width)) - count(of_size("B", decoder_dim=512)) == expected - 26_008_320


def test_t12_initial_values_of_the_decoder():
    decoder = Decoder(64, 768, dim=128, depth=1, heads=2, rngs=nnx.Rngs(0), dtype_name="float32")
    assert np.asarray(decoder.mask_token[...]).std() == pytest.approx(0.02, rel=0.2)
    layers = {(64, 128): decoder.embed, (128, 384): decoder.blocks[0].attn.qkv, (128, 768): decoder.pred}
    for (inputs, outputs), layer in layers.items():
        bound = np.sqrt(6 / (inputs + outputs))
        assert 0.99 * bound < np.abs(np.asarray(layer.kernel[...])).max() <= bound
        assert not np.any(layer.bias[...])


@pytest.mark.parametrize("ratio,counts", [(0.55, (88, 115, 460)), (0.65, (68, 89, 358))])
def test_t2_visible_tokens(ratio, counts):
    assert tuple(kept_tokens(n, ratio) for n in (196, 256, 1024)) == counts


def test_t2_visible_tokens_and_ieee_cases():
    assert [kept_tokens(n, 0.75) for n in (196, 256, 1024)] == [49, 64, 256]
    assert [kept_tokens(n, 0.85) for n in (196, 256, 1024)] == [29, 38, 153]
    assert [kept_tokens(100, r) for r in (0.9, 0.8, 0.55)] == [9, 19, 44]


def test_t4_masking():
    noise = jnp.asarray([[0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4]])
    module = small(backbone={"image_size": (16, 32)}, mask_ratio=0.75)
    pixels = np.random.default_rng(0).normal(size=(1, 16, 32, 3)).astype(np.float32)
    run = jax.jit(
        lambda x: (module.reconstruct(x, noise, context())[1:], module.predict_hidden(x, noise, context())[1:3])
    )
    (mask, latent), (patches, order) = run(pixels)
    assert order[0].tolist() == [1, 5, 3, 7, 2, 4, 6, 0]
    assert np.argsort(order[0]).tolist() == [7, 0, 4, 2, 5, 1, 6, 3]
    assert mask[0].tolist() == [1, 0, 1, 1, 1, 0, 1, 1] and latent.tokens.shape[1] == 2
    np.testing.assert_array_equal(patches, np.asarray(patchify(pixels, 8))[:, [3, 7, 2, 4, 6, 0]])


def loss_on(image, prediction, hidden, norm_pix):
    """The loss of a constant prediction, with the patches ``hidden`` (all by default) hidden."""
    with jax.enable_x64(True):
        patches = patchify(jnp.asarray(image, jnp.float64)[None], 16)
        patches = patches if hidden is None else patches[:, hidden]
        return float(pixel_loss(jnp.full(patches.shape, prediction, jnp.float64), patches, norm_pix=norm_pix))


def test_t6_constant_images():
    image = np.full((224, 224, 3), 2.0)
    assert loss_on(image, 0.0, None, False) == pytest.approx(4.0, abs=1e-12)
    assert loss_on(image, 0.0, None, True) == pytest.approx(0.0, abs=1e-12)
    assert loss_on(image, 1.0, None, True) == pytest.approx(1.0, abs=1e-12)


def test_t7_unbiased_variance():
    image = np.random.default_rng(0).normal(size=(224, 224, 3))
    patches = np.asarray(patchify(image[None], 16))[0]
    s2 = patches.var(-1, ddof=1)
    assert loss_on(image, 0.0, None, True) == pytest.approx(np.mean(767 / 768 * s2 / (s2 + 1e-6)), rel=1e-12)
    assert loss_on(image, 0.0, None, True) == pytest.approx(0.998698, abs=2e-6)


def test_t8_ramp():
    row, col = np.mgrid[:224, :224]
    image = np.stack([0.01 * row, 0.01 * col, 0.005 * (row + col)], axis=-1)
    odd = np.arange(1, 196, 2)
    assert loss_on(image, 0.0, odd, False) == pytest.approx(1.6808624, abs=1e-7)
    assert loss_on(image, 0.0, None, False) == pytest.approx(1.5916624, abs=2e-7)
    assert loss_on(image, 0.0, odd, True) == pytest.approx(0.9986228, abs=1e-7)
    assert loss_on(image, 0.5, odd, True) == pytest.approx(1.2486229, abs=2e-7)
    patch = np.asarray(patchify(image[None], 16))[0, 0]
    assert (patch.mean(), patch.var(ddof=1), patch.var()) == pytest.approx((0.075, 0.00177314, 0.00177083), abs=1e-8)
    np.testing.assert_allclose(patch[:6], [0, 0, 0, 0, 0.01, 0.005], atol=1e-12)
    assert patch[48] == pytest.approx(0.01)


def test_t9_visible_pixels_are_no_target_and_order_among_the_kept_is_free():
    rng = np.random.default_rng(0)
    model = small(norm_pix=True)
    noise = rng.permutation(16)[None].astype(np.float32)
    swapped = noise.copy()
    low = np.argsort(noise[0])[:4]
    swapped[0, low] = noise[0, low[::-1]]
    pixels = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
    run = jax.jit(
        lambda x, noise: (model.reconstruct(x, noise, context())[0], *model.predict_hidden(x, noise, context()))
    )
    (whole, _, patches, _, _), (whole_swapped, *_) = run(pixels, noise), run(pixels, swapped)
    np.testing.assert_allclose(whole, whole_swapped, atol=1e-5)
    changed = np.array(patchify(pixels, 8))
    changed[:, low] += 5
    changed = np.asarray(unpatchify(changed, 8, (4, 4)))
    np.testing.assert_array_equal(run(changed, noise)[2], patches)


GOLDEN = [
    (0.75, 4, 0.506375951, 1.001018240, -0.000552852, 0.072830825),
    (0.55, 7, 0.505840375, 1.000294124, -0.000556961, 0.073263503),
    (0.65, 5, 0.507076416, 1.001331498, -0.000554620, 0.072960569),
    (0.85, 2, 0.506074486, 1.000779897, -0.000550768, 0.072188870),
]


@pytest.mark.parametrize("ratio,kept,raw,norm,mean,std", GOLDEN)
def test_g1_official_run(ratio, kept, raw, norm, mean, std):
    pixels, noise = golden.images(), golden.noise()
    with jax.enable_x64(True):
        model, sizes = golden.filled(small(backbone={"depth": 2}, mask_ratio=ratio), golden.MAE_KEYS)
        predicted, mask, latent = jax.jit(lambda x, e: model.reconstruct(x, e, context()))(pixels, noise)
        hidden = np.nonzero(mask)
        pair = [np.asarray(x)[hidden][None] for x in (predicted, patchify(pixels, 8))]
        losses = [float(pixel_loss(*pair, norm_pix=flag)) for flag in (False, True)]
    predicted, latent_all = np.asarray(predicted), np.concatenate([latent.prefix, latent.tokens], axis=1)
    assert sum(sizes.values()) + 17 * 32 + 17 * 16 == 39_616
    assert latent.tokens.shape[1] == kept
    assert losses == pytest.approx([raw, norm], abs=1e-6)
    assert (predicted.mean(), predicted.std(ddof=1)) == pytest.approx((mean, std), abs=1e-6)
    if ratio == 0.75:
        np.testing.assert_allclose(predicted[0, 0, :3], [-0.02169689, -0.16468891, -0.01473849], atol=1e-6)
        assert latent_all.mean() == pytest.approx(0.026933850, abs=1e-6)
        np.testing.assert_allclose(latent_all[0, 0, :3], [0.68979578, 0.98359482, -0.22042443], atol=1e-6)
        assert [sorted(np.flatnonzero(row == 0)) for row in np.asarray(mask)] == [[0, 5, 7, 14], [0, 3, 6, 9]]


def test_closed_form_is_the_cost_of_the_traced_step():
    for options in ({}, {"mask_ratio": 0.55, "decoder_depth": 2}):
        train = Subject(MAE, options=SMALL | options, batch_size=3).train
        assert train.closed_form == train.cost().total
    backbone = functools.partial(ViT, **TINY, class_token=False, pooling="mean")
    train = Subject(MAE, options=SMALL, backbone=backbone, batch_size=3).train
    assert train.closed_form == train.cost().total


@pytest.mark.parametrize(
    "ratio, depth, expected",
    [
        (0.55, 8, 79_021_830_144),
        (0.55, 1, 51_324_979_200),
        (0.65, 8, 68_433_014_784),
        (0.65, 1, 40_736_163_840),
        (0.75, 8, 58_455_588_864),
        (0.75, 1, 30_758_737_920),
        (0.85, 8, 48_039_297_024),
        (0.85, 1, 20_342_446_080),
    ],
)
def test_closed_form_of_the_base_model(ratio, depth, expected):
    """The reference predicts all patches and the class token's slot; we predict the hidden patches alone."""
    build = lambda: MAE(  # noqa: E731
        ViT(rngs=nnx.Rngs(0), **SIZES["B"]), info=INFO, rngs=nnx.Rngs(1), mask_ratio=ratio, decoder_depth=depth
    )
    found = nnx.eval_shape(build).closed_form({"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)})
    assert expected - found == 3 * 2 * (kept_tokens(196, ratio) + 1) * 512 * 768
    assert found == pytest.approx(expected, rel=0.005)


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


def test_decoders_that_cannot_be_divided_are_refused():
    for options in ({"decoder_dim": 18, "decoder_heads": 2}, {"decoder_dim": 16, "decoder_heads": 3}):
        with pytest.raises(ConfigError, match=f"decoder_dim {options['decoder_dim']}"):
            small(**options)


def test_relative_positions_are_refused_before_anything_compiles():
    module = small(backbone={"relative_positions": "shared", "positions": "none"})
    batch = {"image": np.zeros((2, 32, 32, 3), np.uint8)}
    with pytest.raises(ConfigError, match="relative positions need all tokens"):
        jax.eval_shape(lambda: module.loss(batch, None, context()).value)


def test_views_are_one_crop_of_the_models_size():
    batch = batch_of(MAEViews(flip=1.0), tiny().spec, size=2)
    assert batch["image"].shape == (2, 32, 32, 3) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"], batch_of(MAEViews(flip=1.0), tiny().spec, size=2)["image"])
    assert not np.array_equal(batch["image"], batch_of(MAEViews(flip=0.0), tiny().spec, size=2)["image"])
    assert MAEViews().features == ("image",)
