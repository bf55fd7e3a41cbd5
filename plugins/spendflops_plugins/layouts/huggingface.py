"""Hugging Face's ViT, ViTMAE and CLIP: the names of the files on its hub, and those of version 5 in memory."""

from __future__ import annotations

from typing import Any, ClassVar

from spendflops.contracts.layout import Layout, Rule, Target
from spendflops.parts.transforms import CONV, LINEAR, fixed_decoder_positions, lead
from spendflops_plugins.layouts.rules import (
    OPTIMISER,
    image_config,
    joined,
    linear,
    norm,
    positions,
    split_qkv,
    tensor,
    vit_config,
)

POOLER = (r"vit\.pooler\..*", "a pooler, which this ViT does not have")


def block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A layer in the names of the hub."""
    attention = f"{theirs}.attention.attention"
    return joined(
        norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        split_qkv((f"{attention}.query", f"{attention}.key", f"{attention}.value"), f"{ours}/attn/qkv"),
        linear(f"{theirs}.attention.output.dense", f"{ours}/attn/proj"),
        norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        linear(f"{theirs}.intermediate.dense", f"{ours}/mlp/fc1"),
        linear(f"{theirs}.output.dense", f"{ours}/mlp/fc2"),
    )


def block_v5(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A layer in the names of version 5."""
    attention = f"{theirs}.attention"
    return joined(
        norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        split_qkv((f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"), f"{ours}/attn/qkv"),
        linear(f"{attention}.o_proj", f"{ours}/attn/proj"),
        norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


def vit(blocks: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """A ``ViTModel`` inside of another model."""
    return joined(
        tensor("vit.embeddings.cls_token", "backbone/cls_token"),
        positions("vit.embeddings.position_embeddings"),
        linear("vit.embeddings.patch_embeddings.projection", "backbone/patch_embed", CONV),
        blocks,
        norm("vit.layernorm", "backbone/norm"),
    )


def decoder(blocks: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """ViTMAE's decoder."""
    return joined(
        tensor("decoder.mask_token", "decoder/mask_token"),
        (Rule(theirs=("decoder.decoder_pos_embed",), ours="decoder/pos_embed", constant=fixed_decoder_positions),),
        linear("decoder.decoder_embed", "decoder/embed"),
        blocks,
        norm("decoder.decoder_norm", "decoder/norm"),
        linear("decoder.decoder_pred", "decoder/pred"),
    )


class HFViT(Layout):
    """``ViTModel`` and ``ViTForImageClassification``, as files have them."""

    title: ClassVar = "Hugging Face ViT (files)"
    prefixes: ClassVar = ("module.",)
    trunk: ClassVar = "vit."
    rules: ClassVar = joined(vit(block("vit.encoder.layer.{i}", "backbone/blocks/{i}")), linear("classifier", "head"))
    ignored: ClassVar = (POOLER, OPTIMISER)

    def config(self, target: Target) -> dict[str, Any]:
        classes = {"num_labels": target.shapes["head/kernel"][1]} if "head/kernel" in target.shapes else {}
        name = "ViTForImageClassification" if classes else "ViTModel"
        bias = {"qkv_bias": "backbone/blocks/0/attn/qkv/bias" in target.shapes}
        fields = vit_config(target) | image_config(target)
        return {"architectures": [name], "model_type": "vit", **fields, **bias, **classes}


class HFViTv5(HFViT):
    """The same with the names that transformers 5 has in memory."""

    title: ClassVar = "Hugging Face ViT (transformers 5 in memory)"
    rules: ClassVar = joined(vit(block_v5("vit.layers.{i}", "backbone/blocks/{i}")), linear("classifier", "head"))


class HFViTMAE(Layout):
    """``ViTMAEForPreTraining``, as files have it."""

    title: ClassVar = "Hugging Face ViTMAE (files)"
    prefixes: ClassVar = ("module.",)
    trunk: ClassVar = "vit."
    rules: ClassVar = joined(
        vit(block("vit.encoder.layer.{i}", "backbone/blocks/{i}")),
        decoder(block("decoder.decoder_layers.{i}", "decoder/blocks/{i}")),
    )
    ignored: ClassVar = (OPTIMISER,)

    def config(self, target: Target) -> dict[str, Any]:
        fields = vit_config(target) | image_config(target)
        fields |= {"architectures": ["ViTMAEModel"], "model_type": "vit_mae"}
        if "decoder/embed/kernel" not in target.shapes:
            return fields
        made = target.model.decoder
        return fields | {
            "architectures": ["ViTMAEForPreTraining"],
            "decoder_hidden_size": target.shapes["decoder/embed/kernel"][1],
            "decoder_num_hidden_layers": len(made.blocks),
            "decoder_num_attention_heads": made.blocks[0].attn.heads if made.blocks else 0,
            "decoder_intermediate_size": 4 * target.shapes["decoder/embed/kernel"][1],
            "mask_ratio": target.model.mask_ratio,
            "norm_pix_loss": target.model.norm_pix,
        }


class HFViTMAEv5(HFViTMAE):
    """The same with the names that transformers 5 has in memory."""

    title: ClassVar = "Hugging Face ViTMAE (transformers 5 in memory)"
    rules: ClassVar = joined(
        vit(block_v5("vit.layers.{i}", "backbone/blocks/{i}")),
        decoder(block_v5("decoder.decoder_layers.{i}", "decoder/blocks/{i}")),
    )


class HFViTMAESaved5(HFViTMAE):
    """The same as transformers 5.23 saves it: with ``decoder_encoder.layer`` where older files have decoder_layers."""

    title: ClassVar = "Hugging Face ViTMAE (saved by transformers 5)"
    rules: ClassVar = joined(
        vit(block("vit.encoder.layer.{i}", "backbone/blocks/{i}")),
        decoder(block("decoder.decoder_encoder.layer.{i}", "decoder/blocks/{i}")),
    )


def clip_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A layer of one of CLIP's towers."""
    attention = f"{theirs}.self_attn"
    return joined(
        norm(f"{theirs}.layer_norm1", f"{ours}/norm1"),
        split_qkv((f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"), f"{ours}/attn/qkv"),
        linear(f"{attention}.out_proj", f"{ours}/attn/proj"),
        norm(f"{theirs}.layer_norm2", f"{ours}/norm2"),
        linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


class HFCLIP(Layout):
    """``CLIPModel``, or ``CLIPVisionModel`` for a backbone alone."""

    title: ClassVar = "Hugging Face CLIP with a ViT"
    prefixes: ClassVar = ("module.",)
    rules: ClassVar = joined(
        tensor("vision_model.embeddings.class_embedding", "backbone/cls_token", lead(2)),
        tensor("vision_model.embeddings.patch_embedding.weight", "backbone/patch_embed/kernel", CONV),
        positions("vision_model.embeddings.position_embedding.weight", transform=lead(1)),
        norm("vision_model.pre_layrnorm", "backbone/norm_pre"),
        clip_block("vision_model.encoder.layers.{i}", "backbone/blocks/{i}"),
        norm("vision_model.post_layernorm", "backbone/norm"),
        tensor("text_model.embeddings.token_embedding.weight", "text/embedding"),
        tensor("text_model.embeddings.position_embedding.weight", "text/pos_embed"),
        clip_block("text_model.encoder.layers.{i}", "text/blocks/{i}"),
        norm("text_model.final_layer_norm", "text/final_norm"),
        tensor("visual_projection.weight", "image_projection/kernel", LINEAR),
        tensor("text_projection.weight", "text_projection/kernel", LINEAR),
        tensor("logit_scale", "logit_scale"),
    )
    ignored: ClassVar = ((r".*position_ids", "numbers of a table's rows"), OPTIMISER)

    def config(self, target: Target) -> dict[str, Any]:
        image = vit_config(target)
        if "text/embedding" not in target.shapes:
            kind = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"}
            return {**kind, **image, **image_config(target)}
        tower = target.model.text
        rows, width = target.shapes["text/embedding"]
        block = tower.blocks[0]
        text = {
            "hidden_size": width,
            "num_hidden_layers": len(tower.blocks),
            "num_attention_heads": block.attn.heads,
            "intermediate_size": 4 * width,
            "hidden_act": {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}[block.mlp.gelu],
            "layer_norm_eps": block.norm1.eps,
            "vocab_size": rows,
            "max_position_embeddings": target.shapes["text/pos_embed"][0],
        }
        size = target.shapes["image_projection/kernel"][1]
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": size,
            **image_config(target),
            "vision_config": {**image, "projection_dim": size},
            "text_config": {**text, "projection_dim": size},
        }
