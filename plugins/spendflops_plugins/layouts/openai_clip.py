"""OpenAI's CLIP (Radford et al. 2021, arXiv 2103.00020): the official TorchScript archives, or their state dicts."""

from __future__ import annotations

from typing import ClassVar

from spendflops.contracts.layout import Layout, Rule
from spendflops.parts.transforms import CONV, LINEAR, lead
from spendflops_plugins.layouts.rules import EPS, GELU, heads, joined, linear, norm, positions, tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A residual attention block."""
    return joined(
        norm(f"{theirs}.ln_1", f"{ours}/norm1"),
        tensor(f"{theirs}.attn.in_proj_weight", f"{ours}/attn/qkv/kernel", LINEAR),
        tensor(f"{theirs}.attn.in_proj_bias", f"{ours}/attn/qkv/bias"),
        linear(f"{theirs}.attn.out_proj", f"{ours}/attn/proj"),
        norm(f"{theirs}.ln_2", f"{ours}/norm2"),
        linear(f"{theirs}.mlp.c_fc", f"{ours}/mlp/fc1"),
        linear(f"{theirs}.mlp.c_proj", f"{ours}/mlp/fc2"),
    )


class OpenAICLIP(Layout):
    """Both towers with their projections, or the image tower for a backbone alone."""

    title: ClassVar = "OpenAI CLIP with a ViT"
    prefixes: ClassVar = ("module.",)
    rules: ClassVar = joined(
        tensor("visual.conv1.weight", "backbone/patch_embed/kernel", CONV),
        tensor("visual.class_embedding", "backbone/cls_token", lead(2)),
        positions("visual.positional_embedding", transform=lead(1)),
        norm("visual.ln_pre", "backbone/norm_pre"),
        block("visual.transformer.resblocks.{i}", "backbone/blocks/{i}"),
        norm("visual.ln_post", "backbone/norm"),
        tensor("visual.proj", "image_projection/kernel"),
        tensor("token_embedding.weight", "text/embedding"),
        tensor("positional_embedding", "text/pos_embed"),
        block("transformer.resblocks.{i}", "text/blocks/{i}"),
        norm("ln_final", "text/final_norm"),
        tensor("text_projection", "text_projection/kernel"),
        tensor("logit_scale", "logit_scale"),
    )
    ignored: ClassVar = (
        (r"input_resolution|context_length|vocab_size", "sizes, which the tensors show"),
        (r".*attn_mask", "the causal mask, which is computed here"),
    )
    expects: ClassVar = {
        EPS: 1e-5,
        GELU: "quick",
        "backbone.blocks.0.attn.heads": heads(),
        "backbone.mean": MEAN,
        "backbone.std": STD,
        "text.blocks.0.norm1.eps": 1e-5,
        "text.blocks.0.mlp.gelu": "quick",
        "text.blocks.0.attn.heads": heads("text"),
        "text.causal": True,
        "text.pooling": "last",
    }
