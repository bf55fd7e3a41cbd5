"""Exact parameter counts and FLOPs of the vision transformer; nothing is allocated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from purelib import TINY, context, split
from spendflops_plugins.vit import ViT

from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError

SIZES = {
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
    "2B": (2560, 24, 32),
    "6.5B": (4096, 32, 32),
}
SIMMIM = {"positions": "none", "relative_positions": "shared", "layer_scale": 0.1, "key_bias": False, "init": "simmim"}
VINY = {
    "image_size": 128,
    "head_dim": 64,
    "patch_norm": True,
    "qkv_bias": False,
    "positions": "learned",
    "init": "viny",
}
OPENAI = {"positions": "learned", "pre_norm": True, "patch_bias": False, "gelu": "quick", "init": "clip"}
MEAN = {"class_token": False, "pooling": "mean"}
VITDET = MEAN | {
    "positions": "learned_sincos",
    "position_size": 24,
    "relative_positions": "decomposed",
    "relative_resize": "torch_bilinear",
    "window": 3,
    "global_blocks": (1,),
    "final_norm": False,
}


def abstract(size, patch, depth=None, **options):
    dim, layers, heads = SIZES[size] if isinstance(size, str) else size
    factory = {"patch_size": patch, "dim": dim, "depth": depth or layers, "heads": heads, "positions": "learned"}
    return nnx.eval_shape(lambda: ViT(rngs=nnx.Rngs(0), **(factory | options)))


def counted(size, patch, **options):
    """(all parameters, those of one block): two blocks are traced, the others are copies of the second."""
    model = abstract(size, patch, depth=2, **options)
    layers = (SIZES[size] if isinstance(size, str) else size)[1]
    whole, block = (sum(x.size for x in jax.tree.leaves(nnx.state(m, nnx.Param))) for m in (model, model.blocks[1]))
    return whole + (layers - 2) * block, block


SUPERVISED = [  # trunk, with 1000 classes, with 21,843, without class token, table of positions, one block
    ("Ti", 16, 5_524_416, 5_717_416, 9_740_115, 5_524_032, 37_824, 444_864),
    ("S", 16, 21_665_664, 22_050_664, 30_075_219, 21_664_896, 75_648, 1_774_464),
    ("B", 16, 85_798_656, 86_567_656, 102_595_923, 85_797_120, 151_296, 7_087_872),
    ("B", 14, 85_706_496, 86_475_496, 102_503_763, 85_704_960, 197_376, 7_087_872),
    ("L", 16, 303_301_632, 304_326_632, 325_690_707, 303_299_584, 201_728, 12_596_224),
    ("L", 14, 303_178_752, 304_203_752, 325_567_827, 303_176_704, 263_168, 12_596_224),
    ("H", 16, 630_918_400, 632_199_400, 658_899_283, 630_915_840, 252_160, 19_677_440),
    ("H", 14, 630_764_800, 632_045_800, 658_745_683, 630_762_240, 328_960, 19_677_440),
]


@pytest.mark.parametrize("size, patch, trunk, thousand, many, pooled, positions, block", SUPERVISED)
def test_parameters_of_supervised_models(size, patch, trunk, thousand, many, pooled, positions, block):
    dim = SIZES[size][0]
    assert counted(size, patch) == (trunk, block)
    assert trunk + 1000 * (dim + 1) == thousand and trunk + 21_843 * (dim + 1) == many
    assert counted(size, patch, **MEAN) == (pooled, block)
    assert counted(size, patch, positions="sincos_mae") == (trunk - positions, block)


@pytest.mark.parametrize(
    "size, patch, options, parameters",
    [
        # MAE (methods_mim 2.6): trained, and with the fixed table.
        ("B", 16, {"positions": "sincos_mae"}, 85_647_360),
        ("B", 16, {"positions": "learned_sincos"}, 85_798_656),
        ("L", 16, {"positions": "sincos_mae"}, 303_099_904),
        ("L", 16, {"positions": "learned_sincos"}, 303_301_632),
        ("H", 14, {"positions": "sincos_mae"}, 630_435_840),
        ("H", 14, {"positions": "learned_sincos"}, 630_764_800),
        # SimMIM (3.6), whose 85,666,128 hold the mask token [768]; that is the method's, not the encoder's.
        ("B", 16, SIMMIM, 85_666_128 - 768),
        # MAWS (4.1): trunks at 224 pixels, and the fine-tuned classifiers without their head of 1000 classes.
        ("2B", 14, {}, 1_890_408_960),
        ("6.5B", 14, {}, 6_447_632_384),
        ("B", 16, {"image_size": 512}, 87_203_560 - 1000 * 769),
        ("L", 16, {"image_size": 512}, 305_174_504 - 1000 * 1025),
        ("H", 14, {"image_size": 518}, 633_470_440 - 1000 * 1281),
        ("2B", 14, {"image_size": 518}, 1_895_819_240 - 1000 * 2561),
        ("6.5B", 14, {"image_size": 518}, 6_456_288_232 - 1000 * 4097),
        # ViNy (5.1).
        ((128, 12, 8), 16, VINY, 4_842_880),
        # DINO (methods_views 11.1); the others of that table are above.
        ("S", 8, {}, 21_670_272),
        # OpenAI's CLIP (methods_sup 4): the image tower of B/16 without its projection to 512. Of B/32 and L/14 the
        # whole is published: without text tower and scale (L/14: 12 layers, width 768, 49,408 tokens) and projection.
        ("B", 16, OPENAI, 86_192_640 - 768 * 512),
        ("B", 32, OPENAI, 151_277_313 - 63_428_096 - 1 - 768 * 512),
        ("L", 14, OPENAI, 427_616_513 - 123_650_304 - 1 - 1024 * 768),
    ],
)
def test_parameters_of_variants(size, patch, options, parameters):
    assert counted(size, patch, **options)[0] == parameters


def test_a_whole_model_is_as_large_as_its_blocks_say():
    model = abstract("B", 16)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == counted("B", 16)[0] == 85_798_656


def programs(model, *, images, size, kept):
    """(forward, forward and backward) as counter B sees them, and the same of the closed form."""
    graph, params, stats = split(model)

    def value(params, x):
        module = nnx.merge(graph, params, stats)
        tokens = module.embed(x)
        tokens = tokens if kept is None else tokens.take(jnp.zeros((images, kept), jnp.int32))
        return jnp.sum(module.encode(tokens, context()).summary)

    shapes = params, jax.ShapeDtypeStruct((images, *size, 3), jnp.uint8)
    for train, function in ((False, value), (True, jax.value_and_grad(value))):
        yield (
            count_jaxpr(jax.make_jaxpr(function)(*shapes)).without_recomputation().total,
            model.flops(size, kept=kept, train=train, images=images),
        )


@pytest.mark.parametrize(
    "options, size, kept",
    [
        ({}, (32, 32), None),
        ({}, (48, 32), 5),
        ({"positions": "learned", "mlp_ratio": 1.5} | MEAN, (24, 32), None),
        ({"positions": "learned_sincos", "position_resize": "dino_bicubic"}, (16, 24), 3),
        ({"position_resize": "exact", "init": "original", "compute_dtype": "bfloat16"}, (16, 24), None),
        (SIMMIM, (32, 32), None),
        (SIMMIM | MEAN | {"relative_resize": "torch_bicubic"}, (48, 24), None),
        (VINY | {"image_size": 32, "head_dim": 16, "mlp_ratio": 2.0}, (32, 32), None),
        (VINY | {"image_size": 32, "compute_dtype": "bfloat16"}, (32, 40), 7),
        (OPENAI, (32, 32), None),
        (VITDET, (32, 32), None),
        (VITDET | {"remat": "blocks", "compute_dtype": "bfloat16"}, (48, 24), None),
        (VITDET | {"attention": "chunked", "relative_positions": "none", "relative_resize": None}, (40, 32), None),
        ({"remat": "blocks", "attention": "chunked"}, (32, 32), 7),
    ],
)
def test_closed_form_is_the_count_of_the_traced_program(options, size, kept):
    model = nnx.eval_shape(lambda: ViT(rngs=nnx.Rngs(0), **(TINY | options)))
    for images in (1, 3):
        for counted_flops, formula in programs(model, images=images, size=size, kept=kept):
            assert counted_flops == formula


def test_closed_form_of_published_sizes():
    """Of an image of 224 pixels (methods_mim 2.7, 3.6, 4.1, 5.1; methods_views 9.1), in FLOPs and in 1e9 products."""
    model, fixed = abstract("B", 16), abstract("B", 16, positions="sincos_mae")
    assert model.flops() == 35_127_656_448 - 2 * 768 * 1000
    assert model.flops(train=True) == 105_151_758_336 - 6 * 768 * 1000
    assert round(model.flops(kept=49) / 2e9, 3) == 4.408
    assert round(fixed.flops((96, 96)) / 1e9, 3) == 6.378 and round(fixed.flops() / 1e9, 2) == 35.13
    # The published number has the 64 patches without the class token: one patch fewer and the class token are as many.
    assert round(abstract((128, 12, 8), 16, **VINY).flops(kept=63) / 2e9, 4) == 0.3586
    # With a head of 768 x 768 on each of the 196 patches.
    assert round((abstract("B", 16, **SIMMIM).flops() / 2 + 196 * 768 * 768) / 1e9, 3) == 17.679


@pytest.mark.parametrize(("side", "products"), [(224, 17.56), (384, 55.5), (512, 107.0)])
def test_t15_closed_form_at_other_sizes(side, products):
    """Forward, in 1e9 products, with a class token."""
    assert abstract("B", 16, image_size=side).flops() / 2e9 == pytest.approx(products, abs=0.05)


def test_closed_form_at_1024_pixels():
    """Forward, in 1e9 products (downstream 2.5, T15): all blocks global, with a class token, with ViTDet's windows."""
    large = {"image_size": 1024, "position_size": 224, "final_norm": False}
    windows = {"window": 14, "global_blocks": (2, 5, 8, 11)}
    plain, token, windowed, relative = (
        abstract("B", 16, **large, **options).flops() / 2e9
        for options in (MEAN, {}, MEAN | windows, MEAN | windows | {"relative_positions": "decomposed"})
    )
    assert round(plain) == 660 and round(token, 1) == 659.8 and round(windowed) == 465
    # Every query of a whole map with 64 + 64 rows of the tables, of a window with 14 + 14.
    products = 4 * 4096 * 768 * 128 + 8 * 25 * 196 * 768 * 28
    assert relative - windowed == pytest.approx(products / 1e9, rel=1e-9) and relative < 1.01 * 465


def test_positions_at_96_pixels_cost_one_small_product_an_axis():
    """Multi-crop training asks for them in each step: 2 (6 14 14 + 6 6 14) D beside 6.4 GFLOPs an image."""
    model = abstract("B", 16, depth=1, position_resize="dino_bicubic")
    graph, params, stats = split(model)
    crops = jax.ShapeDtypeStruct((8, 96, 96, 3), jnp.uint8)
    cost = count_jaxpr(jax.make_jaxpr(lambda p, x: nnx.merge(graph, p, stats).embed(x))(params, crops))
    products = sorted(op.flops for op in cost.ops)
    assert products == [2 * 36 * 14 * 768, 2 * 6 * 14 * 14 * 768, 8 * 2 * 36 * 768 * 768]
    assert sum(products[:2]) == 2 * model.flops((96, 96)) - model.flops((96, 96), images=2)


def test_closed_form_refuses_sizes_that_are_no_patches():
    with pytest.raises(ConfigError, match="whole number"):
        abstract("Ti", 16, depth=1).flops((100, 96))
