"""What looks at a region: the box head and the mask head (He et al. 2017, arXiv 1703.06870, figure 4, right)."""

from __future__ import annotations

import jax
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float, Int

from spendflops.contracts.types import Context
from spendflops.parts import closed_form
from spendflops.parts.nn import initialisers
from spendflops.parts.nn.conv import Conv, Deconv
from spendflops.parts.nn.linear import Linear, einsum
from spendflops.parts.nn.norm import BatchNorm, LayerNorm

NORMS = ("layer", "batch", "none")

# Of fully connected layers in Caffe2 and detectron2: variance 1 / fan_in, uniform.
_XAVIER = initializers.variance_scaling(1.0, "fan_in", "uniform")


class Convs(nnx.Module):
    """3x3 convolutions, each with a norm over channels and ReLU.

    Args:
        inputs: Channels of the input.
        channels: Of all convolutions.
        number: Of them.
        rngs: Source of the initial values.
        norm: "layer" (of each place: ViTDet), "batch" or "none".
        compute_dtype: Of the operands of the products.
    """

    def __init__(self, inputs: int, channels: int, number: int, *, rngs: nnx.Rngs, norm: str, compute_dtype=None):
        widths = [inputs, *[channels] * number][:number]
        self.convs = nnx.List(
            Conv(
                width,
                channels,
                rngs=rngs,
                bias=norm == "none",
                kernel_init=initialisers.mmcv_kaiming,
                compute_dtype=compute_dtype,
            )
            for width in widths
        )
        make = {"layer": LayerNorm, "batch": BatchNorm, "none": None}[norm]
        self.norms = None if make is None else nnx.List(make(channels) for _ in widths)
        self.norm = norm

    def __call__(self, x: Float[Array, "R h w C"], ctx: Context) -> Float[Array, "R h w C"]:
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if self.norm == "layer":
                x = self.norms[index](x)
            elif self.norm == "batch":
                x = self.norms[index](x, ctx)
            x = jax.nn.relu(x)
        return x

    def flops(self, side: int) -> int:
        """Counter A: of one region, forward."""
        return sum(closed_form.convolution((side, side), *c.kernel.shape[2:], kernel=3)[0] for c in self.convs)


class BoxHead(nnx.Module):
    """Convolutions, one hidden layer, then logits of the classes and of the background (last), and offsets of the box.

    Args:
        channels: Of the maps and of the convolutions.
        rngs: Source of the initial values.
        classes: K, without the background.
        side: Of the pooled maps.
        convs: Number of convolutions.
        hidden: Width of the hidden layer.
        agnostic: Whether one box serves all classes; else each has its own.
        norm: See :class:`Convs`.
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self,
        channels: int,
        *,
        rngs: nnx.Rngs,
        classes: int,
        side: int,
        convs: int,
        hidden: int,
        agnostic: bool,
        norm: str,
        compute_dtype=None,
    ):
        self.convs = Convs(channels, channels, convs, rngs=rngs, norm=norm, compute_dtype=compute_dtype)
        self.fc = Linear(side * side * channels, hidden, rngs=rngs, kernel_init=_XAVIER, compute_dtype=compute_dtype)
        self.classes = Linear(hidden, classes + 1, rngs=rngs, kernel_init=initialisers.normal(0.01))
        boxes = 1 if agnostic else classes
        self.offsets = Linear(hidden, 4 * boxes, rngs=rngs, kernel_init=initialisers.normal(0.001))
        self.side = side

    def __call__(self, x: Float[Array, "R s s C"], ctx: Context) -> tuple[Float[Array, "R K1"], Float[Array, "R b 4"]]:
        """Logits of K + 1 classes, and offsets of one box or of K."""
        x = self.convs(x, ctx)
        x = jax.nn.relu(self.fc(x.reshape(len(x), -1)))
        return self.classes(x), self.offsets(x).reshape(len(x), -1, 4)

    def flops(self) -> int:
        """Counter A: of one region, forward."""
        layers = (self.fc, self.classes, self.offsets)
        return self.convs.flops(self.side) + sum(closed_form.linear(1, *layer.kernel.shape) for layer in layers)


class MaskHead(nnx.Module):
    """Convolutions, a transposed convolution that doubles the map, and a logit of each pixel for the region's class.

    Only one class's map of a region is ever read, in training (He et al. 2017, section 3) as in inference, so that only
    one is computed: the classifier's column of that class is gathered before the product. With all 1,203 maps of LVIS
    the logits of 128 regions alone would be 460 MiB an image.

    Args:
        channels: Of the maps and of the convolutions.
        rngs: Source of the initial values.
        classes: K.
        side: Of the pooled maps; masks have twice that.
        convs: Number of convolutions.
        norm: See :class:`Convs`.
        compute_dtype: Of the operands of the products.
    """

    def __init__(
        self, channels: int, *, rngs: nnx.Rngs, classes: int, side: int, convs: int, norm: str, compute_dtype=None
    ):
        self.convs = Convs(channels, channels, convs, rngs=rngs, norm=norm, compute_dtype=compute_dtype)
        self.deconv = Deconv(
            channels, channels, rngs=rngs, kernel_init=initialisers.mmcv_kaiming, compute_dtype=compute_dtype
        )
        self.classifier = Linear(channels, classes, rngs=rngs, kernel_init=initialisers.normal(0.001))
        self.side = side

    def __call__(self, x: Float[Array, "R s s C"], labels: Int[Array, " R"], ctx: Context) -> Float[Array, "R S S"]:
        """The logits of each region's class, ``labels``."""
        x = jax.nn.relu(self.deconv(self.convs(x, ctx)))
        kernel, bias = self.classifier.kernel[...][:, labels], self.classifier.bias[...][labels]
        return einsum("rijc,cr->rij", x, kernel) + bias[:, None, None]

    def flops(self) -> int:
        """Counter A: of one region, forward."""
        channels = self.classifier.kernel.shape[0]
        doubled = (2 * self.side) ** 2
        deconv = closed_form.linear(self.side**2, channels, 4 * channels)
        return self.convs.flops(self.side) + deconv + closed_form.linear(doubled, channels, 1)
