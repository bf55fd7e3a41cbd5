"""Small models of installed public implementations, with random weights."""

from __future__ import annotations

import contextlib
import importlib

import torch
from torch import library

with contextlib.suppress(Exception):
    # A torchvision that was built for another torch cannot register its operators; nothing here calls them, but their
    # names must be known for it to be imported.
    if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        _LIBRARY = library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import fill
import timm
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.modeling_vit import ViTForImageClassification
from transformers.models.vit_mae.configuration_vit_mae import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining


def timm_vit(*, size=32, patch=8, dim=32, depth=2, heads=4, classes=3):
    """timm's ViT, which resizes its positions."""
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=classes,
        dynamic_img_size=True,
    )  # fmt: skip


def fields(*, size=32, patch=8, dim=32, depth=2, heads=4, hidden=128, eps=1e-6):
    """Of Hugging Face's configurations."""
    return {
        "image_size": size, "patch_size": patch, "hidden_size": dim, "num_hidden_layers": depth,
        "num_attention_heads": heads, "intermediate_size": hidden, "layer_norm_eps": eps,
    }  # fmt: skip


def hf_vit(*, labels=3, **options):
    """A classifier on the class token, without pooler."""
    return ViTForImageClassification(ViTConfig(num_labels=labels, **fields(**options)))


def hf_vit_mae(*, decoder=16, decoder_depth=1, decoder_heads=2, **options):
    """With normalised pixels as targets.

    Version 5.23 leaves both tables of positions at zero: they are made here, by its own functions.
    """
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            decoder_hidden_size=decoder, decoder_num_hidden_layers=decoder_depth,
            decoder_num_attention_heads=decoder_heads, decoder_intermediate_size=4 * decoder, norm_pix_loss=True,
            mask_ratio=0.75, **fields(**options),
        )
    )  # fmt: skip
    embeddings = model.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    model.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    assert embeddings.position_embeddings.abs().sum() > 0
    assert model.decoder.decoder_pos_embed.abs().sum() > 0
    return model


def hf_clip(*, vocabulary=6144, length=9, embedding=24, text_depth=1, size=32, patch=8, depth=2):
    """Towers of width 64 with one head; a text is pooled at its token ``fill.END``, the last."""
    common = {"hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
    text = {
        "vocab_size": vocabulary, "max_position_embeddings": length, "num_hidden_layers": text_depth,
        "intermediate_size": 256, "bos_token_id": 1, "eos_token_id": fill.END, "pad_token_id": fill.PAD,
    }  # fmt: skip
    vision = {"image_size": size, "patch_size": patch, "num_hidden_layers": depth, "intermediate_size": 128}
    return CLIPModel(
        CLIPConfig(text_config={**common, **text}, vision_config={**common, **vision}, projection_dim=embedding)
    )


def dino_head(inputs, outputs, *, hidden, bottleneck, new):
    """DINO's projection head, from the paper's appendix C; ``new``: weight norm as a parametrization."""
    nn, utils = torch.nn, torch.nn.utils
    norm = utils.parametrizations.weight_norm if new else utils.weight_norm

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(i, o) for i, o in ((inputs, hidden), (hidden, hidden), (hidden, bottleneck))]
            self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
            self.last_layer = norm(nn.Linear(bottleneck, outputs, bias=False))

        def forward(self, x):
            return self.last_layer(nn.functional.normalize(self.mlp(x), dim=-1))

    return Head()


class Part(torch.nn.Module):
    """A module that does nothing, for its attributes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return x


def nested(state):
    """Modules whose state dict is ``state``."""
    root = Part()
    for key, value in state.items():
        node, *names = root, *key.split(".")
        for name in names[:-1]:
            if name not in node._modules:
                node.add_module(name, Part())
            node = node._modules[name]
        node.register_buffer(names[-1], value)
    return root
