"""Vision transformer.

Dosovitskiy et al. 2021, "An image is worth 16x16 words" (arXiv 2010.11929), with the variants of MAE (He et al. 2022,
arXiv 2111.06377), DeiT, DINO, SimMIM (Xie et al. 2022, arXiv 2111.09886), ViNy (arXiv 2512.03862) and OpenAI's CLIP
(Radford et al. 2021, arXiv 2103.00020) as explicit options. Presets of size and variant are gin files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spendflops.contracts.backbone import IMAGENET_MEAN, IMAGENET_STD, TokenBackbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context, FeatureMap, Features, Tokens
from spendflops.parts import closed_form
from spendflops.parts.nn import initialisers, linear
from spendflops.parts.nn.blocks import Block, drop_path_rates
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.patches import PatchEmbed, grid_of
from spendflops.parts.nn.pooling import POOLING
from spendflops.parts.nn.positions import half_pixel, resize_table, sincos_2d, sincos_table
from spendflops.parts.nn.relative import RelativeBias

POSITIONS = ("sincos_mae", "learned", "learned_sincos", "none")
RELATIVE = ("none", "shared")


class ViT(TokenBackbone):
    """Pre-LN vision transformer; blocks are unrolled.

    Args:
        rngs: Source of the initial values.
        image_size: Side, or height and width, in pixels that it is built for. Other sizes resize the positions.
        patch_size: Side of a patch in pixels.
        dim: Width.
        depth: Blocks.
        heads: Attention heads.
        head_dim: Width of a head; ``dim / heads`` by default.
        mlp_ratio: Hidden width of the MLP over ``dim``.
        patch_bias: Whether the patch embedding has a bias.
        patch_norm: Whether layer norms precede (over the flattened patch) and follow the patch embedding.
        pre_norm: Whether a layer norm precedes the first block.
        positions: "sincos_mae" (fixed table, zeros for the class token), "learned", "learned_sincos" (learned, from
            the fixed table on: MAE's fine-tuning) or "none". Learned tables have a row for the class token.
        position_size: Side in pixels for which the fixed table is made, that of pre-training; ``image_size`` by
            default. A table made for 512 is not that of 224 resampled: what was trained at 224 says 224.
        position_resize: Rule of :data:`spendflops.parts.nn.positions.RULES` for other image sizes; "exact" evaluates
            the fixed table at half-pixel coordinates.
        relative_positions: "none" or "shared", one table of biases of the logits for all blocks (SimMIM).
        relative_resize: Rule that resamples that table for other image sizes; None refuses them.
        class_token: Whether there is one.
        pooling: What ``summary`` is: "class" or "mean" (of the patch tokens).
        gelu: "erf", "tanh" or "quick".
        qkv_bias: Whether the fused q, k, v projection has a bias.
        key_bias: Whether that bias has a part for the keys; without, they are ``q_bias`` and ``v_bias``.
        layer_scale: Initial value of a factor for each channel at the end of each branch; None for no factor.
        norm_eps: Of all layer norms.
        drop_path: Rate in the last block; grows linearly from 0 in the first. Active where ``ctx.train``.
        init: "mae", "original", "timm" (also DeiT, DINO), "truncated_02", "simmim", "viny" or "clip".
        final_norm: Whether a layer norm follows the last block. ``levels`` are taken before it.
        mean: Of the normalisation, on the scale 0..1.
        std: Of the normalisation.
        compute_dtype: "float32" or "bfloat16", of the operands of all products; sums are float32, and so are
            parameters, the residual stream, norms and softmaxes.

    Raises:
        ConfigError: Options that do not fit together.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        head_dim: int | None = None,
        mlp_ratio: float = 4.0,
        patch_bias: bool = True,
        patch_norm: bool = False,
        pre_norm: bool = False,
        positions: str = "sincos_mae",
        position_size: int | None = None,
        position_resize: str = "torch_bicubic",
        relative_positions: str = "none",
        relative_resize: str | None = None,
        class_token: bool = True,
        pooling: str = "class",
        gelu: str = "erf",
        qkv_bias: bool = True,
        key_bias: bool = True,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
        init: str = "mae",
        final_norm: bool = True,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        compute_dtype: str = "float32",
    ):
        _known("positions", positions, POSITIONS)
        _known("relative_positions", relative_positions, RELATIVE)
        _known("pooling", pooling, tuple(POOLING))
        if head_dim is None and dim % heads:
            raise ConfigError(f"a width of {dim} cannot be divided into {heads} heads")
        if pooling == "class" and not class_token:
            raise ConfigError("pooling 'class' needs class_token", fix="set class_token = True or pooling = 'mean'")
        if position_resize == "exact" and positions != "sincos_mae":
            raise ConfigError("position_resize 'exact' is for the fixed table", fix="choose 'torch_bicubic'")
        if relative_resize is not None and relative_positions == "none":
            raise ConfigError("relative_resize without relative_positions", fix="set relative_positions = 'shared'")
        if position_size is not None and positions not in ("sincos_mae", "learned_sincos"):
            raise ConfigError("position_size is for fixed tables", why=f"positions = {positions!r}", fix="leave it out")
        start, dtype = initialisers.scheme(init), linear.compute_dtype(compute_dtype)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.dim, self.stride, self.mean, self.std = dim, (patch_size, patch_size), tuple(mean), tuple(std)
        self.positions, self.position_resize, self.pooling = positions, position_resize, pooling
        self.grid = grid_of((*self.image_size, 3), patch_size)
        made_for = self.image_size if position_size is None else (position_size, position_size)
        self.position_grid = grid_of((*made_for, 3), patch_size)
        self.inner, self.hidden = heads * (head_dim or dim // heads), int(dim * mlp_ratio)
        self.patch_embed = PatchEmbed(
            patch_size,
            dim,
            rngs=rngs,
            kernel_init=start.patch(3 * patch_size**2),
            bias_init=start.patch_bias(3 * patch_size**2),
            bias=patch_bias,
            norm_eps=norm_eps if patch_norm else None,
            compute_dtype=dtype,
        )
        self.prefix_length = int(class_token)
        self.cls_token = nnx.Param(start.cls_token(rngs.params(), (1, 1, dim), jnp.float32)) if class_token else None
        self.pos_embed = self._learned_table(start.pos_embed, rngs) if positions.startswith("learned") else None
        self.norm_pre = LayerNorm(dim, eps=norm_eps) if pre_norm else None
        shared = relative_positions == "shared"
        self.relative = RelativeBias(self.grid, heads, resize=relative_resize) if shared else None
        self.blocks = nnx.List(
            Block(
                dim,
                heads,
                rngs=rngs,
                head_dim=head_dim,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                key_bias=key_bias,
                layer_scale=layer_scale,
                gelu=gelu,
                eps=norm_eps,
                drop_path=rate,
                init=init,
                number=number,
                compute_dtype=dtype,
            )
            for number, rate in enumerate(drop_path_rates(drop_path, depth), start=1)
        )
        self.norm = LayerNorm(dim, eps=norm_eps) if final_norm else None

    def embed(self, images: Array) -> Tokens:
        images = self.normalise(images) if jnp.issubdtype(images.dtype, jnp.integer) else images
        grid = grid_of(images.shape, self.stride[0])
        prefix_pos, pos = self._position_table(grid)
        prefix = prefix_pos if self.cls_token is None else self.cls_token[...] + prefix_pos
        return Tokens(x=self.patch_embed(images), pos=pos, prefix=prefix, grid=grid)

    def encode(self, tokens: Tokens, ctx: Context, *, levels: Sequence[int] = ()) -> Features:
        """See the contract. Levels count from 0, or from the end; they are given before the final norm.

        Without prefix tokens (an objective may take them out) ``summary`` is the mean of the patch tokens.

        Raises:
            ConfigError: A level that does not exist or of tokens without a grid; segments beside a class token; a set
                of tokens that relative positions are not defined for.
        """
        prefix = jnp.broadcast_to(tokens.prefix, (tokens.x.shape[0], *tokens.prefix.shape[1:]))
        count, mask = prefix.shape[1], None
        if tokens.segments is not None:
            if count:
                raise ConfigError("packed segments have no class token of their own", fix="set class_token = False")
            mask = (tokens.segments[:, :, None] == tokens.segments[:, None, :])[:, None]
        wanted = self._levels(levels, tokens.grid)
        bias = None if self.relative is None else self.relative(tokens.grid, prefix=count)
        x = jnp.concatenate([prefix, tokens.x + tokens.pos], axis=1)
        x = x if self.norm_pre is None else self.norm_pre(x)
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x, ctx.scoped(f"block{index}"), mask=mask, bias=bias)
            if index in wanted:
                level = FeatureMap(tokens=x[:, count:], grid=tokens.grid, stride=self.stride[0], prefix=x[:, :count])
                maps[index] = level
        x = self.finish(x)
        prefix, patches = x[:, :count], x[:, count:]
        return Features(
            tokens=patches,
            prefix=prefix,
            summary=POOLING[self.pooling if count else "mean"](patches, prefix),
            grid=tokens.grid,
            levels=tuple(maps[index] for index in wanted),
        )

    def flops(
        self, size: tuple[int, int] | None = None, *, kept: int | None = None, train: bool = False, images: int = 1
    ) -> int:
        """Counter A: the matrix products of one call.

        Args:
            size: Height and width of the images; ``image_size`` by default.
            kept: Patch tokens that go through the blocks, beside the class token; all by default. All patches are
                embedded, whatever is kept.
            train: With the gradient of the parameters. Nobody asks for that of the image, so that the patch embedding
                has one backward product, not two, unless a norm with parameters precedes it.
            images: Images of the call. They share one resampled table of positions, which makes ``images`` images
                cheaper than so many times one.
        """
        grid, patch = grid_of((*(size or self.image_size), 3), self.stride[0]), self.stride[0]
        patches = grid[0] * grid[1]
        embedding = closed_form.patch_embedding(patches, patch, self.dim)
        tokens = (patches if kept is None else kept) + self.prefix_length
        blocks = closed_form.transformer(tokens, self.dim, len(self.blocks), inner=self.inner, hidden=self.hidden)
        tables = closed_form.resize(self.grid, grid, self.dim) if self.pos_embed is not None else 0
        tables += 0 if self.relative is None else self.relative.flops(grid)
        if not train:
            return images * (embedding + blocks) + tables
        first = 3 if self.patch_embed.norm_in is not None else 2
        return images * (first * embedding + 3 * blocks) + 2 * tables

    def finish(self, x: Array) -> Array:
        return x if self.norm is None else self.norm(x)

    def resampled(self, name: str, value: Array) -> Array | None:
        """Position tables of square grids, by ``position_resize`` and ``relative_resize``; class rows stay."""
        if name == "relative/table" and self.relative is not None:
            return self.relative.resampled(value)
        if name != "pos_embed" or self.pos_embed is None:
            return None
        prefix, patches = value[:, : self.prefix_length], value[0, self.prefix_length :]
        side = math.isqrt(len(patches))
        if side * side != len(patches):
            return None
        patches = resize_table(patches, (side, side), self.grid, rule=self.position_resize)
        return jnp.concatenate([prefix, patches[None]], axis=1)

    def _learned_table(self, init, rngs: nnx.Rngs) -> nnx.Param:
        rows = self.prefix_length + self.grid[0] * self.grid[1]
        if self.positions == "learned":
            return nnx.Param(init(rngs.params(), (1, rows, self.dim), jnp.float32))
        table = np.pad(self._fixed_table(self.grid), ((self.prefix_length, 0), (0, 0)))
        return nnx.Param(jnp.asarray(table[None], jnp.float32))

    def _fixed_table(self, grid: tuple[int, int]) -> np.ndarray:
        made_for = self.position_grid
        if grid != made_for and self.position_resize == "exact":
            coordinates = [half_pixel(new, old) for new, old in zip(grid, made_for, strict=True)]
            return sincos_2d(*coordinates, self.dim).astype(np.float32)
        return resize_table(sincos_table(made_for, self.dim), made_for, grid, rule=self.position_resize)

    def _position_table(self, grid: tuple[int, int]) -> tuple[Array, Array]:
        """Positions of the prefix [1 P D] and of the patches [1 N D] for token rows and columns ``grid``."""
        count = self.prefix_length
        if self.positions == "none":
            return tuple(jnp.zeros((1, rows, self.dim), jnp.float32) for rows in (count, grid[0] * grid[1]))
        if self.pos_embed is None:
            return jnp.zeros((1, count, self.dim), jnp.float32), jnp.asarray(self._fixed_table(grid)[None])
        table = self.pos_embed[...]
        patches = resize_table(table[0, count:], self.grid, grid, rule=self.position_resize)
        return table[:, :count], patches[None]

    def _levels(self, levels: Sequence[int], grid: tuple[int, ...] | None) -> tuple[int, ...]:
        depth = len(self.blocks)
        if levels and grid is None:
            raise ConfigError("levels are maps", why="tokens were taken out, so there is no grid")
        for level in levels:
            if not -depth <= level < depth:
                raise ConfigError(f"there is no block {level}", why=f"this model has {depth} blocks")
        return tuple(level % depth for level in levels)


def _known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}")
