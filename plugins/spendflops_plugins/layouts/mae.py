"""The official files of MAE (He et al. 2022, arXiv 2111.06377; facebookresearch/mae).

Their tables of positions are fixed: they are compared with the ones that are computed here. Files for pictures
(``visualize``) hold raw pixels' decoders, the others' predict normalised pixels; no tensor shows which.
"""

from __future__ import annotations

from typing import ClassVar

from spendflops.contracts.layout import Layout, Root, Rule
from spendflops.parts.transforms import fixed_decoder_positions
from spendflops_plugins.layouts.rules import EPS, GELU, OPTIMISER, joined, linear, norm, tensor, timm_block, timm_trunk


class MAE(Layout):
    """Encoders (``mae_pretrain_vit_base.pth``), with decoders (``..._full.pth``), and fine-tuned classifiers."""

    title: ClassVar = "official MAE: encoder, with decoder, or fine-tuned"
    roots: ClassVar = (Root(prefix="model."),)
    rules: ClassVar = joined(
        timm_trunk(),
        tensor("mask_token", "decoder/mask_token"),
        (Rule(theirs=("decoder_pos_embed",), ours="decoder/pos_embed", constant=fixed_decoder_positions),),
        linear("decoder_embed", "decoder/embed"),
        timm_block("decoder_blocks.{i}", "decoder/blocks/{i}"),
        norm("decoder_norm", "decoder/norm"),
        linear("decoder_pred", "decoder/pred"),
        norm("fc_norm", "head_norm"),
        linear("head", "head"),
    )
    ignored: ClassVar = (OPTIMISER,)
    expects: ClassVar = {EPS: 1e-6, GELU: "erf"}
