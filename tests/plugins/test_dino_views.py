"""DINO's views: which operator is for which view, sizes, and what is refused before anything compiles."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, sample, tiny
from spendflops_plugins.dino import DINO, DINOViews
from spendflops_plugins.simclr import SimCLRViews
from spendflops_plugins.vit import ViT

from spendflops.contracts.errors import ConfigError, PluginError
from spendflops.contracts.types import InputSpec
from spendflops.engine import data


def test_views_and_inputs_must_agree_before_anything_compiles():
    trunk = TINY | {"depth": 1}
    module = nnx.eval_shape(lambda: DINO(ViT(rngs=nnx.Rngs(0), **trunk), info=INFO, rngs=nnx.Rngs(1), out_dim=16))
    spec = module.backbone.spec
    with pytest.raises(ConfigError, match="local_size = 16"):
        data.train_structs(module, DINOViews(local_size=18), spec, 4)
    with pytest.raises(PluginError, match=r"local_view.*no size for"):
        data.train_structs(module, SimCLRViews(), spec, 4)
    structs = data.train_structs(module, DINOViews(local_views=2), spec, 1)
    batch = {name: x[None] for name, x in DINOViews(local_views=3)(sample(), np.random.default_rng(0), spec).items()}
    with pytest.raises(ConfigError, match="local_view"):
        data.check_batch(batch, structs, "DINO")


def test_local_views_are_three_sevenths_of_the_global_ones():
    def small(size, stride, **options):
        spec = InputSpec(size=(size, size), stride=(stride, stride), mean=(0,) * 3, std=(1,) * 3)
        letters = DINOViews(**options).letters(spec)
        return letters["h"], letters["w"], letters["V"]

    assert small(224, 16) == (96, 96, 8) and small(224, 8, local_views=0) == (96, 96, 0)
    assert small(224, 14) == (98, 98, 8) and small(32, 4) == (12, 12, 8) and small(16, 16) == (16, 16, 8)
    assert small(32, 4, local_size=16) == (16, 16, 8)


def test_views_are_different_draws_that_a_seed_repeats():
    spec = tiny().spec
    one, again = (DINOViews(local_views=3)(sample(), np.random.default_rng(5), spec) for _ in range(2))
    assert one["global_view"].shape == (2, 32, 32, 3) and one["local_view"].shape == (3, 16, 16, 3)
    for name, x in one.items():
        np.testing.assert_array_equal(x, again[name])
        assert x.dtype == np.uint8 and not np.array_equal(x[0], x[1])


OFF = {
    "global_scale": (1.0, 1.0),
    "local_scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "gray": 0.0,
    "blur": (0.0, 0.0, 0.0),
    "solarize": 0.0,
    "local_views": 1,
    "local_size": 32,
}


def test_which_operator_is_for_which_view():
    spec, given = tiny().spec, sample(0, (32, 32))
    whole = given["image"].array

    def views(**options):
        made = DINOViews(**(OFF | options))(given, np.random.default_rng(0), spec)
        return [*made["global_view"], *made["local_view"]]

    def changed(**options):
        return [not np.array_equal(x, whole) for x in views(**options)]

    assert changed() == [False] * 3
    assert all(np.array_equal(x, whole[:, ::-1]) for x in views(flip=1.0))
    assert changed(jitter=1.0) == changed(gray=1.0) == [True] * 3
    assert all(np.all(x[..., 0] == x[..., 1]) for x in views(gray=1.0))
    for index in range(3):
        blur = tuple(float(i == index) for i in range(3))
        assert changed(blur=blur, radius=(1.0, 1.0)) == [i == index for i in range(3)]
    solarized = views(solarize=1.0)
    np.testing.assert_array_equal(solarized[1], np.where(whole < 128, whole, 255 - whole))
    assert changed(solarize=1.0) == [False, True, False]
    assert changed(global_scale=(0.4, 0.5)) == [True, True, False]
    assert changed(local_scale=(0.4, 0.5)) == [False, False, True]
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    assert changed(jitter=1.0, **still) == [False] * 3
