"""Writes golden.json: what installed public implementations compute with the weights and inputs of fill.py, in float64.

    python tests/parity/make_golden.py

needs torch, timm and transformers. The tests compare ours with these numbers, without them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

import fill
import models
import numpy as np
import safetensors
import torch

OUT = Path(__file__).with_name("golden.json")


def with_golden_weights(model):
    """The model in float64 with the fill rule's values; tables that are no parameters to train stay."""
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    values = {k: torch.from_numpy(fill.fill(k, tuple(v.shape))) for k, v in state.items() if k not in fixed}
    model.load_state_dict(values, strict=False)
    return model.double().eval()


def keys(model):
    """Names and shapes in memory."""
    return {k: list(v.shape) for k, v in model.state_dict().items() if v.is_floating_point()}


def saved_keys(model):
    """Names and shapes in a file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safetensors.safe_open(f"{folder}/model.safetensors", "np") as file:
            return {k: list(file.get_slice(k).get_shape()) for k in sorted(file.keys())}


def main():
    """Runs the models and writes their numbers."""
    runs = {}
    small, large = (torch.from_numpy(fill.images(size).transpose(0, 3, 1, 2)).double() for size in (32, 48))

    timm_model = with_golden_weights(models.timm_vit())
    runs["timm"] = {"32": timm_model.forward_features(small), "48": timm_model.forward_features(large)}
    vit = with_golden_weights(models.hf_vit())
    runs["hf vit"] = {
        "32": vit.vit(small).last_hidden_state,
        "48": vit.vit(large, interpolate_pos_encoding=True).last_hidden_state,
        "logits": vit(small).logits,
    }
    mae = with_golden_weights(models.hf_vit_mae())
    out = mae(small, noise=torch.from_numpy(fill.noise()).double())
    runs["hf vit mae"] = {"loss": out.loss, "pixels": out.logits}
    clip = with_golden_weights(models.hf_clip())
    out = clip(input_ids=torch.from_numpy(fill.texts()), pixel_values=small)
    runs["hf clip"] = {"image": out.image_embeds, "text": out.text_embeds, "logits": out.logits_per_image}

    files = {"hf vit": models.hf_vit(), "hf vit alone": models.hf_vit().vit, "hf clip": models.hf_clip()}
    names = {name: saved_keys(model) for name, model in files.items()}
    names |= {
        "timm": keys(models.timm_vit()),
        "hf vit 5": keys(models.hf_vit()),
        "hf vit mae 5": keys(models.hf_vit_mae()),
    }
    names["hf vit mae saved by 5"] = saved_keys(models.hf_vit_mae())
    # Files on the hub are older: their decoder's layers have the name that they have in memory.
    old, new = "decoder.decoder_layers.", "decoder.decoder_encoder.layer."
    names["hf vit mae"] = {k.replace(new, old): v for k, v in names["hf vit mae saved by 5"].items()}

    body = {
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "timm", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "keys": {name: dict(sorted(shapes.items())) for name, shapes in names.items()},
        "runs": {
            name: {part: fill.summary(np.asarray(value.detach())) for part, value in parts.items()}
            for name, parts in runs.items()
        },
    }
    OUT.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.no_grad():
        main()
