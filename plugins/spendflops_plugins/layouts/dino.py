"""The official files of DINO (Caron et al. 2021, arXiv 2104.14294; facebookresearch/dino).

A full checkpoint holds student and teacher; the teacher is the one to use. The student's keys begin with ``module.``.
Backbones alone have timm's names.
"""

from __future__ import annotations

from typing import ClassVar

from spendflops.contracts.layout import Layout, Root, Rule
from spendflops.parts.transforms import COLUMN, LINEAR, ROW, ones
from spendflops_plugins.layouts.rules import EPS, GELU, OPTIMISER, joined, linear, tensor, timm_trunk


def head(g: str, v: str) -> tuple[Rule, ...]:
    """The projection head without batch norm; its last layer has lengths ``g`` of 1 where they are not learned."""
    return joined(
        *(linear(f"head.mlp.{2 * index}", f"head/mlp/{index}") for index in range(3)),
        tensor(f"head.last_layer.{v}", "head/last_layer/v", LINEAR),
        (
            Rule(
                theirs=(f"head.last_layer.{g}",),
                ours="head/last_layer/g",
                transform=COLUMN,
                constant=ones("head/last_layer/v"),
            ),
        ),
        tensor("dino_loss.center", "center", ROW),
    )


class DINO(Layout):
    """Full checkpoints and backbones."""

    title: ClassVar = "official DINO: full checkpoint or backbone"
    roots: ClassVar = (Root(prefix="teacher.", weights="teacher"), Root(prefix="student.", weights="online"))
    prefixes: ClassVar = ("module.",)
    trunk: ClassVar = "backbone."
    rules: ClassVar = joined(timm_trunk("backbone."), head("weight_g", "weight_v"))
    ignored: ClassVar = (OPTIMISER,)
    expects: ClassVar = {EPS: 1e-6, GELU: "erf"}


class DINOParametrized(DINO):
    """The same, saved by a PyTorch whose weight norm is a parametrization."""

    title: ClassVar = "DINO with PyTorch's newer names of weight norm"
    rules: ClassVar = joined(
        timm_trunk("backbone."), head("parametrizations.weight.original0", "parametrizations.weight.original1")
    )
