"""The files of SimMIM (Xie et al. 2022, arXiv 2111.09886; microsoft/SimMIM), and of ViNy (arXiv 2512.03862)."""

from __future__ import annotations

from typing import ClassVar

from spendflops.contracts.layout import Layout, Root, Rule
from spendflops.parts.transforms import FLAT_PATCH, LINEAR, POINTWISE, lead, resize_relative
from spendflops_plugins.layouts.rules import (
    EPS,
    GELU,
    OPTIMISER,
    joined,
    linear,
    norm,
    positions,
    tensor,
    timm_trunk,
)

BLOCK, TABLE = "encoder.blocks.{i}", "encoder.rel_pos_bias.relative_position_bias_table"
LAYER, OURS = "encoder.transformer.layers.{i}", "backbone/blocks/{i}"


class SimMIM(Layout):
    """Pre-trained vision transformers: their head's outputs are in the order (channel, row, column)."""

    title: ClassVar = "official SimMIM, ViT"
    roots: ClassVar = (Root(prefix="model."),)
    prefixes: ClassVar = ("module.",)
    trunk: ClassVar = "encoder."
    rules: ClassVar = joined(
        timm_trunk("encoder."),
        *(tensor(f"{BLOCK}.attn.{name}", f"{OURS}/attn/{name}") for name in ("q_bias", "v_bias")),
        *(tensor(f"{BLOCK}.{name}", f"{OURS}/{name}") for name in ("gamma_1", "gamma_2")),
        (Rule(theirs=(TABLE,), ours="backbone/relative/table", resize=resize_relative),),
        tensor("encoder.mask_token", "mask_token"),
        linear("decoder.0", "head", POINTWISE),
    )
    ignored: ClassVar = (
        (r".*relative_position_index", "numbers of a table's rows"),
        OPTIMISER,
    )
    expects: ClassVar = {EPS: 1e-6, GELU: "erf", "layout": "channel_row_column"}


class ViNy(Layout):
    """Encoders of width 128, alone or with the pixel head of their SimMIM stage."""

    title: ClassVar = "ViNy: encoder or SimMIM stage"
    trunk: ClassVar = "encoder."
    rules: ClassVar = joined(
        tensor("encoder.cls_token", "backbone/cls_token"),
        positions("encoder.pos_embedding"),
        norm("encoder.to_patch_embedding.1", "backbone/patch_embed/norm_in"),
        linear("encoder.to_patch_embedding.2", "backbone/patch_embed", LINEAR.then(FLAT_PATCH)),
        norm("encoder.to_patch_embedding.3", "backbone/patch_embed/norm_out"),
        norm(f"{LAYER}.0.layernorm", f"{OURS}/norm1"),
        linear(f"{LAYER}.0.to_qkv", f"{OURS}/attn/qkv"),
        linear(f"{LAYER}.0.fc_out.0", f"{OURS}/attn/proj"),
        norm(f"{LAYER}.1.network.0", f"{OURS}/norm2"),
        linear(f"{LAYER}.1.network.1", f"{OURS}/mlp/fc1"),
        linear(f"{LAYER}.1.network.4", f"{OURS}/mlp/fc2"),
        norm("encoder.transformer.norm", "backbone/norm"),
        tensor("mask_token", "mask_token", lead(2)),
        linear("decoder", "head"),
    )
    ignored: ClassVar = ((r"get_patch_embedding\.\d\..*", "second names of the patch embedding"),)
    expects: ClassVar = {EPS: 1e-5, GELU: "erf", "layout": "row_column_channel"}
