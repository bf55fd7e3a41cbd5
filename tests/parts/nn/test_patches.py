"""Patch order and patch embedding."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.patches import PatchEmbed, grid_of, patchify, unpatchify


def test_patch_order_is_row_column_channel():
    image = np.arange(4 * 6 * 3).reshape(1, 4, 6, 3)
    patches = np.asarray(patchify(image, 2))
    assert patches.shape == (1, 6, 12)
    for token in range(6):
        row, col = divmod(token, 3)
        expected = [image[0, 2 * row + i, 2 * col + j, c] for i in range(2) for j in range(2) for c in range(3)]
        np.testing.assert_array_equal(patches[0, token], expected)
    np.testing.assert_array_equal(unpatchify(patches, 2, (2, 3)), image)


def test_embedding_is_the_strided_convolution():
    embed = PatchEmbed(
        4, 5, rngs=nnx.Rngs(0), kernel_init=initialisers.lecun_normal, bias_init=initialisers.normal(1.0)
    )
    image = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    layout = ("NHWC", "HWIO", "NHWC")
    conv = jax.lax.conv_general_dilated(image, embed.kernel[...], (4, 4), "VALID", dimension_numbers=layout)
    expected = conv.reshape(2, 6, 5) + embed.bias[...]
    assert np.linalg.norm(embed(image) - expected) <= 1e-5 * np.linalg.norm(expected)


def test_images_must_be_whole_patches():
    with pytest.raises(ConfigError, match="30x32"):
        grid_of((2, 30, 32, 3), 4)


def test_embedding_with_norms_before_and_after():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        init = initialisers.ones
        embed = PatchEmbed(4, 5, rngs=nnx.Rngs(0), kernel_init=init, bias_init=init, norm_eps=1e-3)
        graph, state = nnx.split(embed)
        p = jax.tree.map(lambda v: rng.normal(size=v.shape), nnx.to_pure_dict(state))
        image = rng.normal(size=(1, 4, 8, 3))
        result = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(p, image)

    def norm(x, q):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-3) * q["scale"] + q["bias"]

    for token in range(2):
        flat = norm(image[0, :, 4 * token : 4 * token + 4].reshape(48), p["norm_in"])
        expected = norm(flat @ p["kernel"].reshape(48, 5) + p["bias"], p["norm_out"])
        np.testing.assert_allclose(result[0, token], expected, rtol=1e-10, atol=1e-10)


def test_embedding_without_a_bias():
    init = initialisers.normal(1.0)
    embed = nnx.eval_shape(lambda: PatchEmbed(4, 5, rngs=nnx.Rngs(0), kernel_init=init, bias_init=init, bias=False))
    assert embed.bias is None and list(nnx.to_pure_dict(nnx.state(embed))) == ["kernel"]
