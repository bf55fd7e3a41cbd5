"""Rules that several layouts share."""

from __future__ import annotations

import itertools
from typing import Any

from spendflops.contracts.layout import Rule, Target, Transform
from spendflops.parts.transforms import CONV, LINEAR, fixed_positions, resize_positions, stacked

OPTIMISER = (r"(optimizer|scaler|amp_scaler|fp16_scaler|lr_scheduler|scheduler)\..*", "state of an optimiser")
EPS, GELU = "backbone.blocks.0.norm1.eps", "backbone.blocks.0.mlp.gelu"


def tensor(theirs: str, ours: str, transform: Transform | None = None) -> tuple[Rule, ...]:
    """One tensor."""
    return (Rule(theirs=(theirs,), ours=ours, **({"transform": transform} if transform else {})),)


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Weight and bias of a normalisation."""
    return tensor(f"{theirs}.weight", f"{ours}/scale") + tensor(f"{theirs}.bias", f"{ours}/bias")


def linear(theirs: str, ours: str, kernel: Transform = LINEAR) -> tuple[Rule, ...]:
    """Weight and bias of a layer."""
    return tensor(f"{theirs}.weight", f"{ours}/kernel", kernel) + tensor(f"{theirs}.bias", f"{ours}/bias")


def split_qkv(theirs: tuple[str, str, str], ours: str) -> tuple[Rule, ...]:
    """Three layers that are one of ours."""
    weights, biases = (tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias"))
    return (
        Rule(theirs=weights, ours=f"{ours}/kernel", transform=stacked(3).then(LINEAR)),
        Rule(theirs=biases, ours=f"{ours}/bias", transform=stacked(3)),
    )


def joined(*rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """All of them."""
    return tuple(itertools.chain(*rules))


def positions(theirs: str, **options: Any) -> tuple[Rule, ...]:
    """The backbone's table of positions, learned or fixed."""
    path = "backbone/pos_embed"
    return (Rule(theirs=(theirs,), ours=path, constant=fixed_positions, resize=resize_positions, **options),)


def timm_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A block in the names of timm, which MAE, DINO and others share."""
    return joined(
        norm(f"{theirs}.norm1", f"{ours}/norm1"),
        linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv"),
        linear(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        norm(f"{theirs}.norm2", f"{ours}/norm2"),
        linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


def timm_trunk(prefix: str = "") -> tuple[Rule, ...]:
    """A vision transformer in the names of timm."""
    return joined(
        tensor(f"{prefix}cls_token", "backbone/cls_token"),
        positions(f"{prefix}pos_embed"),
        linear(f"{prefix}patch_embed.proj", "backbone/patch_embed", CONV),
        timm_block(f"{prefix}blocks.{{i}}", "backbone/blocks/{i}"),
        norm(f"{prefix}norm", "backbone/norm"),
    )


def heads(part: str = "backbone") -> Any:
    """An attention's heads are 64 wide: their number, from the width."""
    return lambda target: target.attribute(f"{part}.dim") // 64


def vit_config(target: Target) -> dict[str, Any]:
    """The fields by which Hugging Face describes a vision transformer; empty for another backbone."""
    trunk = target.model.backbone
    if not getattr(trunk, "blocks", None):
        return {}
    block, names = trunk.blocks[0], {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
    return {
        "hidden_size": trunk.dim,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.heads,
        "intermediate_size": target.shapes["backbone/blocks/0/mlp/fc1/kernel"][1],
        "hidden_act": names[block.mlp.gelu],
        "layer_norm_eps": block.norm1.eps,
        "image_size": trunk.image_size[0] if len(set(trunk.image_size)) == 1 else list(trunk.image_size),
        "patch_size": trunk.stride[0],
        "num_channels": 3,
    }


def image_config(target: Target) -> dict[str, Any]:
    """The fields that stand in ``preprocessor_config.json``."""
    return {"image_mean": list(target.model.backbone.mean), "image_std": list(target.model.backbone.std)}
