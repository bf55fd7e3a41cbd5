"""Initial distributions (methods_mim T12): bounds and deviations."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn import initialisers as init

KEY = jax.random.key(0)


def draw(initialiser, shape):
    return np.asarray(initialiser(KEY, shape, np.float32))


@pytest.mark.parametrize(
    "initialiser,shape,bound",
    [
        (init.SCHEMES["mae"].qkv, (768, 2304), 0.044194),
        (init.SCHEMES["original"].qkv, (768, 2304), 0.0625),
        (init.SCHEMES["mae"].patch(768), (16, 16, 3, 768), 0.0625),
        (init.SCHEMES["mae"].patch_bias(768), (20000,), 0.036084),
        (init.SCHEMES["timm"].patch(768), (16, 16, 3, 768), 0.036084),
        (init.SCHEMES["mae"].kernel, (768, 768), 0.0625),
        (init.SCHEMES["clip"].qkv, (768, 2304), 0.044194),
        (init.SCHEMES["clip"].kernel, (768, 3072), 768**-0.5),
        (init.SCHEMES["clip"].mlp_bias(768), (20000,), 0.036084),
        (init.SCHEMES["viny"].qkv, (128, 1536), 0.088388),
        (init.SCHEMES["viny"].kernel, (512, 128), 0.044194),
        (init.SCHEMES["viny"].proj_bias(512), (20000,), 0.044194),
        (init.SCHEMES["viny"].patch_bias(768), (20000,), 0.036084),
    ],
)
def test_uniform_bounds(initialiser, shape, bound):
    x = draw(initialiser, shape)
    assert x.shape == shape
    assert bound * 0.999 < np.abs(x).max() <= bound * 1.00001
    assert np.std(x) == pytest.approx(bound / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    "initialiser,shape,std,cut",
    [
        (init.normal(0.02), (100, 500), 0.02, None),
        (init.jax_truncated_normal(0.02), (100, 500), 0.02 * 0.87962566, 0.04),
        (init.lecun_normal, (16, 16, 3, 300), 768**-0.5, 2 * 768**-0.5 / 0.87962566),
        (init.mmcv_kaiming, (3, 3, 64, 256), (2 / (9 * 256)) ** 0.5, None),
        # methods_mim 3.4: realised deviations of SimMIM, whose branches end in kernels divided by sqrt(2 block).
        (init.SCHEMES["simmim"].qkv, (768, 2304), 0.010791, 0.02),
        (init.SCHEMES["simmim"].patch(768), (16, 16, 3, 768), 0.010791, 0.02),
        (init.SCHEMES["simmim"].output(1), (768, 768), 0.00763, 0.02 / 2**0.5),
        (init.SCHEMES["simmim"].output(2), (3072, 768), 0.00540, 0.02 / 2),
        (init.SCHEMES["simmim"].output(12), (768, 768), 0.00220, 0.02 / 24**0.5),
        (init.SCHEMES["viny"].cls_token, (1, 1, 20000), 1.0, None),
        (init.SCHEMES["clip"].pos_embed, (1, 197, 768), 768**-0.5, None),
    ],
)
def test_t12_normal_deviations(initialiser, shape, std, cut):
    x = draw(initialiser, shape)
    assert np.std(x) == pytest.approx(std, rel=0.02 if x.size < 50000 else 0.01)
    assert cut is None or np.abs(x).max() <= cut * 1.0001


def test_schemes_by_name():
    assert np.all(draw(init.scheme("original").cls_token, (1, 1, 8)) == 0)
    assert np.std(draw(init.scheme("mae").cls_token, (1, 1, 20000))) == pytest.approx(0.02, rel=0.02)
    assert np.std(draw(init.scheme("original").mlp_bias(768), (20000,))) == pytest.approx(1e-6, rel=0.02)
    for name in ("mae", "original", "timm", "truncated_02"):
        assert init.scheme(name).output(5) is init.scheme(name).kernel
    assert np.all(draw(init.scheme("simmim").patch_bias(768), (8,)) == 0)
    with pytest.raises(ConfigError, match="original"):
        init.scheme("orignal")
