"""Vision transformer.

Dosovitskiy et al. 2021, "An image is worth 16x16 words" (arXiv 2010.11929), with the variants of MAE (He et al. 2022,
arXiv 2111.06377), DeiT, DINO, SimMIM (Xie et al. 2022, arXiv 2111.09886), ViNy (arXiv 2512.03862), OpenAI's CLIP
(Radford et al. 2021, arXiv 2103.00020) and ViTDet (Li et al. 2022, arXiv 2203.16527) as explicit options. Presets of
size and variant are gin files.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from spendflops.contracts.backbone import IMAGENET_MEAN, IMAGENET_STD, TokenBackbone
from spendflops.contracts.errors import ConfigError, suggest
from spendflops.contracts.types import Context, FeatureMap, Features, Tokens
from spendflops.parts import closed_form
from spendflops.parts.nn import initialisers, linear
from spendflops.parts.nn.attention import ATTENTION
from spendflops.parts.nn.blocks import Block, drop_path_rates
from spendflops.parts.nn.decomposed import DecomposedBias
from spendflops.parts.nn.norm import LayerNorm
from spendflops.parts.nn.patches import PatchEmbed, grid_of
from spendflops.parts.nn.pooling import POOLING
from spendflops.parts.nn.positions import half_pixel, resize_table, sincos_2d, sincos_table, square_grid
from spendflops.parts.nn.relative import RelativeBias

POSITIONS = ("sincos_mae", "learned", "learned_sincos", "none")
RELATIVE = ("none", "shared", "decomposed")
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


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
        position_size: Side in pixels for which the table is made, that of pre-training; ``image_size`` by default. It
            is resampled in each call, and a learned one is trained through that (ViTDet). A table made for 512 is not
            that of 224 resampled: what was trained at 224 says 224.
        position_resize: Rule of :data:`spendflops.parts.nn.positions.RULES` for other image sizes; "exact" evaluates
            the fixed table at half-pixel coordinates.
        relative_positions: "none", "shared", one table of biases of the logits for all blocks (SimMIM), or
            "decomposed", a table of rows and one of columns in each block (ViTDet).
        relative_resize: Rule that resamples these tables for other image sizes; None refuses them.
        window: Side in tokens of the windows within which the tokens of a block attend (ViTDet); None for whole images.
            Windows that reach beyond the image are filled up with zeros, which nothing masks, as in ViTDet's code.
        global_blocks: Numbers from 0 of the blocks without windows.
        attention: "plain", or "chunked", which never has a whole map of logits in memory: the same function, but the
            backward pass computes the logits again.
        remat: What the backward pass computes again: "none"; "dots", all of a block but the products with its
            weights, whose results stay in memory (attention is computed again, the rest costs no product); or
            "blocks", each block as a whole, so that only the tokens between blocks stay. For accelerators: XLA's CPU
            backend (jaxlib 0.10) does it early and saves nothing.
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
        window: int | None = None,
        global_blocks: tuple[int, ...] = (),
        attention: str = "plain",
        remat: str = "none",
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
        _known("attention", attention, tuple(ATTENTION))
        _known("remat", remat, tuple(REMAT))
        _known("pooling", pooling, tuple(POOLING))
        if head_dim is None and dim % heads:
            raise ConfigError(f"a width of {dim} cannot be divided into {heads} heads")
        if pooling == "class" and not class_token:
            raise ConfigError("pooling 'class' needs class_token", fix="set class_token = True or pooling = 'mean'")
        if position_resize == "exact" and positions != "sincos_mae":
            raise ConfigError("position_resize 'exact' is for the fixed table", fix="choose 'torch_bicubic'")
        if relative_resize is not None and relative_positions == "none":
            raise ConfigError("relative_resize without relative_positions", fix="set relative_positions = 'shared'")
        if position_size is not None and positions == "none":
            raise ConfigError("position_size without positions", fix="leave it out, or choose positions")
        self.whole_grid = window is not None or relative_positions == "decomposed"
        if self.whole_grid and class_token:
            raise ConfigError(
                "a class token beside windows or decomposed relative positions",
                why="it has no place on the grid",
                fix="set class_token = False and pooling = 'mean'",
            )
        if window is not None and (window < 1 or relative_positions == "shared"):
            raise ConfigError(
                f"windows of {window} tokens with relative_positions = {relative_positions!r}",
                why="a shared table is of whole images, and a side is a positive number",
                fix="set relative_positions = 'decomposed' or 'none', or window = None",
            )
        if global_blocks and (window is None or not all(0 <= block < depth for block in global_blocks)):
            raise ConfigError(
                f"global_blocks {tuple(global_blocks)} of {depth} blocks with window = {window}",
                fix="set window, and numbers from 0 to depth - 1",
            )
        start, dtype = initialisers.scheme(init), linear.compute_dtype(compute_dtype)
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.dim, self.stride, self.mean, self.std = dim, (patch_size, patch_size), tuple(mean), tuple(std)
        self.positions, self.position_resize, self.pooling, self.remat = positions, position_resize, pooling, remat
        self.grid = grid_of((*self.image_size, 3), patch_size)
        made_for = self.image_size if position_size is None else (position_size, position_size)
        self.position_grid = grid_of((*made_for, 3), patch_size)
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
        shared, decomposed = (relative_positions == kind for kind in ("shared", "decomposed"))
        self.relative = RelativeBias(self.grid, heads, resize=relative_resize) if shared else None
        own = functools.partial(DecomposedBias, resize=relative_resize, compute_dtype=dtype)
        sides = [None if block in global_blocks else window for block in range(depth)]
        self.blocks = nnx.List(
            Block(
                dim,
                heads,
                rngs=rngs,
                head_dim=head_dim,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                key_bias=key_bias,
                window=side,
                relative=own(self.grid if side is None else (side, side), head_dim or dim // heads)
                if decomposed
                else None,
                attention=attention,
                layer_scale=layer_scale,
                gelu=gelu,
                eps=norm_eps,
                drop_path=rate,
                init=init,
                number=number,
                compute_dtype=dtype,
            )
            for number, (side, rate) in enumerate(zip(sides, drop_path_rates(drop_path, depth), strict=True), start=1)
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
                of tokens that windows or relative positions are not defined for.
        """
        prefix = jnp.broadcast_to(tokens.prefix, (tokens.x.shape[0], *tokens.prefix.shape[1:]))
        count, mask = prefix.shape[1], None
        if tokens.segments is not None:
            if count:
                raise ConfigError("packed segments have no class token of their own", fix="set class_token = False")
            mask = (tokens.segments[:, :, None] == tokens.segments[:, None, :])[:, None]
        self._check_whole(tokens.grid is not None and not count and mask is None)
        wanted = self._levels(levels, tokens.grid)
        bias = None if self.relative is None else self.relative(tokens.grid, prefix=count)
        x = jnp.concatenate([prefix, tokens.x + tokens.pos], axis=1)
        x = x if self.norm_pre is None else self.norm_pre(x)
        maps = {}
        for index, block in enumerate(self.blocks):
            run = functools.partial(block, ctx=ctx.scoped(f"block{index}"), mask=mask, bias=bias, grid=tokens.grid)
            x = (run if self.remat == "none" else jax.checkpoint(run, policy=REMAT[self.remat]))(x)
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
            images: Images of the call. They share resampled tables of positions, which makes ``images`` images cheaper
                than so many times one.

        Raises:
            ConfigError: A size that is no whole number of patches; ``kept`` with what needs the whole grid.
        """
        self._check_whole(kept is None)
        grid, patch = grid_of((*(size or self.image_size), 3), self.stride[0]), self.stride[0]
        patches = grid[0] * grid[1]
        embedding = closed_form.patch_embedding(patches, patch, self.dim)
        tokens = (patches if kept is None else kept) + self.prefix_length
        costs = [block.flops(tokens, grid) for block in self.blocks]
        blocks, tables = (sum(cost[part] for cost in costs) for part in (0, 1))
        tables += closed_form.resize(self.position_grid, grid, self.dim) if self.pos_embed is not None else 0
        tables += 0 if self.relative is None else self.relative.flops(grid)
        if not train:
            return images * (embedding + blocks) + tables
        first = 3 if self.patch_embed.norm_in is not None else 2
        return images * (first * embedding + 3 * blocks) + 2 * tables

    def finish(self, x: Array) -> Array:
        return x if self.norm is None else self.norm(x)

    def resampled(self, name: str, value: Array) -> Array | None:
        """Position tables of square grids, by ``position_resize`` and ``relative_resize``.

        The class token's row stays; it is dropped where there is no class token here.
        """
        if name == "relative/table" and self.relative is not None:
            return self.relative.resampled(value)
        if table := re.fullmatch(r"blocks/(\d+)/attn/relative/(rows|cols)", name):
            return self.blocks[int(table[1])].attn.relative.resampled(value, table[2])
        if name != "pos_embed" or self.pos_embed is None:
            return None
        found = square_grid(value.shape[1])
        if found is None or found[0] < self.prefix_length:
            return None
        prefix, side = found
        patches = resize_table(value[0, prefix:], (side, side), self.position_grid, rule=self.position_resize)
        return jnp.concatenate([value[:, : self.prefix_length], patches[None]], axis=1)

    def _learned_table(self, init, rngs: nnx.Rngs) -> nnx.Param:
        rows = self.prefix_length + self.position_grid[0] * self.position_grid[1]
        if self.positions == "learned":
            return nnx.Param(init(rngs.params(), (1, rows, self.dim), jnp.float32))
        table = np.pad(sincos_table(self.position_grid, self.dim), ((self.prefix_length, 0), (0, 0)))
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
        patches = resize_table(table[0, count:], self.position_grid, grid, rule=self.position_resize)
        return table[:, :count], patches[None]

    def _check_whole(self, whole: bool) -> None:
        if self.whole_grid and not whole:
            raise ConfigError(
                "windows and decomposed relative positions need all tokens of the grid, and no others",
                why="tokens were taken out, packed, or added",
                fix="choose a method that keeps all tokens, or set window = None and relative_positions = 'none'",
            )

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
