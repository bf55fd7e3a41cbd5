"""The vision transformer against a slow numpy one, and its options."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import TINY, context, flatten, split, tiny
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.positions import half_pixel, resize_table, sincos_2d, sincos_table

test_kit = spendflops.testing.backbone_tests("vit", **TINY)


def oracle(p, x, *, patch, heads, pooling, table, class_row, gelu, eps):
    """float64, one example, head and query at a time; which parts there are is read off the parameters."""

    def layer_norm(x, q):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * q["scale"] + q["bias"]

    def activate(x):
        if gelu == "erf":
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        if gelu == "quick":
            return x / (1 + np.exp(-1.702 * x))
        return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def linear(x, q):
        return x @ q["kernel"] + q.get("bias", 0.0)

    def relative(i, j):
        """The row of the table for query i and key j of all tokens."""
        if "relative" not in p:
            return 0.0
        rows = p["relative"]["table"]
        if has_class and 0 in (i, j):
            return rows[-1 if i == j else (-3 if i == 0 else -2)]
        (r, c), (s, d) = (divmod(n - has_class, grid[1]) for n in (i, j))
        return rows[(r - s + grid[0] - 1) * (2 * grid[1] - 1) + c - d + grid[1] - 1]

    has_class, grid = int("cls_token" in p), (x.shape[1] // patch, x.shape[2] // patch)
    kernel = p["patch_embed"]["kernel"].reshape(-1, p["patch_embed"]["kernel"].shape[-1])
    tokens, summary = [], []
    for image in x:
        rows = []
        for r in range(grid[0]):
            for c in range(grid[1]):
                window = image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
                window = layer_norm(window, p["patch_embed"]["norm_in"]) if "norm_in" in p["patch_embed"] else window
                row = window @ kernel + p["patch_embed"].get("bias", 0.0)
                rows.append(layer_norm(row, p["patch_embed"]["norm_out"]) if "norm_out" in p["patch_embed"] else row)
        z = np.stack(rows) + table
        if has_class:
            z = np.concatenate([p["cls_token"][0] + class_row, z])
        z = layer_norm(z, p["norm_pre"]) if "norm_pre" in p else z
        for index in range(len(p["blocks"])):
            q = p["blocks"][index]
            inner = q["attn"]["proj"]["kernel"].shape[0]
            d, out = inner // heads, np.zeros((len(z), inner))
            y = linear(layer_norm(z, q["norm1"]), q["attn"]["qkv"])
            if "q_bias" in q["attn"]:
                y[:, :inner] += q["attn"]["q_bias"]
                y[:, 2 * inner :] += q["attn"]["v_bias"]
            for h in range(heads):
                query, key, value = (y[:, part * inner + h * d : part * inner + (h + 1) * d] for part in range(3))
                for i in range(len(z)):
                    bias = np.array([np.broadcast_to(relative(i, j), heads)[h] for j in range(len(z))])
                    w = np.exp(key @ query[i] / math.sqrt(d) + bias)
                    out[i, h * d : (h + 1) * d] = (w / w.sum()) @ value
            z = z + q.get("gamma_1", 1.0) * linear(out, q["attn"]["proj"])
            y = activate(linear(layer_norm(z, q["norm2"]), q["mlp"]["fc1"]))
            z = z + q.get("gamma_2", 1.0) * linear(y, q["mlp"]["fc2"])
        z = layer_norm(z, p["norm"]) if "norm" in p else z
        patches = z[has_class:]
        tokens.append(patches)
        summary.append(z[0] if pooling == "class" else patches.mean(0))
    return np.stack(tokens), np.stack(summary)


SIMMIM = {"positions": "none", "relative_positions": "shared", "layer_scale": 0.1, "key_bias": False, "init": "simmim"}
VINY = {"positions": "learned", "head_dim": 16, "patch_norm": True, "qkv_bias": False, "init": "viny", "norm_eps": 1e-5}
OPENAI = {"positions": "learned", "pre_norm": True, "patch_bias": False, "gelu": "quick", "init": "clip"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned", "init": "original", "gelu": "tanh", "depth": 1},
        {"positions": "learned", "class_token": False, "pooling": "mean", "init": "timm", "depth": 1},
        {"pooling": "mean", "final_norm": False, "init": "truncated_02", "patch_size": 4, "depth": 1},
        {"positions": "learned_sincos", "image_size": (16, 24), "mlp_ratio": 2.0, "depth": 1},
        SIMMIM | {"image_size": (16, 24)},
        SIMMIM | {"class_token": False, "pooling": "mean", "depth": 1},
        VINY | {"mlp_ratio": 2.0, "depth": 1},
        OPENAI | {"norm_eps": 1e-5, "depth": 1},
    ],
)
def test_forward_equals_the_oracle(options):
    merged = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2} | options
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        graph, params, stats = split(tiny(**merged))
        p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
        model = nnx.merge(graph, jax.tree.map(jnp.asarray, p), stats)
        x = rng.normal(size=(2, *model.image_size, 3))
        features = jax.jit(lambda x: model(x, context(train=False)))(x)
    learned, has_class = "pos_embed" in p, merged.get("class_token", True)
    table = p["pos_embed"][0, int(has_class) :] if learned else sincos_table(model.grid, model.dim)
    tokens, summary = oracle(
        p,
        x,
        patch=merged["patch_size"],
        heads=2,
        pooling=merged.get("pooling", "class"),
        table=0.0 if merged.get("positions") == "none" else table,
        class_row=p["pos_embed"][0, :1] if learned and has_class else 0.0,
        gelu=merged.get("gelu", "erf"),
        eps=merged.get("norm_eps", 1e-6),
    )
    assert features.summary.dtype == np.float64
    np.testing.assert_allclose(features.tokens, tokens, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(features.summary, summary, rtol=1e-10, atol=1e-10)
    if not options:
        narrow = nnx.merge(graph, jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), p), stats)
        single = jax.jit(lambda x: narrow(x, context(train=False)))(x.astype(np.float32)).tokens
        assert single.dtype == np.float32 and np.linalg.norm(single - tokens) <= 1e-5 * np.linalg.norm(tokens)


def images(seed=0, size=(32, 32), batch=2):
    return np.random.default_rng(seed).integers(0, 256, (batch, *size, 3), dtype=np.uint8)


def test_encode_of_embed_is_the_call_and_permuted_tokens_are_permuted():
    model, x = tiny(), images()
    permutation = np.random.default_rng(1).permutation(16)
    inverse = np.argsort(permutation)

    @jax.jit
    def three(x):
        tokens = model.embed(x)
        keep = jnp.broadcast_to(permutation, (2, 16))
        return model(x, context()), model.encode(tokens, context()), model.encode(tokens.take(keep), context())

    whole, again, shuffled = three(x)
    np.testing.assert_array_equal(whole.tokens, again.tokens)
    np.testing.assert_array_equal(whole.summary, again.summary)
    np.testing.assert_allclose(np.asarray(shuffled.tokens)[:, inverse], whole.tokens, atol=1e-5)
    np.testing.assert_allclose(shuffled.summary, whole.summary, atol=1e-5)
    assert shuffled.grid is None and whole.grid == (4, 4)


def test_uint8_is_normalised_by_the_backbone():
    model, x = tiny(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)), images()
    expected = (x / 255 - 0.5) / np.array([0.25, 0.5, 1.0])
    np.testing.assert_allclose(model.normalise(x), expected, atol=1e-6)
    embed = jax.jit(lambda x: model.embed(x).x)
    np.testing.assert_allclose(embed(x), embed(expected.astype(np.float32)), atol=1e-5)
    assert model.spec.size == (32, 32) and model.spec.stride == (8, 8) and model.spec.mean == (0.5, 0.5, 0.5)


def test_levels_are_maps_before_the_final_norm():
    model = tiny(depth=3)
    features = jax.jit(lambda x: model(x, context(), levels=(1, -1)))(images())
    assert [(m.grid, m.stride, m.tokens.shape) for m in features.levels] == [((4, 4), 8, (2, 16, 32))] * 2
    np.testing.assert_allclose(model.norm(features.levels[1].tokens), features.tokens, atol=1e-5)
    shapes = [lambda: model(images(), context(), levels=(3,))]
    shapes.append(lambda: model.encode(model.embed(images()).take(jnp.zeros((2, 3), int)), context(), levels=(0,)))
    for build, message in zip(shapes, ("no block 3", "levels are maps"), strict=True):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(build)


@pytest.mark.parametrize("positions", ["sincos_mae", "learned"])
def test_other_image_sizes_resize_the_positions(positions):
    model = tiny(positions=positions, position_resize="torch_bicubic")
    tokens = jax.jit(model.embed)(images(size=(48, 64)))
    table = sincos_table((4, 4), 32) if positions == "sincos_mae" else np.asarray(model.pos_embed[...])[0, 1:]
    expected = resize_table(table, (4, 4), (6, 8), rule="torch_bicubic")
    assert tokens.grid == (6, 8)
    np.testing.assert_allclose(tokens.pos[0], expected, atol=1e-6)


def test_exact_positions_are_the_function_at_half_pixels():
    pos = tiny(position_resize="exact").embed(images(size=(48, 64))).pos[0]
    np.testing.assert_allclose(pos, sincos_2d(half_pixel(6, 4), half_pixel(8, 4), 32), atol=1e-6)
    same = tiny(position_resize="exact").embed(images()).pos[0]
    np.testing.assert_array_equal(same, sincos_table((4, 4), 32))


def test_without_prefix_tokens_the_summary_is_the_mean_of_the_patches():
    """ViNy's masked stage leaves the class token out."""
    model = tiny(**VINY)

    @jax.jit
    def bare(x):
        tokens = model.embed(x)
        return model.encode(dataclasses.replace(tokens, prefix=tokens.prefix[:, :0]), context())

    features = bare(images())
    assert features.prefix.shape == (2, 0, 32) and features.tokens.shape == (2, 16, 32)
    np.testing.assert_allclose(features.summary, np.mean(features.tokens, axis=1), atol=1e-6)


def test_relative_positions_refuse_what_they_are_not_defined_for():
    model = tiny(**SIMMIM)
    with pytest.raises(ConfigError, match="all tokens of the grid"):
        jax.eval_shape(lambda: model.encode(model.embed(images()).take(jnp.zeros((2, 3), int)), context()))
    with pytest.raises(ConfigError, match="relative_resize"):
        jax.eval_shape(lambda: model(images(size=(48, 32)), context()))
    # Masked tokens keep their places.
    masked = jax.eval_shape(lambda: model.embed(images()).fill(jnp.zeros((2, 16), bool), jnp.zeros(32)))
    assert masked.grid == (4, 4)


def test_learned_sincos_starts_from_the_table_with_a_class_row_of_zeros():
    sizes = {"image_size": 64, "position_size": 32}
    table = np.asarray(
        ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 1} | sizes), positions="learned_sincos").pos_embed[...]
    )
    np.testing.assert_array_equal(table[0, 0], 0)
    np.testing.assert_array_equal(table[0, 1:], sincos_table((4, 4), 32))


def test_drop_path_acts_in_training_only_and_follows_the_key():
    model, x = tiny(drop_path=0.9, depth=3), images(batch=8)
    run = jax.jit(lambda x, ctx: model(x, ctx).summary)
    one, same, other = run(x, context()), run(x, context()), run(x, context(seed=1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(run(x, context(train=False)), run(x, context(train=False, seed=1)))
    assert [block.drop_path for block in model.blocks] == [0.0, 0.45, 0.9]


def test_packed_segments_are_as_if_alone():
    model = tiny(class_token=False, pooling="mean")
    x = images(batch=2)

    @jax.jit
    def both(x):
        tokens = model.embed(x)
        packed = jax.tree.map(
            lambda v: v.reshape(1, -1, v.shape[-1]), (tokens.x, jnp.broadcast_to(tokens.pos, tokens.x.shape))
        )
        segments = jnp.repeat(jnp.arange(2), 16)[None]
        one = dataclasses.replace(
            tokens, x=packed[0], pos=packed[1], prefix=tokens.prefix, grid=None, segments=segments
        )
        return model.encode(tokens, context()).tokens, model.encode(one, context()).tokens

    apart, packed = both(x)
    np.testing.assert_allclose(np.asarray(packed).reshape(2, 16, 32), apart, atol=1e-5)


def test_segments_refuse_a_class_token():
    model = tiny()
    tokens = model.embed(images())
    with pytest.raises(ConfigError, match="class token"):
        model.encode(dataclasses.replace(tokens, segments=jnp.zeros((2, 16), int)), context())


def test_bfloat16_is_close_to_float32_and_gives_float32():
    x, weight = images(), np.random.default_rng(1).normal(size=(2, 32))

    def run(dtype):
        graph, params, stats = split(tiny(compute_dtype=dtype))

        def loss(params):
            summary = nnx.merge(graph, params, stats)(x, context()).summary
            return jnp.sum(summary * weight), summary

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (gradient, wide), (rounded, narrow) = run("float32"), run("bfloat16")
    assert narrow.dtype == jnp.float32 and 0 < np.linalg.norm(narrow - wide) < 0.02 * np.linalg.norm(wide)
    for path, expected in flatten(gradient).items():
        result = flatten(rounded)[path]
        assert result.dtype == np.float32
        assert np.linalg.norm(result - expected) <= 0.05 * np.linalg.norm(expected), path


@pytest.mark.parametrize(
    "options,message",
    [
        ({"positions": "sincos"}, "sincos_mae"),
        ({"pooling": "cls"}, "class"),
        ({"heads": 5}, "5 heads"),
        ({"class_token": False}, "class_token"),
        ({"image_size": 30}, "whole number"),
        ({"init": "MAE"}, "known"),
        ({"gelu": "relu"}, "known"),
        ({"compute_dtype": "float16"}, "bfloat16"),
        ({"positions": "learned", "position_resize": "exact"}, "fixed table"),
        ({"positions": "none", "position_size": 16}, "position_size"),
        ({"relative_positions": "each"}, "none, shared, decomposed"),
        ({"attention": "flash"}, "plain, chunked"),
        ({"remat": "all"}, "none, dots, blocks"),
        ({"window": 2}, "class token"),
        ({"relative_positions": "decomposed"}, "class token"),
        ({"window": 0, "class_token": False, "pooling": "mean"}, "positive"),
        ({"window": 2, "relative_positions": "shared", "class_token": False, "pooling": "mean"}, "whole images"),
        ({"window": 2, "global_blocks": (2,), "class_token": False, "pooling": "mean"}, "0 to depth - 1"),
        ({"global_blocks": (0,)}, "set window"),
        ({"relative_resize": "torch_bicubic"}, "relative_positions = 'shared'"),
        ({"relative_positions": "shared", "relative_resize": "bicubic"}, "torch_bicubic"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


TREE_MODE = """
import hashlib
import jax
from purelib import INFO, batch_of, context, gradient_program, tiny
from spendflops_plugins.mae import MAE
from spendflops_plugins.segmentation import Segmentation
from spendflops_plugins.simclr import SimCLR
from spendflops_plugins.supervised import Supervised
small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
dense = {"class_token": False, "pooling": "mean", "window": 3, "relative_positions": "decomposed"}
dense |= {"remat": "blocks", "attention": "chunked"}
many = ((MAE, small), (SimCLR, {}), (Supervised, {"backbone": dense}), (Segmentation, {"channels": 8}))
for cls, options in many:
    print(cls.__name__, hashlib.sha256(gradient_program(cls, depth=1, **options).encode()).hexdigest())
"""


def test_flax_tree_mode_gives_the_same_programs(capsys):
    """Flax plans tree mode as its default: every method's gradient must be the same jaxpr in both modes."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    mode = {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-c", TREE_MODE]
    done = subprocess.run(command, env=os.environ | mode, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    exec(TREE_MODE, {})
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout == capsys.readouterr().out


@pytest.mark.parametrize("rule", ["torch_bicubic", "jax_cubic"])
def test_position_tables_of_another_image_size_are_resampled_and_the_class_row_stays(rule):
    small, large = (
        tiny(positions="learned", image_size=size, position_resize=rule, relative_positions="shared",
             relative_resize="torch_bicubic")
        for size in (16, 32)
    )  # fmt: skip
    table = np.random.default_rng(0).normal(size=small.pos_embed.shape).astype(np.float32)
    found = large.resampled("pos_embed", table)
    assert found.shape == large.pos_embed.shape
    np.testing.assert_array_equal(found[0, 0], table[0, 0])
    np.testing.assert_allclose(found[0, 1:], resize_table(table[0, 1:], small.grid, large.grid, rule=rule), rtol=1e-5)
    rows = np.random.default_rng(1).normal(size=small.relative.table.shape).astype(np.float32)
    found = large.resampled("relative/table", rows)
    assert found.shape == large.relative.table.shape
    np.testing.assert_array_equal(found[-3:], rows[-3:])
    # A flat table stays flat: the weights of every row of the rule sum to one.
    np.testing.assert_allclose(large.resampled("relative/table", np.ones_like(rows)), 1, rtol=1e-5)
    assert large.resampled("cls_token", np.zeros((1, 1, 4))) is None
    assert large.resampled("pos_embed", np.zeros((1, 1 + 15, small.dim))) is None
    assert tiny(relative_positions="shared").resampled("relative/table", rows) is None
    assert tiny(positions="sincos_mae").resampled("pos_embed", table) is None


@pytest.mark.parametrize("rule", ["torch_bicubic", "exact"])
def test_a_fixed_table_is_that_of_pretraining_resampled(rule):
    small, large = tiny(position_resize=rule), tiny(image_size=64, position_size=32, position_resize=rule)
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    at_once, moved = (module.embed(images).pos for module in (large, small))
    # The smaller model, given the larger image, resamples its own table: the larger one has the same.
    np.testing.assert_allclose(at_once, moved, atol=1e-6)
    assert np.abs(at_once - tiny(image_size=64).embed(images).pos).max() > 0.1


@pytest.mark.parametrize("positions", ["learned", "learned_sincos"])
def test_a_learned_table_is_stored_for_its_size_and_trained_through_the_resampling(positions):
    model = tiny(image_size=64, position_size=32, positions=positions, class_token=False, pooling="mean", depth=1)
    table = model.pos_embed[...]
    assert table.shape == (1, 16, 32)
    graph, params, stats = split(model)
    embed = lambda p: nnx.merge(graph, p, stats).embed(jnp.zeros((1, 64, 64, 3), jnp.uint8)).pos  # noqa: E731
    pos, pull = jax.vjp(jax.jit(embed), params)
    np.testing.assert_allclose(pos[0], resize_table(table[0], (4, 4), (8, 8), rule="torch_bicubic"), atol=1e-6)
    # The weights of every place sum to 1, so that a gradient of ones sums to 64 places.
    gradient = pull(jnp.ones_like(pos))[0]["pos_embed"]
    np.testing.assert_allclose(np.sum(gradient, axis=1), 64, rtol=1e-5)
