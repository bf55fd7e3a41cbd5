"""Maps of several strides from what a backbone gives: what detectors look for objects of all sizes on.

A backbone whose map does not shrink gets the simple pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3),
made from its last map alone; a hierarchical one the feature pyramid of Lin et al. 2017 (arXiv 1612.03144, section 3).
Both end with a level of twice the stride, every other pixel of the one before it, which only proposals are made on.

:func:`pyramid_for` chooses. FLOPs are those of products; taps of a kernel on padding are not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Features
from spendflops.parts import closed_form
from spendflops.parts.nn.blocks import activation
from spendflops.parts.nn.conv import Conv, Deconv
from spendflops.parts.nn.initialisers import torch_kernel, torch_uniform
from spendflops.parts.nn.norm import LayerNorm

Map = Float[Array, "B h w D"]
Grid = tuple[int, int]

xavier_fill = variance_scaling(1.0, "fan_in", "uniform")
"""U(+-sqrt(3 / fan_in)): what detectron2's feature pyramid starts from."""


def pyramid_for(
    backbone: Backbone,
    *,
    rngs: nnx.Rngs,
    channels: int = 256,
    levels: tuple[int, ...] = (2, 1, 0, -1),
    final_norm: bool = False,
    compute_dtype=None,
) -> Neck:
    """The pyramid that suits a backbone.

    Args:
        backbone: A feature pyramid where it has a ``hierarchy``, else the simple pyramid.
        rngs: Source of the initial values.
        channels: Of every level.
        levels: Of the simple pyramid, see there.
        final_norm: Whether the simple pyramid sees the last map after the backbone's last norm. ViTDet has no such
            norm; so by default it is the last block's.
        compute_dtype: Of the operands of all products.

    Raises:
        ConfigError: Levels that are no whole number of pixels apart.
    """
    options = {"rngs": rngs, "channels": channels, "compute_dtype": compute_dtype}
    if backbone.hierarchy:
        widths, strides = zip(*backbone.hierarchy, strict=True)
        return Neck(FPN(widths, strides=strides, **options), wanted=tuple(range(len(widths))), reads=strides)
    stride = backbone.stride[0]
    body = SimplePyramid(backbone.dim, stride=stride, levels=levels, **options)
    return Neck(body, wanted=() if final_norm else (-1,), reads=(stride,))


class Neck(nnx.Module):
    """A pyramid and what it reads of a backbone.

    ``wanted`` is the ``levels`` that the backbone must be called with, ``strides`` are those of the results,
    ``channels`` their width.

    Args:
        body: The pyramid.
        wanted: Levels of the backbone; none for its tokens.
        reads: Strides of the maps that the pyramid is given.
    """

    def __init__(self, body: SimplePyramid | FPN, *, wanted: tuple[int, ...], reads: tuple[int, ...]):
        self.body, self.wanted, self.reads = body, wanted, reads
        self.strides, self.channels = body.strides, body.channels

    def __call__(self, features: Features) -> tuple[Map, ...]:
        """Maps [B h w channels], the finest first.

        Raises:
            ConfigError: A map that cannot be halved as often as the pyramid asks.
        """
        sources = features.levels if self.wanted else (features,)
        return self.body(*(f.tokens.reshape(len(f.tokens), *f.grid, -1) for f in sources))

    def flops(self, size: tuple[int, int], *, train: bool = False, frozen: bool = False) -> int:
        """Of one image of ``size`` pixels.

        Args:
            size: Height and width.
            train: Forward and backward, to the parameters and to what the backbone gave.
            frozen: Without the latter.
        """
        first, rest = self.body.products(*((size[0] // stride, size[1] // stride) for stride in self.reads))
        return 3 * (first + rest) - frozen * first if train else first + rest


class SimplePyramid(nnx.Module):
    """The pyramid of a plain backbone: each level by itself from the same map.

    Upwards by transposed convolutions 2x2 that halve the channels, with a norm and GELU between two of them; downwards
    by maxima of 2x2. Then a 1x1 and a 3x3 convolution without bias, each with a norm. All norms are layer norms over
    channels.

    Args:
        inputs: Channels of the map.
        rngs: Source of the initial values; all are PyTorch's defaults, as in detectron2.
        channels: Of every level.
        stride: Pixels between two places of the map.
        levels: How often each level doubles the map, or, below 0, halves it; ViTDet's for patches of 16 pixels.
        compute_dtype: Of the operands of all products.

    Raises:
        ConfigError: A stride that cannot be halved so often.
    """

    def __init__(
        self,
        inputs: int,
        *,
        rngs: nnx.Rngs,
        channels: int = 256,
        stride: int = 16,
        levels: tuple[int, ...] = (2, 1, 0, -1),
        compute_dtype=None,
    ):
        falling = levels and all(fine > coarse for fine, coarse in itertools.pairwise(levels))
        if not falling or stride % 2 ** max(levels[0], 0):
            raise ConfigError(
                f"levels {tuple(levels)} of a map with stride {stride}",
                why="levels go from fine to coarse, and a level's pixels are a whole number of the image's",
                fix="for patches of 14 pixels levels = (1, 0, -1, -2), for patches of 4 (0, -1, -2, -3)",
            )
        self.channels = channels
        strides = [stride * 2**-level if level < 0 else stride // 2**level for level in levels]
        self.strides = (*strides, 2 * strides[-1])
        self.levels = nnx.List(
            SimpleLevel(inputs, level, rngs=rngs, channels=channels, compute_dtype=compute_dtype) for level in levels
        )

    def __call__(self, x: Map) -> tuple[Map, ...]:
        """One map a level, and one of twice the last stride."""
        maps = [level(x) for level in self.levels]
        return (*maps, maps[-1][:, ::2, ::2])

    def products(self, grid: Grid) -> tuple[int, int]:
        """FLOPs of the products that see the map itself, and of all others; forward, for one image."""
        firsts, rests = zip(*(level.products(grid) for level in self.levels), strict=True)
        return sum(firsts), sum(rests)


class SimpleLevel(nnx.Module):
    """One level of :class:`SimplePyramid`, whose arguments these are; ``level`` as in its ``levels``."""

    def __init__(self, inputs: int, level: int, *, rngs: nnx.Rngs, channels: int, compute_dtype):
        widths = [inputs // 2**step for step in range(max(level, 0) + 1)]
        self.halvings = max(-level, 0)
        self.deconvs = nnx.List(
            Deconv(
                width,
                half,
                rngs=rngs,
                # Of PyTorch's kernel [in, out, 2, 2] the fan-in is taken to be out x 2 x 2.
                kernel_init=torch_uniform(4 * half),
                bias_init=torch_uniform(4 * half),
                compute_dtype=compute_dtype,
            )
            for width, half in itertools.pairwise(widths)
        )
        self.norms = nnx.List(LayerNorm(width) for width in widths[1:-1])
        conv = {"rngs": rngs, "bias": False, "kernel_init": torch_kernel, "compute_dtype": compute_dtype}
        self.conv1, self.conv2 = Conv(widths[-1], channels, size=1, **conv), Conv(channels, channels, size=3, **conv)
        self.norm1, self.norm2 = LayerNorm(channels), LayerNorm(channels)

    def __call__(self, x: Map) -> Map:
        for _ in range(self.halvings):
            x = halved(x)
        for index, deconv in enumerate(self.deconvs):
            x = activation("erf")(self.norms[index - 1](x)) if index else x
            x = deconv(x)
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))

    def products(self, grid: Grid) -> tuple[int, int]:
        rows, cols = (side // 2**self.halvings for side in grid)
        costs = []
        for deconv in self.deconvs:
            size, _, inputs, outputs = deconv.kernel.shape
            costs.append(closed_form.linear(rows * cols, inputs, size * size * outputs))
            rows, cols = size * rows, size * cols
        costs += [_conv_flops(conv, (rows, cols)) for conv in (self.conv1, self.conv2)]
        return costs[0], sum(costs[1:])


class FPN(nnx.Module):
    """The feature pyramid: a 1x1 convolution of each level, the coarser sum doubled and added, a 3x3 convolution.

    Args:
        inputs: Channels of the backbone's levels, the finest first.
        rngs: Source of the initial values: detectron2's, kernels by :data:`xavier_fill`, biases 0.
        strides: Of these levels.
        channels: Of the results.
        compute_dtype: Of the operands of all products.

    Raises:
        ConfigError: A level that has not twice the stride of the one before it.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        *,
        rngs: nnx.Rngs,
        strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        compute_dtype=None,
    ):
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ConfigError(
                f"a feature pyramid of levels with strides {tuple(strides)}",
                why="a coarser map is doubled and added to the finer one",
            )
        self.strides, self.channels = (*strides, 2 * strides[-1]), channels
        conv = {"rngs": rngs, "kernel_init": xavier_fill, "compute_dtype": compute_dtype}
        self.laterals = nnx.List(Conv(width, channels, size=1, **conv) for width in inputs)
        self.outputs = nnx.List(Conv(channels, channels, size=3, **conv) for _ in inputs)

    def __call__(self, *maps: Map) -> tuple[Map, ...]:
        """One map a level, and one of twice the last stride."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for finer in reversed(range(len(sums) - 1)):
            sums[finer] = sums[finer] + doubled(sums[finer + 1])
        results = [output(x) for output, x in zip(self.outputs, sums, strict=True)]
        return (*results, results[-1][:, ::2, ::2])

    def products(self, *grids: Grid) -> tuple[int, int]:
        """See :meth:`SimplePyramid.products`."""
        return tuple(
            sum(_conv_flops(conv, grid) for conv, grid in zip(convs, grids, strict=True))
            for convs in (self.laterals, self.outputs)
        )


def halved(x: Map) -> Map:
    """The largest value of each 2x2 pixels; equal values share their gradient.

    Raises:
        ConfigError: An odd number of rows or columns.
    """
    batch, rows, cols, width = x.shape
    if rows % 2 or cols % 2:
        raise ConfigError(
            f"a map of {rows}x{cols} places cannot be halved",
            fix="choose an image size that is a multiple of the pyramid's largest stride but one",
        )
    return jnp.max(x.reshape(batch, rows // 2, 2, cols // 2, 2, width), axis=(2, 4))


def doubled(x: Map) -> Map:
    """Each pixel four times (nearest neighbours)."""
    batch, rows, cols, width = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, rows, 2, cols, 2, width))
    return x.reshape(batch, 2 * rows, 2 * cols, width)


def _conv_flops(conv: Conv, grid: Grid) -> int:
    side, _, inputs, outputs = conv.kernel.shape
    return closed_form.convolution(grid, inputs, outputs, kernel=side)[0]
