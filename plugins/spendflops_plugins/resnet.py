"""Residual network of bottlenecks: ResNet-50 and its relatives.

He et al. 2016, "Deep residual learning for image recognition" (arXiv 1512.03385), table 1. SimCLR and BYOL were made on
it. It has no tokens to leave out, so that masked-image methods refuse it, and its batch statistics couple the images of
a batch.

Deviation: by default the stride of a stage is in the 3x3 convolution ("v1.5": torchvision, SimCLR, BYOL), not in the
1x1 before it (the paper); ``stride_in`` chooses. The running variance is the biased one, see BatchNorm.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context, FeatureMap, Features
from spendflops.parts import closed_form
from spendflops.parts.nn.conv import Conv
from spendflops.parts.nn.initialisers import mmcv_kaiming
from spendflops.parts.nn.linear import compute_dtype as dtype_of
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.nn.pooling import max_pool

STRIDES_IN = ("3x3", "1x1")
EXPANSION = 4
"""Channels at the end of a bottleneck over those within."""
STEM = 4
"""Pixels of an image for one of the first stage: the stem's convolution and pooling halve twice."""


class ResNet(Backbone):
    """ResNet with bottleneck blocks and batch normalisation.

    ``levels`` are stages, 0 to 3 for C2 to C5 with strides 4, 8, 16, 32; ``summary`` is the mean of the last.

    Args:
        rngs: Source of the initial values.
        image_size: Side, or height and width, in pixels. Others work, too, if they are multiples of the stride.
        depths: Blocks of each stage; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        width: Factor on all channels: 2 is SimCLR's "2x".
        stride_in: The convolution that has a stage's stride, "3x3" or "1x1".
        zero_init: Whether the last scale of each block starts at 0, the block then being the identity (Goyal et al.
            2017, section 5.1).
        bn_momentum: Weight of the old running statistics.
        bn_eps: Added to variances.
        mean: Of the normalisation of images, on the scale 0..1.
        std: Of the normalisation.
        compute_dtype: "float32" or "bfloat16", of the operands of all products; all else is float32.

    Raises:
        ConfigError: Unknown options, or an image size that the strides do not divide.
    """

    couples_batch = True

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        image_size: int | tuple[int, int] = 224,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        width: float = 1.0,
        stride_in: str = "3x3",
        zero_init: bool = False,
        bn_momentum: float = 0.9,
        bn_eps: float = 1e-5,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        compute_dtype: str = "float32",
    ):
        if stride_in not in STRIDES_IN:
            raise ConfigError(f"unknown stride_in {stride_in!r}{suggest(stride_in, STRIDES_IN)}", why="known: 3x3, 1x1")
        if not depths or min(depths) < 1 or int(64 * width) < 1:
            raise ConfigError(f"depths {depths}, width {width}", why="each stage needs a block and a channel")
        first = int(64 * width)
        side = STEM * 2 ** (len(depths) - 1)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.stride, self.mean, self.std = (side, side), tuple(mean), tuple(std)
        self.dim = EXPANSION * first * 2 ** (len(depths) - 1)
        self._check(self.image_size)
        norm = {"momentum": bn_momentum, "eps": bn_eps}
        conv = {"bias": False, "kernel_init": mmcv_kaiming, "compute_dtype": dtype_of(compute_dtype)}
        self.stem = Conv(3, first, rngs=rngs, size=7, stride=2, **conv)
        self.stem_norm = BatchNorm(first, **norm)
        inputs, stages = first, []
        for stage, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                strides = (1, stride) if stride_in == "3x3" else (stride, 1)
                inner = first * 2**stage
                blocks.append(Bottleneck(inputs, inner, strides, rngs=rngs, zero_init=zero_init, norm=norm, conv=conv))
                inputs = EXPANSION * inner
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.hierarchy = tuple((EXPANSION * first * 2**stage, STEM * 2**stage) for stage in range(len(depths)))

    def __call__(self, images: Float[Array, "B H W C"], ctx: Context, *, levels: Sequence[int] = ()) -> Features:
        """See the contract.

        Raises:
            ConfigError: An image size that the strides do not divide, or a stage that does not exist.
        """
        self._check(images.shape[1:3])
        wanted = self._levels(levels)
        x = self.normalise(images) if jnp.issubdtype(images.dtype, jnp.integer) else images
        x = max_pool(jax.nn.relu(self.stem_norm(self.stem(x), ctx)))
        maps = []
        for stage, blocks in enumerate(self.stages):
            for block in blocks:
                x = block(x, ctx)
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            maps.append(FeatureMap(tokens=flat, grid=x.shape[1:3], stride=STEM * 2**stage))
        tokens = maps[-1].tokens
        return Features(
            tokens=tokens,
            prefix=tokens[:, :0],
            summary=jnp.mean(tokens, axis=1),
            grid=maps[-1].grid,
            levels=tuple(maps[index] for index in wanted),
        )

    def flops(
        self, size: tuple[int, int] | None = None, *, kept: int | None = None, train: bool = False, images: int = 1
    ) -> int:
        """Counter A: the convolutions of one call on ``images`` images; products with padding are not counted.

        Args:
            size: Height and width of the images; ``image_size`` by default.
            kept: Not for this backbone.
            train: With the gradient of the parameters: two more convolutions for each but the first, whose input is the
                image and which has one.
            images: Images of the call.

        Raises:
            ConfigError: ``kept`` is given, or an image size that the strides do not divide.
        """
        if kept is not None:
            raise ConfigError("a ResNet cannot leave patches out", fix="choose a vision transformer")
        self._check(size or self.image_size)
        stem, size = _cost(self.stem, size or self.image_size)
        size, total = tuple(-(-side // 2) for side in size), 0
        for block in itertools.chain.from_iterable(self.stages):
            cost, size = block.flops(size)
            total += cost
        return images * (2 * stem + 3 * total if train else stem + total)

    def _check(self, size: tuple[int, ...]) -> None:
        if any(side % stride for side, stride in zip(size, self.stride, strict=True)):
            raise ConfigError(
                f"an image of {size[0]}x{size[1]} pixels is no whole number of strides of {self.stride[0]} pixels",
                fix="choose an image size that is a multiple of the stride",
            )

    def _levels(self, levels: Sequence[int]) -> tuple[int, ...]:
        count = len(self.stages)
        for level in levels:
            if not -count <= level < count:
                raise ConfigError(f"there is no stage {level}", why=f"this model has {count} stages")
        return tuple(level % count for level in levels)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (figure 5, right); each followed by batch normalisation.

    The shortcut is the identity, or a 1x1 convolution where channels or the size of the map change (option B).

    Args:
        inputs: Channels of the input.
        inner: Channels of the 3x3 convolution.
        strides: Of the first and of the second convolution.
        rngs: Source of the initial values.
        zero_init: Whether the last scale starts at 0.
        norm: Options of all batch normalisations.
        conv: Options of all convolutions.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        strides: tuple[int, int],
        *,
        rngs: nnx.Rngs,
        zero_init: bool,
        norm: dict,
        conv: dict,
    ):
        outputs, stride = EXPANSION * inner, strides[0] * strides[1]
        self.conv1 = Conv(inputs, inner, rngs=rngs, size=1, stride=strides[0], **conv)
        self.conv2 = Conv(inner, inner, rngs=rngs, size=3, stride=strides[1], **conv)
        self.conv3 = Conv(inner, outputs, rngs=rngs, size=1, **conv)
        self.norm1, self.norm2, self.norm3 = (
            BatchNorm(inner, **norm),
            BatchNorm(inner, **norm),
            BatchNorm(outputs, **norm),
        )
        if zero_init:
            self.norm3.scale.set_value(jnp.zeros((outputs,), jnp.float32))
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else Conv(inputs, outputs, rngs=rngs, size=1, stride=stride, **conv)
        self.shortcut_norm = None if same else BatchNorm(outputs, **norm)

    def __call__(self, x: Float[Array, "B H W I"], ctx: Context) -> Float[Array, "B h w O"]:
        y = jax.nn.relu(self.norm1(self.conv1(x), ctx))
        y = jax.nn.relu(self.norm2(self.conv2(y), ctx))
        y = self.norm3(self.conv3(y), ctx)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x), ctx)))

    def flops(self, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Forward for one image whose map has ``size``, and the size of the result."""
        total = 0 if self.shortcut is None else _cost(self.shortcut, size)[0]
        for conv in (self.conv1, self.conv2, self.conv3):
            cost, size = _cost(conv, size)
            total += cost
        return total, size


def _cost(conv: Conv, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    side, _, inputs, outputs = conv.kernel.shape
    return closed_form.convolution(size, inputs, outputs, kernel=side, stride=conv.stride)
