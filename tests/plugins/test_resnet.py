"""The residual network against a slow numpy one, its public parameter counts, its closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, context, count, made, split
from spendflops_plugins.mae import MAE
from spendflops_plugins.resnet import Bottleneck, ResNet

import spendflops.testing
from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.initialisers import ones

SMALL = {"image_size": 16, "depths": (1, 2), "width": 0.0625}

test_kit = spendflops.testing.backbone_tests("resnet", image_size=16, depths=(1,), width=0.0625)


def small(**options):
    return made(lambda: ResNet(rngs=nnx.Rngs(0), **(SMALL | options)))


@pytest.mark.parametrize(
    "depths, with_1000_classes", [((3, 4, 6, 3), 25_557_032), ((3, 4, 23, 3), 44_549_160), ((3, 8, 36, 3), 60_192_808)]
)
def test_parameters_are_those_of_torchvision(depths, with_1000_classes):
    """The counts of ResNet-50, 101 and 152 that torchvision documents; the head is 2048 x 1000 and a bias."""
    assert count(lambda: ResNet(rngs=nnx.Rngs(0), depths=depths)) == with_1000_classes - 2_049_000


def test_parameters_do_not_depend_on_the_place_of_the_stride():
    one, other = (count(lambda s=s: ResNet(rngs=nnx.Rngs(0), depths=(1, 2), stride_in=s)) for s in ("3x3", "1x1"))
    assert one == other


def convolved(x, kernel, stride):
    side = kernel.shape[0]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    rows, cols = ((n - side) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, cols, kernel.shape[-1]))
    for i in range(rows):
        for j in range(cols):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


def pooled(x):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, cols = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    return np.stack(
        [[x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(cols)] for i in range(rows)]
    ).transpose(2, 0, 1, 3)


class Oracle:
    """One convolution after the other, as figure 5 and table 1 have them; remembers the statistics of each norm."""

    def __init__(self, params, stats, *, train, stride_in):
        self.params, self.stats, self.train, self.stride_in, self.seen = params, stats, train, stride_in, {}

    def norm(self, x, params, stats, name):
        mean, var = stats["mean"], stats["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.seen[name] = 0.9 * stats["mean"] + 0.1 * mean, 0.9 * stats["var"] + 0.1 * var
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def block(self, x, p, s, stride, name):
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        y = x
        for n, step in ((1, first), (2, second), (3, 1)):
            y = convolved(y, p[f"conv{n}"]["kernel"], step)
            y = self.norm(y, p[f"norm{n}"], s[f"norm{n}"], f"{name}/norm{n}")
            y = np.maximum(y, 0) if n < 3 else y
        if "shortcut" in p:
            x = convolved(x, p["shortcut"]["kernel"], stride)
            x = self.norm(x, p["shortcut_norm"], s["shortcut_norm"], f"{name}/shortcut")
        return np.maximum(x + y, 0)

    def __call__(self, x):
        p, s = self.params, self.stats
        x = self.norm(convolved(x, p["stem"]["kernel"], 2), p["stem_norm"], s["stem_norm"], "stem")
        x, maps = pooled(np.maximum(x, 0)), []
        for stage, blocks in p["stages"].items():
            for block, q in blocks.items():
                stride = 2 if stage and not block else 1
                x = self.block(x, q, s["stages"][stage][block], stride, f"{stage}/{block}")
            maps.append(x)
        return maps


@pytest.mark.parametrize("train, stride_in", [(True, "3x3"), (False, "1x1")])
def test_forward_and_statistics_equal_the_oracle(train, stride_in):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        graph, params, stats = split(small(stride_in=stride_in))
        params = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
        stats = jax.tree.map(lambda v: rng.uniform(0.5, 1.5, v.shape), stats)
        x = rng.normal(size=(2, 16, 24, 3))

        @jax.jit
        def run(params, stats, x):
            model = nnx.merge(graph, params, stats)
            return model(x, context(train=train), levels=(0, -1)), split(model)[2]

        features, after = run(params, stats, x)
    oracle = Oracle(params, stats, train=train, stride_in=stride_in)
    maps = oracle(x)
    assert [(m.grid, m.stride) for m in features.levels] == [((4, 6), 4), ((2, 3), 8)]
    for level, expected in zip(features.levels, maps, strict=True):
        np.testing.assert_allclose(level.tokens, expected.reshape(2, -1, expected.shape[-1]), rtol=1e-10, atol=1e-10)
    assert features.tokens.dtype == np.float64 and features.prefix.shape == (2, 0, 32) and features.grid == (2, 3)
    np.testing.assert_array_equal(features.tokens, features.levels[1].tokens)
    np.testing.assert_allclose(features.summary, maps[-1].mean((1, 2)), rtol=1e-10, atol=1e-10)
    if train:
        block = after["stages"][1][0]
        for name in ("norm2", "shortcut"):
            mean, var = oracle.seen[f"1/0/{name}"]
            kept = block["shortcut_norm" if name == "shortcut" else name]
            np.testing.assert_allclose(kept["mean"], mean, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(kept["var"], var, rtol=1e-10, atol=1e-10)
    else:
        jax.tree.map(np.testing.assert_array_equal, stats, after)


@pytest.mark.parametrize(
    "options, size",
    [
        ({}, (16, 24)),
        ({"stride_in": "1x1", "compute_dtype": "bfloat16"}, (8, 8)),
        ({"depths": (3, 4, 6, 3), "width": 1.0, "image_size": 224}, (224, 224)),
    ],
)
def test_closed_form_is_the_count_of_the_traced_program(options, size):
    model = nnx.eval_shape(lambda: ResNet(rngs=nnx.Rngs(0), **(SMALL | options)))
    graph, params, stats = split(model)

    def value(params, stats, x):
        return jnp.sum(nnx.merge(graph, params, stats)(x, context()).summary)

    shapes = params, stats, jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    assert count_jaxpr(jax.make_jaxpr(value)(*shapes)).total == model.flops(size, images=2)
    assert count_jaxpr(jax.make_jaxpr(jax.value_and_grad(value))(*shapes)).total == 2 * model.flops(size, train=True)
    assert model.flops() == model.flops(model.image_size)


def test_blocks_that_start_at_zero_are_the_identity():
    x = np.random.default_rng(0).uniform(size=(2, 2, 2, 8)).astype(np.float32)

    def block(x, zero_init):
        conv = {"bias": False, "kernel_init": ones}
        return Bottleneck(8, 2, (1, 1), rngs=nnx.Rngs(0), zero_init=zero_init, norm={}, conv=conv)(x, context())

    run = jax.jit(block, static_argnums=1)
    np.testing.assert_array_equal(run(x, True), x)
    assert not np.allclose(run(x, False), x)


def test_it_couples_the_batch_and_a_masked_method_refuses_it():
    model = small()
    assert model.couples_batch
    with pytest.raises(ConfigError, match="ResNet"):
        MAE(model, info=INFO, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="leave patches out"):
        model.flops(kept=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stride_in": "2x2"}, "3x3, 1x1"),
        ({"depths": (1, 0)}, "needs a block"),
        ({"width": 0.01}, "and a channel"),
        ({"image_size": 20}, "strides of 8"),
        ({"compute_dtype": "float16"}, "bfloat16"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        nnx.eval_shape(lambda: ResNet(rngs=nnx.Rngs(0), **(SMALL | options)))


def test_images_and_stages_that_do_not_fit_are_errors():
    model = small()
    for images, levels, message in (((1, 16, 20, 3), (), "16x20"), ((1, 16, 16, 3), (2,), "no stage 2")):
        with pytest.raises(ConfigError, match=message):
            jax.eval_shape(lambda s=images, n=levels: model(jnp.zeros(s), context(), levels=n))
