"""FLOPs of every method at ViT-B/16 and the batch size of Koppula et al. 2022, by formula and by count.

The reference is a closed form of its own (2 FLOPs a multiply-add, matrix products only; BYOL and SimCLR with projectors
D-4096-256 and CLIP with 55 tokens, embedding 768 and all 4096 x 4096 logits), checked against public counters.
"""

from __future__ import annotations

import functools

import pytest
from spendflops_plugins.byol import BYOL
from spendflops_plugins.clip import CLIP
from spendflops_plugins.dino import DINO, DINOViews
from spendflops_plugins.mae import MAE
from spendflops_plugins.simclr import SimCLR
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.engine.recipe import Stage


class Thousand(Dataset):
    """A data set that is on no disk."""

    def __init__(self):
        features = {"image": "uint8 H W C", "label": "int32", "caption": "str"}
        self.info = DatasetInfo(name="thousand", features=features, classes=tuple(map(str, range(1000))))

    def source(self, split, *, features):
        raise AssertionError("a plan must not open the data")


CASES = {
    "supervised": (Supervised, 4096, 105151758336),
    "simclr": (SimCLR, 4096, 210369798144),
    "byol": (BYOL, 4096, 280638816256),
    "dino": (DINO, 1024, 473218048000),
    "clip mini": (functools.partial(CLIP, text_dim=256, text_depth=4, text_heads=4), 4096, 106246004736),
    "clip medium": (functools.partial(CLIP, text_dim=512, text_depth=8, text_heads=8), 4096, 113625329664),
    "mae 55 8": (functools.partial(MAE, mask_ratio=0.55), 4096, 79021830144),
    "mae 75 8": (functools.partial(MAE, mask_ratio=0.75), 4096, 58455588864),
    "mae 85 8": (functools.partial(MAE, mask_ratio=0.85), 4096, 48039297024),
    "mae 55 1": (functools.partial(MAE, mask_ratio=0.55, decoder_depth=1), 4096, 51324979200),
    "mae 75 1": (functools.partial(MAE, mask_ratio=0.75, decoder_depth=1), 4096, 30758737920),
    "mae 85 1": (functools.partial(MAE, mask_ratio=0.85, decoder_depth=1), 4096, 20342446080),
}


@pytest.mark.parametrize("name", CASES)
def test_formula_count_and_reference_agree(name):
    objective, batch_size, reference = CASES[name]
    backbone = functools.partial(ViT, positions="learned", position_resize="dino_bicubic") if name == "dino" else ViT
    stage = Stage(
        objective=objective,
        backbone=backbone,
        dataset=Thousand(),
        optimizer=adamw(lr=1e-3),
        batch_size=batch_size,
        views=DINOViews(local_views=10) if name == "dino" else None,
    )
    program = build_stage(stage).train
    assert program.closed_form == pytest.approx(program.cost().total, rel=1e-4)
    assert program.cost().total / batch_size == pytest.approx(reference, rel=5e-3)
