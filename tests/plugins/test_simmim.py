"""SimMIM and its ViNy variant: the cases of methods_mim.md under their numbers, with the golden runs G2 and G3."""

from __future__ import annotations

import functools
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, count, flatten, loss_of, objective, split, tiny
from spendflops_plugins.simmim import SimMIM, SimMIMViews, as_mask, tokens_of_units
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.labels import averaged, softmax_cross_entropy
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.patches import patchify
from spendflops.parts.schedules import MultiStep, scaled_lr
from spendflops.testing.model import Subject

OFFICIAL = {
    "relative_positions": "shared",
    "layer_scale": 0.1,
    "key_bias": False,
    "positions": "none",
    "init": "simmim",
}
VINY = {
    "patch_norm": True,
    "qkv_bias": False,
    "norm_eps": 1e-5,
    "init": "viny",
    "positions": "learned",
}
VINY_METHOD = {
    "mask_ratio": 0.5,
    "rounding": "truncate",
    "class_token": False,
    "init": "viny",
    "layout": "row_column_channel",
    "reduction": "viny",
}

test_kit = spendflops.testing.objective_tests("simmim")


def official(**options):
    """Squares of 2 x 2 patches of 8 pixels, in images of 32."""
    return objective(SimMIM, backbone=OFFICIAL | options.pop("backbone", {}), **options)


def viny(**options):
    return objective(SimMIM, backbone=VINY | options.pop("backbone", {}), **({"mask_unit": 8} | VINY_METHOD | options))


def on(dim, depth, heads, image, patch, trunk, *, method=None, cls=SimMIM, info=INFO):
    """A factory of an objective on a ViT of any size."""
    sizes = {"dim": dim, "depth": depth, "heads": heads, "image_size": image, "patch_size": patch}
    return lambda: cls(ViT(rngs=nnx.Rngs(0), **sizes, **trunk), info=info, rngs=nnx.Rngs(1), **(method or {}))


VINY_ENCODER = VINY | {"head_dim": 64}


def test_t1_parameter_counts():
    assert count(on(768, 12, 12, 224, 16, OFFICIAL)) == 86_256_720
    assert 86_256_720 - 768 * 769 == 85_666_128  # the encoder with its mask token
    full = on(128, 12, 8, 128, 16, VINY_ENCODER, method={"mask_unit": 16} | VINY_METHOD)
    assert count(full) == 4_942_080
    six = DatasetInfo(name="intel", features={}, classes=tuple("abcdef"))
    assert count(on(128, 12, 8, 128, 16, VINY_ENCODER, cls=Supervised, info=six)) == 4_843_654


def test_t1_the_official_file_has_190_keys():
    # A key stands for a tensor of each of 12 blocks; the file holds the index of the relative positions beside them.
    _, params, _ = split(official(backbone={"depth": 2}))
    keys = {golden.torch_key(path, golden.SIMMIM_KEYS) for path in flatten(params)}
    block = {key for key in keys if ".blocks.1." in key}
    assert len(keys) + 10 * len(block) + 1 == 190


@pytest.mark.parametrize(
    "image, patch, options, units, hidden",
    [(224, 16, {}, 30, 120), (192, 4, {"mask_unit": 32}, 22, 1408), (128, 16, {"mask_unit": 16} | VINY_METHOD, 32, 32)],
)
def test_t2_hidden_units_and_tokens(image, patch, options, units, hidden):
    module = nnx.eval_shape(on(32, 1, 4, image, patch, {"positions": "none"}, method=options))
    squares = (image // module.mask_unit) ** 2
    assert module.hidden_units(squares) == units
    found = jax.eval_shape(lambda e: module.hidden_tokens(e, (image // patch,) * 2), jnp.zeros((3, squares)))
    assert found.shape == (3, hidden)


def test_t5_schedules():
    peak, start = (scaled_lr(base, batch_size=2048, per=512) for base in (1e-4, 5e-7))
    epoch = 100  # any number of steps
    schedule = MultiStep(peak=peak, milestones=(0.875,), factor=0.1, warmup_steps=10 * epoch, start=start)
    at = jax.jit(lambda step: schedule(context().__class__(key=0, step=step, steps=jnp.asarray(800 * epoch))))
    found = [float(at(jnp.asarray(e * epoch))) for e in (0, 5, 10, 699, 700, 799)]
    np.testing.assert_allclose(found, [2e-6, 2.01e-4, 4e-4, 4e-4, 4e-5, 4e-5], rtol=1e-6)


def masked(module):
    """A function of pixels and hidden tokens that gives (loss, predictions for all patches, features).

    ``head`` gives it other values (kernel, bias) in the head. Compiled once for all values.
    """
    graph, params, stats = split(module)

    @jax.jit
    def run(params, pixels, hidden):
        used, ctx = nnx.merge(graph, params, stats), context(train=False)
        return used.masked_loss(pixels, hidden, ctx)[0], *used.reconstruct(pixels, hidden, ctx)

    def call(pixels, hidden, *, head=None, **changes):
        values = params
        if head is not None:
            kernel, bias = params["head"]["kernel"], params["head"]["bias"]
            new = {"kernel": jnp.full_like(kernel, head[0]), "bias": jnp.zeros_like(bias) + head[1]}
            values = params | {"head": new}
        if changes:
            values = values | {"backbone": values["backbone"] | changes}
        loss, predicted, features = run(values, jnp.asarray(pixels), jnp.asarray(hidden))
        return float(loss), np.asarray(predicted), features

    return call


def test_t10_official_head_and_loss():
    ones, hidden = np.ones((1, 32, 32, 3), np.float32), np.array([[0, 3]])
    run = masked(official(backbone={"patch_size": 16}, mask_unit=16))
    assert run(ones, hidden, head=(0, 0))[0] == pytest.approx(1.0, abs=1e-6)
    assert run(ones, hidden, head=(0, 0.25))[0] == pytest.approx(0.75, abs=1e-6)
    predicted = run(0 * ones, hidden, head=(0, np.arange(768)))[1]
    assert predicted.reshape(4, 16, 16, 3)[0, 2, 3, 1] == 291


def test_t10_viny_loss_and_layout():
    ones, hidden = np.ones((1, 128, 128, 3), np.float32), np.arange(32)[None]
    run = masked(viny(backbone={"image_size": 128, "patch_size": 16}, mask_unit=16))
    assert run(ones, hidden, head=(0, 0))[0] == pytest.approx(0.03125, abs=1e-8)
    np.testing.assert_array_equal(run(ones, hidden, head=(0, np.arange(768)))[1][0, 0], np.arange(768))


def test_t10_viny_segmentation_starts_at_ln_3():
    logits, labels = jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32)
    assert float(softmax_cross_entropy(logits, labels, averaged(labels))) == pytest.approx(1.0986123, abs=1e-7)


def test_t12_initial_values():
    module = on(768, 0, 12, 64, 16, {"positions": "none"})()
    token = np.asarray(module.mask_token[...])
    assert np.abs(token).max() <= 0.02 and token.std() == pytest.approx(0.02 * 0.53956, rel=0.1)
    for name in ("kernel", "bias"):
        values = np.asarray(getattr(module.head, name)[...])
        assert 0.99 * 768**-0.5 < np.abs(values).max() <= 768**-0.5
    other = on(768, 0, 12, 64, 16, {"positions": "none"}, method=VINY_METHOD)()
    assert np.asarray(other.mask_token[...]).std() == pytest.approx(1.0, rel=0.1)


def units_of(masks):
    """Hidden tokens of masks over squares, an image at a time."""
    members = tokens_of_units((4, 4), 2)
    return [members[np.flatnonzero(mask)].reshape(1, -1) for mask in masks]


def test_g2_official_run():
    hidden = units_of([[1, 0, 0, 1], [0, 1, 1, 1]])
    assert [h.size for h in hidden] == [8, 12]
    with jax.enable_x64(True):
        module, sizes = golden.filled(official(backbone={"depth": 2}), golden.SIMMIM_KEYS)
        run = masked(module)
        runs = [run(golden.images()[n : n + 1], hidden[n]) for n in range(2)]
        bias = module.backbone.relative
        bias.table.set_value(jnp.broadcast_to(jnp.arange(52.0)[:, None], (52, 4)))
        row = np.asarray(bias((4, 4), prefix=1))[0, 1]
    assert sum(sizes.values()) == 38_320
    # The official loss is one mean over the 20 hidden tokens of both images, which have not the same number.
    assert (8 * runs[0][0] + 12 * runs[1][0]) / 20 == pytest.approx(0.732507, abs=1e-6)
    # The first pixel of the first image, by channel.
    np.testing.assert_allclose(runs[0][1][0, 0, :3], [-0.54798409, 0.07429954, 0.32345152], atol=1e-6)
    # The official encoder gives the patch tokens alone.
    assert np.mean([features.tokens for _, _, features in runs]) == pytest.approx(0.041338716, abs=1e-6)
    assert row[:6].tolist() == [50, 24, 23, 22, 21, 17]


VINY_GOLDEN = {"depth": 2, "dim": 16, "heads": 2, "head_dim": 64, "mlp_ratio": 2}


def test_g3_official_run():
    pixels = golden.images()
    with jax.enable_x64(True):
        module, sizes = golden.filled(viny(backbone=VINY_GOLDEN), golden.VINY_KEYS, patches="matrix")
        hidden = np.asarray(module.hidden_tokens(jnp.asarray(golden.noise()), (4, 4)))
        loss, predicted, _ = masked(module)(pixels, hidden)
        classes = apply(module.backbone, lambda m, x: m(x, context(train=False)).summary, jnp.asarray(pixels))
    of_head = {key: size for key, size in sizes.items() if key.startswith(("decoder", "mask_token"))}
    assert sum(sizes.values()) - sum(of_head.values()) == 22_512
    assert {"mask_token", "decoder.weight", "decoder.bias", "transformer.layers.1.1.network.4.weight"} <= set(sizes)
    assert hidden.shape == (2, 8) and np.all(np.take_along_axis(golden.noise(), hidden, axis=1) >= 0.5)
    assert (loss, 8 * loss) == pytest.approx((0.080474257, 0.643794056), abs=1e-6)
    of_hidden = np.take_along_axis(predicted, hidden[..., None], axis=1)
    assert of_hidden.mean() == pytest.approx(0.001097057, abs=1e-6)
    np.testing.assert_allclose(classes[0, :3], [-1.62315796, -0.54161854, -1.18964742], atol=1e-6)


def test_g3_segmentation_with_plain_cross_entropy():
    """The encoder's patch tokens, one linear layer to (class, row, column) of a patch."""
    n, row, col = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), indexing="ij")
    target = (row // 4 + col // 4 + n) % 3
    with jax.enable_x64(True):
        module, _ = golden.filled(viny(backbone=VINY_GOLDEN), golden.VINY_KEYS, patches="matrix")
        layer = Linear(16, 3 * 64, rngs=nnx.Rngs(0))
        layer.kernel.set_value(jnp.asarray(golden.fill((192, 16), "mlp.weight", vector=False).T))
        layer.bias.set_value(jnp.asarray(golden.fill((192,), "mlp.bias", vector=True)))
        hidden = jnp.zeros((2, 0), jnp.int32)
        tokens = apply(module, lambda m, x: m.reconstruct(x, hidden, context())[1].tokens, jnp.asarray(golden.images()))
        logits = layer(tokens).reshape(2, 16, 3, 64).swapaxes(2, 3).reshape(-1, 3)
        labels = jnp.asarray(np.asarray(patchify(target[..., None], 8)).reshape(-1, 1), jnp.int32)
        value = float(softmax_cross_entropy(logits, labels, averaged(labels)))
    assert value == pytest.approx(1.108086331, abs=1e-6)


def test_units_are_squares_of_tokens():
    np.testing.assert_array_equal(
        tokens_of_units((4, 6), 2),
        [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]],
    )
    np.testing.assert_array_equal(tokens_of_units((2, 3), 1)[:, 0], np.arange(6))
    np.testing.assert_array_equal(as_mask(jnp.asarray([[2, 0]]), 4), [[True, False, True, False]])


@pytest.mark.parametrize("variant", [official, viny])
def test_loss_is_that_of_the_drawn_mask(variant):
    module, ctx = variant(), context()
    batch = batch_of(SimMIMViews(), module.backbone.spec, size=3)
    pixels = np.asarray(module.backbone.normalise(batch["image"]))
    side = module.mask_unit // 8
    units = 16 // side**2
    noise = np.asarray(jax.random.uniform(ctx.fork("mask"), (3, units)))
    chosen = np.sort(np.argsort(noise, axis=1)[:, -module.hidden_units(units) :], axis=1)
    hidden = tokens_of_units((4, 4), side)[chosen].reshape(3, -1)
    assert len({tuple(row) for row in hidden}) > 1
    again = lambda m: m.reconstruct(jnp.asarray(pixels), jnp.asarray(hidden), ctx)[0]  # noqa: E731
    value, metrics, _, predicted = loss_of(module, batch, again)
    patches, predicted = (np.asarray(x, np.float64) for x in (patchify(pixels, 8), predicted))
    total = [np.abs(patches[b, t] - predicted[b, t]).sum() for b in range(3) for t in hidden[b]]
    expected = sum(total) / (len(total) * 64 + 1e-5) / 3
    expected /= hidden.shape[1] if variant is viny else 1
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert 0 < float(metrics["monitor"]) < 1.3


def test_hidden_pixels_reach_the_loss_as_targets_alone():
    rng, hidden = np.random.default_rng(0), np.array([[0, 1, 4, 5]])
    pixels = rng.normal(size=(1, 32, 32, 3)).astype(np.float32)
    inside, outside = pixels.copy(), pixels.copy()
    inside[:, :16, :16] += 1
    outside[:, 20, 20] += 1
    for module in (official(), viny()):
        run = jax.jit(lambda x, m=module: m.reconstruct(x, hidden, context())[0])
        np.testing.assert_array_equal(run(pixels), run(inside))
        assert not np.array_equal(run(pixels), run(outside))


def test_without_the_class_token_it_takes_no_part_and_is_frozen():
    module = viny()
    run, pixels, hidden = masked(module), golden.images().astype(np.float32), np.array([[0, 1]] * 2)
    _, before, features = run(pixels, hidden)
    assert features.prefix.shape[1] == 0
    np.testing.assert_array_equal(run(pixels, hidden, cls_token=module.backbone.cls_token[...] + 1)[1], before)
    assert [g.match for g in module.groups if not g.train] == ["backbone/cls_token"]
    assert all(g.train for g in official().groups)
    bare = viny(backbone={"class_token": False, "pooling": "mean"})
    assert all(g.train for g in bare.groups)


def test_groups_decay_the_mask_token_and_the_relative_table_but_no_vectors():
    _, params, _ = split(official())
    exempt = SimMIM.groups[0].match
    decayed = {path for path in flatten(params) if not re.fullmatch(exempt, path)}
    assert {path.rpartition("/")[2] for path in decayed} == {"kernel", "mask_token", "table"}
    learned = flatten(split(viny())[1])
    assert not [p for p in learned if p.endswith(("pos_embed", "scale")) and not re.fullmatch(exempt, p)]


@pytest.mark.parametrize("trunk, method", [(OFFICIAL | {"drop_path": 0.1}, {}), (VINY_ENCODER, VINY_METHOD)])
def test_closed_form_is_the_cost_of_the_traced_step(trunk, method):
    backbone = functools.partial(ViT, image_size=16, patch_size=4, dim=32, depth=2, heads=2, **trunk)
    train = Subject(SimMIM, options=method, backbone=backbone, batch_size=3).train
    assert train.closed_form == train.cost().total


def test_closed_form_at_the_published_size():
    """methods_mim 3.6: 17.679 GMAC forward with the head on all 196 tokens; ours is on the 120 hidden ones."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    module = nnx.eval_shape(on(768, 12, 12, 224, 16, OFFICIAL))
    embedding, head = 2 * 196 * 768 * 768, 2 * 768 * 768
    forward = (module.closed_form({"image": image}) + embedding) / 3
    assert (forward + 76 * head) / 2e9 == pytest.approx(17.679, abs=5e-4)
    assert 76 * head / forward < 0.003


class Pooled(Backbone):
    def __init__(self):
        self.dim, self.stride, self.image_size = 8, (8, 8), (32, 32)

    def __call__(self, images, ctx, *, levels=()):
        raise NotImplementedError


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_unit": 12}, "whole number of patches"),
        ({"mask_unit": 0}, "whole number of patches"),
        ({"mask_unit": 24}, "32x32 pixels"),
        ({"mask_unit": 32, "rounding": "truncate"}, "hides 0 of 1"),
        ({"mask_ratio": 0.0}, "hides 0 of 4"),
        ({"mask_ratio": 0.8}, "hides 4 of 4"),
        ({"mask_ratio": -1.0}, "hides -4 of 4"),
        ({"rounding": "floor"}, "ceil"),
        ({"layout": "channel_first"}, "row_column_channel"),
        ({"reduction": "sum"}, "viny"),
        ({"init": "simmin"}, "simmim"),
        ({"compute_dtype": "float16"}, "bfloat16"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ConfigError, match=message):
        official(**options)


def test_a_backbone_without_tokens_is_refused():
    with pytest.raises(ConfigError, match="TokenBackbone"):
        SimMIM(Pooled(), info=INFO, rngs=nnx.Rngs(0))


def test_views_are_a_bilinear_crop_of_two_thirds_or_more():
    views = SimMIMViews()
    assert (views.scale, views.interpolation, views.sampler) == ((0.67, 1.0), "bilinear", "torchvision")
    batch = batch_of(views, tiny().spec, size=2)
    assert batch["image"].shape == (2, 32, 32, 3) and batch["image"].dtype == np.uint8
