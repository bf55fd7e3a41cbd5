"""Initial distributions, named by where they come from: the same word means different things in different libraries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_init

from spendflops.contracts.errors import ConfigError, suggest

Initialiser = Callable[..., jax.Array]
"""``(key, shape, dtype) -> array``. Kernels have their output axis last."""

zeros: Initialiser = jax_init.zeros
ones: Initialiser = jax_init.ones
xavier_uniform: Initialiser = jax_init.xavier_uniform()
"""U(+-sqrt(6 / (fan_in + fan_out))) on the shape as it is stored: on a fused qkv kernel [D, 3D] that is
sqrt(6 / 4D), as in MAE."""
lecun_normal: Initialiser = jax_init.lecun_normal()
"""Variance 1 / fan_in, cut at two standard deviations and rescaled to keep the variance (flax's default)."""
mmcv_kaiming: Initialiser = jax_init.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan_out): the convolutions of mmcv's heads and of residual networks (He et al. 2015, with fan_out)."""
torch_kernel: Initialiser = jax_init.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(+-1 / sqrt(fan_in)) with the fan-in of the kernel itself: PyTorch's default."""


def normal(std: float) -> Initialiser:
    """N(0, std^2). What timm, DeiT and DINO call ``trunc_normal_(std=.02)`` is this: they cut at +-2, not at 2 std."""
    return jax_init.normal(std)


def jax_truncated_normal(std: float) -> Initialiser:
    """N(0, std^2) cut at two standard deviations and not rescaled: its standard deviation is 0.88 std."""
    return jax_init.truncated_normal(std)


def width_normal(key, shape, dtype=jnp.float32):
    """N(0, 1 / width), the width being the last axis (OpenAI CLIP's class token and positions)."""
    return jax_init.normal(shape[-1] ** -0.5)(key, shape, dtype)


def cut_normal(std: float, *, scale: float = 1.0) -> Initialiser:
    """N(0, std^2) cut at one standard deviation, not rescaled, times ``scale``: the deviation is 0.5396 std scale."""

    def init(key, shape, dtype=jnp.float32):
        return scale * std * jax.random.truncated_normal(key, -1.0, 1.0, shape, dtype)

    return init


def xavier_uniform_split(parts: int) -> Initialiser:
    """Xavier uniform for each of ``parts`` blocks of the output axis by itself: separate q, k and v (original ViT)."""

    def init(key, shape, dtype=jnp.float32):
        bound = math.sqrt(6 / (math.prod(shape[:-1]) + shape[-1] // parts))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier_uniform_flat(key, shape, dtype=jnp.float32):
    """Xavier uniform on a convolution kernel seen as a matrix [prod(shape[:-1]), out] (MAE's patch embedding)."""
    return xavier_uniform(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


def torch_uniform(fan_in: int) -> Initialiser:
    """U(+-1 / sqrt(fan_in)): PyTorch's default for the kernels and biases of linear and convolution layers."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """The initialisers of a vision transformer.

    Attributes:
        qkv: Fused kernel [D, 3D]; its bias is zero.
        kernel: All other linear kernels.
        scaled: The kernels that end a block's two branches, as a function of the block's number from 1; None where
            they start as ``kernel``.
        proj_bias: Bias of the attention's output projection, as a function of the fan-in.
        mlp_bias: Biases of the MLP, likewise.
        patch: Patch embedding kernel [p, p, C, D].
        patch_bias: Its bias, both as functions of the fan-in.
        cls_token: Class token.
        pos_embed: Learned positions.
    """

    qkv: Initialiser
    kernel: Initialiser
    scaled: Callable[[int], Initialiser] | None = None
    proj_bias: Callable[[int], Initialiser] = lambda fan_in: zeros
    mlp_bias: Callable[[int], Initialiser] = lambda fan_in: zeros
    patch: Callable[[int], Initialiser]
    patch_bias: Callable[[int], Initialiser]
    cls_token: Initialiser
    pos_embed: Initialiser

    def output(self, number: int) -> Initialiser:
        """Of the kernels that end the branches of block ``number``."""
        return self.kernel if self.scaled is None else self.scaled(number)


SCHEMES = {
    "mae": Scheme(
        qkv=xavier_uniform,
        kernel=xavier_uniform,
        patch=lambda fan_in: xavier_uniform_flat,
        patch_bias=torch_uniform,
        cls_token=normal(0.02),
        pos_embed=normal(0.02),
    ),
    "original": Scheme(
        qkv=xavier_uniform_split(3),
        kernel=xavier_uniform,
        mlp_bias=lambda fan_in: normal(1e-6),
        patch=lambda fan_in: lecun_normal,
        patch_bias=lambda fan_in: zeros,
        cls_token=zeros,
        pos_embed=normal(0.02),
    ),
    "timm": Scheme(
        qkv=normal(0.02),
        kernel=normal(0.02),
        patch=torch_uniform,
        patch_bias=torch_uniform,
        cls_token=normal(0.02),
        pos_embed=normal(0.02),
    ),
    "truncated_02": Scheme(
        qkv=jax_truncated_normal(0.02),
        kernel=jax_truncated_normal(0.02),
        patch=lambda fan_in: jax_truncated_normal(0.02),
        patch_bias=lambda fan_in: zeros,
        cls_token=zeros,
        pos_embed=jax_truncated_normal(0.02),
    ),
    "simmim": Scheme(
        qkv=cut_normal(0.02),
        kernel=cut_normal(0.02),
        scaled=lambda number: cut_normal(0.02, scale=(2 * number) ** -0.5),
        patch=lambda fan_in: cut_normal(0.02),
        patch_bias=lambda fan_in: zeros,
        cls_token=cut_normal(0.02),
        pos_embed=cut_normal(0.02),
    ),
    "viny": Scheme(
        qkv=torch_kernel,
        kernel=torch_kernel,
        proj_bias=torch_uniform,
        mlp_bias=torch_uniform,
        patch=torch_uniform,
        patch_bias=torch_uniform,
        cls_token=normal(1.0),
        pos_embed=normal(1.0),
    ),
    "clip": Scheme(
        qkv=xavier_uniform,
        kernel=torch_kernel,
        mlp_bias=torch_uniform,
        patch=torch_uniform,
        patch_bias=torch_uniform,
        cls_token=width_normal,
        pos_embed=width_normal,
    ),
}
"""mae: He et al. 2022. original: Dosovitskiy et al. 2021. timm: also DeiT and DINO. truncated_02: everything within two
standard deviations of 0.02 (Koppula et al. 2022, supervised: "initial range within 0.02"). simmim: Xie et al. 2022,
whose truncated normal is cut at one standard deviation. viny (arXiv 2512.03862): PyTorch's default of linear layers,
N(0, 1) for class token and positions. clip: the image tower of OpenAI's CLIP (Radford et al. 2021): PyTorch's defaults
of attention, linear and convolution layers, N(0, 1 / width) for class token and positions."""


def scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        ConfigError: An unknown name.
    """
    if name not in SCHEMES:
        raise ConfigError(f"unknown init {name!r}{suggest(name, list(SCHEMES))}", why=f"known: {', '.join(SCHEMES)}")
    return SCHEMES[name]
