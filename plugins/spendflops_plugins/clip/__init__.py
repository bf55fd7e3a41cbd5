"""CLIP: contrast of images and their captions.

Radford et al. 2021, "Learning transferable visual models from natural language supervision" (arXiv 2103.00020, figure
3), with the towers of Koppula et al. 2022 (arXiv 2209.15589, A.3). For unit vectors x_i of images and y_i of their
captions and a learned log-scale t, at most ln 100:

    l_ij = exp(t) x_i y_j
    loss = 1/2 mean_i( log sum_j exp(l_ij) - l_ii ) + 1/2 mean_j( log sum_i exp(l_ij) - l_jj )                      (1)

Deviation: the backbone normalises images, by default with the statistics of ImageNet; OpenAI's weights have others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group, Objective
from spendflops.contracts.types import Batch, Context, DatasetInfo, Loss
from spendflops.parts import closed_form, text
from spendflops.parts.nn import initialisers, linear
from spendflops.parts.nn.heads import unit_vectors
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.pooling import feature_std
from spendflops.parts.nn.text import TextTower, text_lengths
from spendflops_plugins.clip.loss import contrast, equal_rows
from spendflops_plugins.clip.views import CLIPViews

__all__ = ["CLIP", "CLIPViews"]


class CLIP(Objective):
    """An image tower, which is the backbone, and a text tower, contrasted over the global batch.

    Args:
        backbone: Any; its summary vector is projected.
        info: Not used: what a caption is, the views say.
        rngs: Source of the initial values.
        embedding_dim: E, of both projections. They have no bias and start at N(0, 1 / width).
        locked: LiT (Zhai et al. 2022, arXiv 2111.07991): the backbone is not trained and runs as in evaluation, nothing
            is dropped, its statistics stay. It is billed one forward pass and no backward work.
        image_projection: False takes the summary as it is; then E is its width. For locked towers.
        tokenizer: A name of :mod:`spendflops.parts.text`; the views use the same.
        vocabulary_size: Rows of the embedding table; the tokenizer's size by default. BERT's tables have 30,522.
        text_dim: Width of the text tower. "mini" is 4 blocks of width 256 with 4 heads, "medium" 8 x 512 with 8.
        text_depth: Its blocks.
        text_heads: Its attention heads.
        text_positions: Rows of its position table, the longest text in tokens.
        text_types: Rows of BERT's segment table; 0 for none.
        text_norm: "post" (BERT) or "pre".
        text_causal: Whether a token sees only those before it.
        text_pooling: "mean", "cls", "pooler" or "last".
        text_gelu: "erf", "tanh" or "quick".
        text_eps: Of its layer norms.
        text_dropout: Rate.
        text_init: "bert" or "clip".
        temperature: Initial value of exp(-t).
        scale_range: Bounds of exp(t), kept after every step. OpenCLIP's are (1.0, 100.0).
        merge_equal: Whether equal captions in a batch are positives of each other, with equal target masses; the
            entropy of the targets is subtracted, so that 0 remains the least loss. Else each is the other's negative.
        chunk: Images whose logits are held at a time; they are computed again in the backward pass. None for all.
        compute_dtype: Of the products of the text tower and of the projections. Logits are always float32.

    Raises:
        ConfigError: Numbers that are out of range, or a vocabulary that does not hold the tokenizer's ids.
        DataError: A tokenizer that cannot be read.
    """

    inputs: ClassVar = {"image": "uint8 B H W C", "tokens": "int32 B L"}
    outputs = ("features", "image_embedding", "text_embedding")
    couples_batch = True
    groups = (Group(match=r"(.*/)?(\w*bias\w*|\w*scale|gamma_\d|\w*_token|pos_embed)", decay=False),)
    views = CLIPViews

    def __init__(
        self,
        backbone: Backbone,
        *,
        info: DatasetInfo,
        rngs: nnx.Rngs,
        embedding_dim: int = 768,
        locked: bool = False,
        image_projection: bool = True,
        tokenizer: str = text.BUILTIN,
        vocabulary_size: int | None = None,
        text_dim: int = 256,
        text_depth: int = 4,
        text_heads: int = 4,
        text_positions: int = 55,
        text_types: int = 0,
        text_norm: str = "post",
        text_causal: bool = False,
        text_pooling: str = "mean",
        text_gelu: str = "erf",
        text_eps: float = 1e-12,
        text_dropout: float = 0.0,
        text_init: str = "bert",
        temperature: float = 0.07,
        scale_range: tuple[float, float] = (0.0, 100.0),
        merge_equal: bool = False,
        chunk: int | None = None,
        compute_dtype: str = "float32",
    ):
        found = text.tokenizer(tokenizer)
        rows = found.size if vocabulary_size is None else vocabulary_size
        if rows < found.size:
            raise ConfigError(
                f"vocabulary_size {rows} does not hold the {found.size} tokens of {tokenizer!r}",
                fix=f"vocabulary_size = {found.size} or more, or None",
            )
        if temperature <= 0 or not 0 <= scale_range[0] <= 1 / temperature <= scale_range[1]:
            raise ConfigError(
                f"temperature {temperature} starts outside of scale_range {scale_range}",
                why="the scale is 1 / temperature, and it is kept in that range",
            )
        if not image_projection and embedding_dim != backbone.dim:
            raise ConfigError(
                f"embedding_dim {embedding_dim} without a projection of images {backbone.dim} wide",
                fix=f"embedding_dim = {backbone.dim}, or image_projection = True",
            )
        if chunk is not None and chunk < 1:
            raise ConfigError(f"chunk {chunk} is not positive", fix="a divisor of the batch size, or None")
        dtype = linear.compute_dtype(compute_dtype)
        self.backbone, self.tokenizer, self.pad = backbone, tokenizer, found.pad
        self.locked = locked
        if locked:
            self.groups = (Group(match="backbone/.*", train=False), *type(self).groups)
        self.scale_range, self.merge_equal, self.chunk = tuple(scale_range), merge_equal, chunk
        self.text = TextTower(
            rows,
            rngs=rngs,
            dim=text_dim,
            depth=text_depth,
            heads=text_heads,
            positions=text_positions,
            token_types=text_types,
            norm=text_norm,
            causal=text_causal,
            pooling=text_pooling,
            gelu=text_gelu,
            eps=text_eps,
            dropout=text_dropout,
            init=text_init,
            compute_dtype=dtype,
        )
        self.image_projection, self.text_projection = (
            Linear(
                width,
                embedding_dim,
                rngs=rngs,
                bias=False,
                kernel_init=initialisers.normal(width**-0.5),
                compute_dtype=dtype,
            )
            if wanted
            else None
            for width, wanted in ((backbone.dim, image_projection), (text_dim, True))
        )
        self.logit_scale = nnx.Param(jnp.asarray(-math.log(temperature), jnp.float32))

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        count = len(batch["image"])
        if count < 2:
            raise ConfigError(
                "clip cannot learn from a batch of one",
                why="the other captions of the batch are the negatives",
                fix="a batch of at least 2; the paper's is 4096",
            )
        seen = dataclasses.replace(ctx, train=False) if self.locked else ctx.scoped("image")
        x = self.embed_images(self.backbone(batch["image"], seen).summary)
        y = self.embed_texts(batch["tokens"], ctx)
        groups = equal_rows(batch["tokens"]) if self.merge_equal else None
        value, accuracy = contrast(jnp.exp(self.logit_scale[...]) * x, y, groups=groups, chunk=self.chunk)
        metrics = {
            "retrieval_accuracy": accuracy,
            "temperature": jnp.exp(-self.logit_scale[...]),
            "text_std": feature_std(y),
            "monitor": feature_std(x),
        }
        return Loss(value=value, metrics=metrics)

    def embed_images(self, summary: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """Unit vectors of images."""
        return unit_vectors(summary if self.image_projection is None else self.image_projection(summary))

    def embed_texts(self, tokens: Int[Array, "B L"], ctx: Context) -> Float[Array, "B E"]:
        """Unit vectors of texts."""
        return unit_vectors(self.text_projection(self.text(tokens, text_lengths(tokens, self.pad), ctx.scoped("text"))))

    def project(self) -> None:
        """Keeps the scale in its range, see the paper's section 2.5: without a bound training becomes unstable."""
        low, high = (math.log(bound) if bound else -math.inf for bound in self.scale_range)
        self.logit_scale.set_value(jnp.clip(self.logit_scale[...], low, high))

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        """What ``want`` names of "features", "image_embedding" and, for a batch with ``tokens``, "text_embedding"."""
        outputs: dict[str, Any] = {}
        if {"features", "image_embedding"} & set(want):
            outputs["features"] = self.backbone(batch["image"], ctx)
        if "image_embedding" in want:
            outputs["image_embedding"] = self.embed_images(outputs["features"].summary)
        if "text_embedding" in want and "tokens" in batch:
            outputs["text_embedding"] = self.embed_texts(batch["tokens"], ctx)
        return outputs

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        images, tokens = (batch[name].shape for name in ("image", "tokens"))
        count, width = images[0], self.text_projection.kernel.shape[1]
        towers = self.backbone.flops(images[1:3], train=not self.locked) + self.text.flops(tokens[1], train=True)
        heads = 3 * closed_form.linear(1, self.text.dim, width)
        if self.image_projection is not None:
            # Nobody asks for the gradient of what goes into a locked tower's projection.
            heads += (2 if self.locked else 3) * closed_form.linear(1, self.backbone.dim, width)
        # All logits, and the gradients of both their operands; in chunks, the logits once more.
        products = 3 if self.chunk is None else 4
        return count * (towers + heads) + products * closed_form.linear(count, width, count)
