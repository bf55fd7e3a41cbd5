"""timm's vision transformers (Wightman, pytorch-image-models); DeiT's, MAWS' and DINO's backbones have the same names.

MAWS (Singh et al. 2023, arXiv 2303.13496) and DINO backbones are files without a wrapper. The names are those of MAE's
fine-tuned models, too, with their norm after pooling.
"""

from __future__ import annotations

from typing import Any, ClassVar

from spendflops.contracts.layout import Layout, Root, Target
from spendflops_plugins.layouts.rules import OPTIMISER, joined, linear, norm, tensor, timm_trunk


class Timm(Layout):
    """A ``VisionTransformer``: with a head, with ``fc_norm``, or alone."""

    title: ClassVar = "timm's VisionTransformer (DeiT, MAWS and DINO backbones, MAE fine-tuned)"
    roots: ClassVar = (Root(prefix="state_dict.", weights="online"), Root(prefix="state_dict_ema.", weights="teacher"),
                       Root(prefix="model."))  # fmt: skip
    prefixes: ClassVar = ("module.",)
    rules: ClassVar = joined(
        timm_trunk(),
        norm("norm_pre", "backbone/norm_pre"),
        tensor("blocks.{i}.ls1.gamma", "backbone/blocks/{i}/gamma_1"),
        tensor("blocks.{i}.ls2.gamma", "backbone/blocks/{i}/gamma_2"),
        norm("fc_norm", "head_norm"),
        linear("head", "head"),
    )
    ignored: ClassVar = (OPTIMISER,)

    def config(self, target: Target) -> dict[str, Any]:
        """timm's files say their normalisation; heads, norms and activations go by the name of the architecture."""
        return {"pretrained_cfg": {"mean": list(target.model.backbone.mean), "std": list(target.model.backbone.std)}}
