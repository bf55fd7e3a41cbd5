"""Feature pyramids against slow ones in numpy, their cost, and the choice of one for a backbone."""

from __future__ import annotations

import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles_detection_costs as costs
import pytest
from flax import nnx

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from purelib import context, made, split, tiny
from spendflops_plugins.detection.pyramid import FPN, SimplePyramid, halved, pyramid_for
from spendflops_plugins.resnet import ResNet
from spendflops_plugins.vit import ViT

from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts.errors import ConfigError


def conv(x, p):
    """Zero padding of half a kernel, one place at a time."""
    side = p["kernel"].shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    out = np.zeros((*x.shape[:3], p["kernel"].shape[-1]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + side, j : j + side]
            out[:, i, j] = np.tensordot(window, p["kernel"], 3) + p.get("bias", 0.0)
    return out


def deconv(x, p):
    out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], p["kernel"].shape[-1]))
    for a in range(2):
        for b in range(2):
            out[:, a::2, b::2] = x @ p["kernel"][a, b] + p["bias"]
    return out


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def valued(module):
    """(graph, random parameters in float64)."""
    graph, params, _ = split(module)
    rng = np.random.default_rng(0)
    return graph, jax.tree.map(lambda v: rng.normal(size=v.shape), params)


def run(graph, params, *maps):
    with jax.enable_x64(True):
        results = jax.jit(lambda p, *maps: nnx.merge(graph, p)(*maps))(params, *maps)
        return [np.asarray(x) for x in results]


def test_simple_pyramid_equals_the_table_of_vitdet():
    """p2 deconvolution, norm, GELU, deconvolution; p3 one; p4 none; p5 a maximum; then two convolutions (2.3)."""
    x = np.random.default_rng(1).normal(size=(2, 4, 2, 8))
    module = nnx.eval_shape(lambda: SimplePyramid(8, rngs=nnx.Rngs(0), channels=3))
    assert module.strides == (4, 8, 16, 32, 64)
    graph, params = valued(module)
    p2, p3, p4, p5 = (params["levels"][index] for index in range(4))
    largest = np.maximum.reduce([x[:, a::2, b::2] for a in range(2) for b in range(2)])
    starts = [
        (p2, deconv(gelu(norm(deconv(x, p2["deconvs"][0]), p2["norms"][0])), p2["deconvs"][1])),
        (p3, deconv(x, p3["deconvs"][0])),
        (p4, x),
        (p5, largest),
    ]
    expected = [norm(conv(norm(conv(y, p["conv1"]), p["norm1"]), p["conv2"]), p["norm2"]) for p, y in starts]
    expected.append(expected[-1][:, ::2, ::2])
    assert [m.shape[1:3] for m in expected] == [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)]
    assert [sorted(p) for p, _ in starts] == [["conv1", "conv2", "deconvs", "norm1", "norm2", "norms"]] + [
        ["conv1", "conv2", "deconvs", "norm1", "norm2"]
    ] + [["conv1", "conv2", "norm1", "norm2"]] * 2
    for result, wanted in zip(run(graph, params, x), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-10, atol=1e-10)


def test_feature_pyramid_equals_the_paper():
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(2, 8 // 2**n, 4 // 2**n, width)) for n, width in enumerate((2, 3, 5))]
    module = nnx.eval_shape(lambda: FPN((2, 3, 5), rngs=nnx.Rngs(0), strides=(4, 8, 16), channels=4))
    assert module.strides == (4, 8, 16, 32)
    graph, params = valued(module)
    sums = [conv(x, params["laterals"][index]) for index, x in enumerate(maps)]
    for finer in (1, 0):
        rows, cols = np.indices(sums[finer].shape[1:3]) // 2
        sums[finer] = sums[finer] + sums[finer + 1][:, rows, cols]
    expected = [conv(x, params["outputs"][index]) for index, x in enumerate(sums)]
    expected.append(expected[-1][:, ::2, ::2])
    for result, wanted in zip(run(graph, params, *maps), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-10, atol=1e-10)


def test_initial_values_are_those_of_detectron2():
    def draw():
        pyramid = SimplePyramid(8, rngs=nnx.Rngs(0), channels=32, levels=(1, 0))
        return split(pyramid)[1]["levels"], split(FPN((32,), rngs=nnx.Rngs(0), strides=(4,)))[1]

    levels, fpn = jax.jit(draw)()
    fine, same = levels[0], levels[1]
    for values, bound in (
        # PyTorch's fan-in of a transposed kernel is of its outputs: 4 channels at 2 x 2 places.
        (fine["deconvs"][0]["kernel"], 16**-0.5),
        (same["conv1"]["kernel"], 8**-0.5),
        (same["conv2"]["kernel"], (9 * 32) ** -0.5),
        (fpn["laterals"][0]["kernel"], (3 / 32) ** 0.5),
        (fpn["outputs"][0]["kernel"], (3 / (9 * 256)) ** 0.5),
    ):
        assert 0.9 * bound < np.abs(values).max() <= bound
    assert not np.any(fpn["laterals"][0]["bias"]) and np.any(fine["deconvs"][0]["bias"])
    assert "bias" not in same["conv1"]


def plain(**options):
    factory = {"image_size": 64, "patch_size": 16, "dim": 16, "depth": 2, "heads": 2} | options
    return nnx.eval_shape(lambda: ViT(rngs=nnx.Rngs(0), **factory))


def hierarchical():
    return nnx.eval_shape(lambda: ResNet(rngs=nnx.Rngs(0), image_size=64, depths=(1, 1, 1, 1), width=1 / 16))


def neck(backbone, **options):
    return nnx.eval_shape(lambda: pyramid_for(backbone, rngs=nnx.Rngs(1), **({"channels": 6} | options)))


def shapes(module, function, *args):
    """Shapes of ``function(module, *args)`` for a module without values."""
    graph, params, stats = split(module)
    return jax.eval_shape(lambda p, s, *a: function(nnx.merge(graph, p, s), *a), params, stats, *args)


def features_of(backbone, size, wanted):
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
    return shapes(backbone, lambda b, x: b(x, context(train=False), levels=wanted), images)


CASES = [
    (plain, {}, (-1,), (4, 8, 16, 32, 64)),
    (plain, {"final_norm": True}, (), (4, 8, 16, 32, 64)),
    (plain, {"levels": (0, -1)}, (-1,), (16, 32, 64)),
    (hierarchical, {}, (0, 1, 2, 3), (4, 8, 16, 32, 64)),
]


@pytest.mark.parametrize("make, options, wanted, strides", CASES)
def test_a_backbone_gets_the_pyramid_that_suits_it(make, options, wanted, strides):
    backbone = make()
    pyramid = neck(backbone, **options)
    assert (pyramid.wanted, pyramid.strides, pyramid.channels) == (wanted, strides, 6)
    maps = shapes(pyramid, lambda p, features: p(features), features_of(backbone, (64, 64), pyramid.wanted))
    assert [m.shape for m in maps] == [(2, 64 // stride, 64 // stride, 6) for stride in strides]


@pytest.mark.parametrize("make, options, wanted, strides", CASES)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_closed_form_is_the_count_of_the_traced_program(make, options, wanted, strides, dtype):
    backbone, size = make(), (64, 96)
    pyramid = neck(backbone, compute_dtype=dtype, **options)
    features = features_of(backbone, size, wanted)
    graph, params, stats = split(pyramid)

    def value(params, features):
        return sum(jnp.sum(jnp.sin(x)) for x in nnx.merge(graph, params, stats)(features))

    for function, state in (
        (value, {}),
        (jax.value_and_grad(value, argnums=(0, 1)), {"train": True}),
        (jax.value_and_grad(value), {"train": True, "frozen": True}),
    ):
        counted = count_jaxpr(jax.make_jaxpr(function)(params, features)).total
        assert counted == 2 * pyramid.flops(size, **state)


@pytest.mark.parametrize("dim, size", [(768, (1024, 1024)), (16, (64, 96))])
def test_cost_of_the_simple_pyramid(dim, size):
    """At 1024 pixels 72e9 products forward (downstream 2.5) with the taps on padding, which do not count here."""
    grid = (size[0] // 16, size[1] // 16)
    flops = neck(plain(dim=dim), channels=256).flops(size)
    assert flops == 2 * costs.pyramid(grid, dim, padding=False)
    if dim == 768:
        assert round(flops / 2e9, 1) == 71.3 and round(costs.pyramid(grid, dim, padding=True) / 1e9) == 72


def test_levels_before_and_after_the_last_norm():
    backbone = tiny(depth=1)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    for final_norm in (False, True):
        pyramid = made(
            lambda norm=final_norm: pyramid_for(backbone, rngs=nnx.Rngs(0), channels=4, levels=(0,), final_norm=norm)
        )

        @jax.jit
        def both(x, pyramid=pyramid, norm=final_norm):
            features = backbone(x, context(train=False), levels=(-1,))
            tokens = features.tokens if norm else features.levels[0].tokens
            given = backbone(x, context(train=False), levels=pyramid.wanted)
            return pyramid(given)[0], pyramid.body(tokens.reshape(1, 4, 4, -1))[0]

        np.testing.assert_allclose(*both(images), atol=1e-5)


def test_equal_values_share_the_gradient_of_a_maximum():
    x = jnp.asarray([[1.0, 5.0, 5.0, 2.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(jax.grad(lambda x: halved(x).sum())(x).ravel(), [0, 0.5, 0.5, 0])


@pytest.mark.parametrize(
    "patch, levels, strides",
    [(14, (1, 0, -1, -2), (7, 14, 28, 56, 112)), (4, (0, -1, -2, -3), (4, 8, 16, 32, 64)), (8, (1,), (4, 8))],
)
def test_strides_of_other_patches(patch, levels, strides):
    assert neck(plain(patch_size=patch, image_size=4 * patch), levels=levels).strides == strides


def test_what_has_no_pyramid_is_an_error():
    backbone = plain()
    with pytest.raises(ConfigError, match="whole number"):
        neck(plain(patch_size=14, image_size=28))
    for levels in ((), (0, 1), (1, 1)):
        with pytest.raises(ConfigError, match="fine to coarse"):
            neck(backbone, levels=levels)
    with pytest.raises(ConfigError, match="doubled"):
        nnx.eval_shape(lambda: FPN((2, 2), rngs=nnx.Rngs(0), strides=(4, 16)))
    with pytest.raises(ConfigError, match="5x4 places cannot be halved"):
        shapes(neck(backbone), lambda p, features: p(features), features_of(backbone, (80, 64), (-1,)))
