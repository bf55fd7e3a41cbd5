"""Files of every layout at a tiny size: their keys and shapes, written down by hand from the published ones."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from spendflops_plugins.clip import CLIP
from spendflops_plugins.dino import DINO
from spendflops_plugins.mae import MAE
from spendflops_plugins.simmim import SimMIM
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

from spendflops.contracts.types import DatasetInfo
from spendflops.engine import convert
from spendflops.engine.bare import Bare
from spendflops.engine.state import define, flatten
from spendflops.parts import text
from spendflops.weights import layout
from spendflops.weights.files import Content

INFO = DatasetInfo(name="toy", features={}, classes=tuple("abc"))
GOLDEN = json.loads((Path(__file__).parents[1] / "parity" / "golden.json").read_text())
D, HIDDEN, PATCH, ROWS = 32, 128, 8, 17
TRUNK = {"image_size": 32, "patch_size": PATCH, "dim": D, "depth": 2, "heads": 4}
LEARNED = {"positions": "learned"}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
HEAD = {"out_dim": 24, "hidden": 20, "bottleneck": 12}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPENAI = {
    "patch_bias": False, "pre_norm": True, "gelu": "quick", "norm_eps": 1e-5, "dim": 64, "heads": 1, "mlp_ratio": 2.0,
    "mean": CLIP_MEAN, "std": CLIP_STD, **LEARNED,
}  # fmt: skip
TEXT = {
    "embedding_dim": 24, "text_dim": 64, "text_depth": 1, "text_heads": 1, "text_positions": 9, "text_norm": "pre",
    "text_causal": True, "text_pooling": "last", "text_gelu": "quick", "text_eps": 1e-5,
}  # fmt: skip
SIMMIM = {"positions": "none", "relative_positions": "shared", "layer_scale": 0.1, "key_bias": False, "pooling": "mean"}
VINY = {"patch_norm": True, "qkv_bias": False, "norm_eps": 1e-5, "head_dim": 64, "heads": 2, **LEARNED}


def timm_block(at, dim=D, hidden=HIDDEN):
    yield from ((f"{at}.{norm}.{kind}", (dim,)) for norm in ("norm1", "norm2") for kind in ("weight", "bias"))
    layers = (("attn.qkv", dim, 3 * dim), ("attn.proj", dim, dim), ("mlp.fc1", dim, hidden), ("mlp.fc2", hidden, dim))
    for name, inputs, outputs in layers:
        yield f"{at}.{name}.weight", (outputs, inputs)
        yield f"{at}.{name}.bias", (outputs,)


def timm(prefix=""):
    yield f"{prefix}cls_token", (1, 1, D)
    yield f"{prefix}pos_embed", (1, ROWS, D)
    yield f"{prefix}patch_embed.proj.weight", (D, 3, PATCH, PATCH)
    yield f"{prefix}patch_embed.proj.bias", (D,)
    for i in range(2):
        yield from timm_block(f"{prefix}blocks.{i}")
    yield from ((f"{prefix}norm.{kind}", (D,)) for kind in ("weight", "bias"))


def norm(name):
    yield from ((f"{name}.{kind}", (D,)) for kind in ("weight", "bias"))


def head(classes=3, name="head"):
    yield f"{name}.weight", (classes, D)
    yield f"{name}.bias", (classes,)


def mae():
    yield from timm()
    yield "mask_token", (1, 1, 16)
    yield "decoder_pos_embed", (1, ROWS, 16)
    yield from (("decoder_embed.weight", (16, D)), ("decoder_embed.bias", (16,)))
    yield from timm_block("decoder_blocks.0", 16, 64)
    yield from (("decoder_norm.weight", (16,)), ("decoder_norm.bias", (16,)))
    yield from (("decoder_pred.weight", (192, 16)), ("decoder_pred.bias", (192,)))


def dino(g="weight_g", v="weight_v"):
    yield from timm("backbone.")
    for index, (inputs, outputs) in {0: (D, 20), 2: (20, 20), 4: (20, 12)}.items():
        yield f"head.mlp.{index}.weight", (outputs, inputs)
        yield f"head.mlp.{index}.bias", (outputs,)
    yield f"head.last_layer.{g}", (24, 1)
    yield f"head.last_layer.{v}", (24, 12)


def simmim():
    yield from (("encoder.cls_token", (1, 1, D)), ("encoder.mask_token", (1, 1, D)))
    yield "encoder.rel_pos_bias.relative_position_bias_table", (52, 4)
    for key, shape in timm("encoder."):
        if not key.endswith(("cls_token", "pos_embed", "qkv.bias")):
            yield key, shape
    for i in range(2):
        names = ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")
        yield from ((f"encoder.blocks.{i}.{name}", (D,)) for name in names)
    yield from (("decoder.0.weight", (192, D, 1, 1)), ("decoder.0.bias", (192,)))


def viny():
    yield from (("encoder.pos_embedding", (1, ROWS, D)), ("encoder.cls_token", (1, 1, D)), ("mask_token", (D,)))
    for place, shape in {1: (192,), 3: (D,)}.items():
        yield from ((f"encoder.to_patch_embedding.{place}.{kind}", shape) for kind in ("weight", "bias"))
    yield from (("encoder.to_patch_embedding.2.weight", (D, 192)), ("encoder.to_patch_embedding.2.bias", (D,)))
    for i in range(2):
        at = f"encoder.transformer.layers.{i}"
        yield from ((f"{at}.0.layernorm.{k}", (D,)) for k in ("weight", "bias"))
        yield from ((f"{at}.0.to_qkv.weight", (384, D)), (f"{at}.0.fc_out.0.weight", (D, 128)))
        yield from ((f"{at}.0.fc_out.0.bias", (D,)), (f"{at}.1.network.4.bias", (D,)))
        yield from ((f"{at}.1.network.0.{k}", (D,)) for k in ("weight", "bias"))
        yield from ((f"{at}.1.network.1.weight", (HIDDEN, D)), (f"{at}.1.network.1.bias", (HIDDEN,)))
        yield f"{at}.1.network.4.weight", (D, HIDDEN)
    yield from ((f"encoder.transformer.norm.{k}", (D,)) for k in ("weight", "bias"))
    yield from (("decoder.weight", (192, D)), ("decoder.bias", (192,)))


def openai_block(at, width, hidden):
    yield from ((f"{at}.{norm}.{kind}", (width,)) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias"))
    yield from ((f"{at}.attn.in_proj_weight", (3 * width, width)), (f"{at}.attn.in_proj_bias", (3 * width,)))
    yield from ((f"{at}.attn.out_proj.weight", (width, width)), (f"{at}.attn.out_proj.bias", (width,)))
    yield from ((f"{at}.mlp.c_fc.weight", (hidden, width)), (f"{at}.mlp.c_fc.bias", (hidden,)))
    yield from ((f"{at}.mlp.c_proj.weight", (width, hidden)), (f"{at}.mlp.c_proj.bias", (width,)))


def openai():
    yield from (("visual.conv1.weight", (64, 3, PATCH, PATCH)), ("visual.class_embedding", (64,)))
    yield from (("visual.positional_embedding", (ROWS, 64)), ("visual.proj", (64, 24)))
    yield from ((f"visual.{n}.{k}", (64,)) for n in ("ln_pre", "ln_post") for k in ("weight", "bias"))
    for i in range(2):
        yield from openai_block(f"visual.transformer.resblocks.{i}", 64, 128)
    yield from (("token_embedding.weight", (VOCABULARY, 64)), ("positional_embedding", (9, 64)))
    yield from openai_block("transformer.resblocks.0", 64, 256)
    yield from (("ln_final.weight", (64,)), ("ln_final.bias", (64,)))
    yield from (("text_projection", (64, 24)), ("logit_scale", ()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, a model and the keys of a file of it."""

    layout: str
    keys: dict
    backbone: dict = dataclasses.field(default_factory=dict)
    objective: object = None

    @functools.cached_property
    def definition(self):
        trunk = functools.partial(ViT, **(TRUNK | self.backbone))
        return define(trunk, self.objective or Bare, info=INFO)

    @functools.cached_property
    def target(self):
        return convert.target_of(self.definition)

    def values(self, seed=0):
        """Random values of the model by path."""
        rng = np.random.default_rng(seed)
        parts = (self.definition.params, self.definition.stats)
        return {p: rng.normal(size=x.shape).astype(np.float32) for part in parts for p, x in flatten(part).items()}

    def file(self, dtype=np.float32, seed=1):
        """Random values by key of a file; fixed tables and lengths as they must be."""
        rng = np.random.default_rng(seed)
        arrays = {key: np.asarray(rng.normal(size=shape)).astype(dtype) for key, shape in self.keys.items()}
        for rule in convert.layouts(self.layout)[self.layout].rules:
            value = rule.constant(self.target) if rule.constant and rule.ours not in self.target.shapes else None
            if value is not None:
                end = rule.theirs[0].removeprefix("vit.").removeprefix("backbone.")
                arrays[next(k for k in arrays if k.endswith(end))] = value.astype(dtype)
        return arrays

    def read(self, arrays, *, using=None, **options):
        """(match, values) of a file in memory."""
        content = in_memory(arrays)
        given = {"weights": None, "resize": None} | options
        found = layout.choose(convert.layouts(using), content, self.target, **given)
        return found, layout.read(found, content, self.target, resize=given["resize"])[0]

    def write(self, values):
        return layout.export(convert.layouts(self.layout)[self.layout], values, self.target)


@dataclasses.dataclass(frozen=True)
class Held:
    """A tensor in memory."""

    value: np.ndarray

    @property
    def shape(self):
        return self.value.shape

    @property
    def dtype(self):
        return self.value.dtype

    def read(self):
        return self.value


def in_memory(arrays, config=None):
    return Content(
        path=Path("file.pth"), kind="PyTorch", tensors={k: Held(v) for k, v in arrays.items()}, config=config or {}
    )


CLIP_MODEL = functools.partial(CLIP, **TEXT)
VOCABULARY = text.tokenizer(text.BUILTIN).size
GAP = functools.partial(Supervised, head_norm=True)
DINO_MODEL = functools.partial(DINO, **HEAD)
FREE = functools.partial(DINO, **HEAD, norm_last_layer=False)
MAE_MODEL = functools.partial(MAE, **DECODER)
SIMMIM_MODEL = functools.partial(SimMIM, mask_unit=8)
VINY_MODEL = functools.partial(SimMIM, mask_unit=8, layout="row_column_channel", class_token=False)
SINCOS = {"positions": "learned_sincos"}
FINE_TUNED = {k: s for k, s in (*timm(), *head(), *norm("fc_norm")) if not k.startswith("norm.")}
CENTER = {"dino_loss.center": (1, 24)}
NEWER = dino("parametrizations.weight.original0", "parametrizations.weight.original1")
VINY_ENCODER = {k.removeprefix("encoder."): s for k, s in viny() if k.startswith("encoder.")}
IMAGE_TOWER = {k: s for k, s in openai() if k.startswith("visual.") and k != "visual.proj"}
TABLE = {
    # name: (layout, keys of a file, options of the backbone, objective)
    "timm": ("timm", timm(), LEARNED, None),
    "timm with a head": ("timm", (*timm(), *head()), LEARNED, Supervised),
    "mae encoder": ("mae", timm(), {}, None),
    "mae encoder, learned from the fixed table": ("mae", timm(), SINCOS, None),
    "mae": ("mae", mae(), {}, MAE_MODEL),
    "mae fine-tuned": ("mae", FINE_TUNED, SINCOS | {"final_norm": False, "pooling": "mean"}, GAP),
    "dino backbone": ("dino", timm(), LEARNED, None),
    "dino": ("dino", dict(dino()) | CENTER, LEARNED, DINO_MODEL),
    "dino, free lengths": ("dino", dict(dino()) | CENTER, LEARNED, FREE),
    "dino, newer names": ("dino_parametrized", dict(NEWER) | CENTER, LEARNED, FREE),
    "simmim": ("simmim", simmim(), SIMMIM, SIMMIM_MODEL),
    "viny": ("viny", viny(), VINY, VINY_MODEL),
    "viny encoder": ("viny", VINY_ENCODER, VINY, None),
    "openai clip": ("openai_clip", openai(), OPENAI, CLIP_MODEL),
    "openai clip, image tower": ("openai_clip", IMAGE_TOWER, OPENAI, None),
    "hf vit": ("hf_vit", None, LEARNED, Supervised),
    "hf vit alone": ("hf_vit", None, LEARNED, None),
    "hf vit 5": ("hf_vit_v5", None, LEARNED, Supervised),
    "hf vit mae": ("hf_vit_mae", None, {}, MAE_MODEL),
    "hf vit mae 5": ("hf_vit_mae_v5", None, {}, MAE_MODEL),
    "hf vit mae saved by 5": ("hf_vit_mae_saved_v5", None, {}, MAE_MODEL),
    "hf clip": ("hf_clip", None, OPENAI, CLIP_MODEL),
}


def _shapes(name, keys):
    """By hand, or from the models themselves."""
    return {k: tuple(s) for k, s in dict(keys if keys is not None else GOLDEN["keys"][name]).items()}


CASES = {
    name: Case(layout=kind, keys=_shapes(name, keys), backbone=backbone, objective=objective)
    for name, (kind, keys, backbone, objective) in TABLE.items()
}
