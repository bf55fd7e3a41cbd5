"""The recipes of gin/transfer: official numbers, official sizes, and that weights of pre-training fit."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from flax import nnx

from spendflops import config
from spendflops.contracts.types import DatasetInfo
from spendflops.engine.agreement import check_init
from spendflops.engine.state import define

THOUSAND = DatasetInfo(name="imagenet", features={}, classes=tuple(map(str, range(1000))))
MODELS = {"b": "vit_b16", "l": "vit_l16", "h": "vit_h14"}


def loaded(file, scope, *, objective="mae", backbone="vit_b16"):
    """The stages of pre-training and of what the file adds, and its evaluation."""
    composition = config.compose(
        objective=objective,
        backbone=backbone,
        dataset="shapes",
        budget="10 steps",
        gin_files=[f"transfer/{file}.gin"],
        bindings=[
            f"Recipe.stages = (%STAGE, @{scope}/Stage())",
            f"{objective}/Stage.name = '{objective}'",
            f"{scope}/InitFrom.stage = '{objective}'",
            f"Recipe.evaluations = (@{scope}/Evaluation(),)",
            f"{scope}/Evaluation.data = {{'eval': (%EVAL_DATASET, 'test')}}",
        ],
    )
    recipe = config.load(composition).object
    return (*recipe.stages, recipe.evaluations[0])


def of(groups, path):
    return next(group for group in groups if re.fullmatch(group.match, path))


@pytest.mark.parametrize(
    "size, depth, peak, length, warmup, rate, drop_path",
    [
        ("b", 12, 2e-3, "100 epochs", 0.05, 0.65, 0.1),
        ("l", 24, 4e-3, "50 epochs", 0.1, 0.75, 0.2),
        ("h", 32, 4e-3, "50 epochs", 0.1, 0.75, 0.3),
    ],
)
def test_fine_tuning_of_mae(size, depth, peak, length, warmup, rate, drop_path):
    _, stage, evaluation = loaded(f"mae_finetune_{size}", "finetune", backbone=MODELS[size])
    assert (stage.role, stage.length, stage.batch_size) == ("transfer", length, 1024)
    optimizer, schedule = stage.optimizer, stage.optimizer.lr
    assert (optimizer.name, optimizer.weight_decay, optimizer.clip) == ("adamw", 0.05, None)
    assert (optimizer.direction.b1, optimizer.direction.b2) == (0.9, 0.999)
    assert (schedule.peak, schedule.end, schedule.start) == (pytest.approx(peak, rel=1e-12), 1e-6, 0.0)
    assert (schedule.warmup_fraction, schedule.warmup_steps) == (warmup, None)
    # T13: the scales of the layers.
    expected = {
        "backbone/patch_embed/kernel": rate ** (depth + 1),
        "backbone/pos_embed": rate ** (depth + 1),
        "backbone/blocks/0/attn/qkv/kernel": rate**depth,
        f"backbone/blocks/{depth - 1}/mlp/fc1/kernel": rate,
        "head_norm/scale": 1.0,
        "head/kernel": 1.0,
    }
    assert {path: of(optimizer.groups, path).lr for path in expected} == pytest.approx(expected, rel=1e-12)
    assert stage.backbone.keywords["depth"] == depth and stage.backbone.keywords["drop_path"] == drop_path
    assert (stage.views.randaugment, stage.views.scale) == ("rand-m9-mstd0.5-inc1", (0.08, 1.0))
    assert "resize=crop0.875" in evaluation.evaluator.protocol and evaluation.stage == "finetune"


def test_model_that_mae_fine_tunes():
    before, stage, _ = loaded("mae_finetune_b", "finetune")
    model = define(stage.backbone, stage.objective, info=THOUSAND)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model.params)) == 86_567_656
    table = stage.optimizer.assign(model.params, model.example)
    assert {path.rsplit("/", 1)[1] for group, paths in table for path in paths if group.decay} == {"kernel"}
    source = define(before.backbone, before.objective, info=before.dataset.info)
    check_init(model, (source.params, source.stats), select="backbone/.*", allow=stage.init[0].allow)
    made = model.example
    assert (made.mixing.mixup, made.mixing.cutmix, made.mixing.probability, made.mixing.switch) == (0.8, 1.0, 1.0, 0.5)
    assert (made.label_smoothing, made.erasing.probability, made.ema) == (0.1, 0.25, None)


@pytest.mark.parametrize(
    "file, objective, backbone, peak, batch, width",
    [
        ("mae_linear", "mae", "vit_b16", 6.4, 16384, 768),
        ("dino_linear", "dino", "vit_b16_dino", 0.004, 1024, 1536),
    ],
)
def test_linear_probes(file, objective, backbone, peak, batch, width):
    before, stage, evaluation = loaded(file, "probe", objective=objective, backbone=backbone)
    optimizer, schedule = stage.optimizer, stage.optimizer.lr
    assert (stage.role, stage.batch_size, optimizer.weight_decay) == ("transfer", batch, 0.0)
    assert schedule.peak == pytest.approx(peak, rel=1e-12) and schedule.end == 0.0
    assert optimizer.direction.momentum == 0.9 and not optimizer.direction.nesterov
    model = define(stage.backbone, stage.objective, info=THOUSAND)
    assert model.example.head.kernel.shape == (width, 1000)
    assert optimizer.trained(model.params, model.example) == ["head/bias", "head/kernel"]
    source = define(before.backbone, before.objective, info=before.dataset.info)
    check_init(model, (source.params, source.stats), select="backbone/.*", allow=stage.init[0].allow)
    if file == "mae_linear":
        assert (optimizer.name, optimizer.adapt, optimizer.lr_in_momentum) == ("lars", 0.001, False)
        assert (stage.length, stage.views.sampler, stage.views.interpolation) == ("90 epochs", "mae", "bicubic")
        assert schedule.warmup_fraction == pytest.approx(10 / 90)
        assert nnx.state(model.example.norm)["mean"].shape == (768,) and model.example.norm.eps == 1e-6
    else:
        assert (optimizer.name, model.example.norm, schedule.warmup_fraction) == ("sgd", None, 0.0)
        assert (stage.length, stage.views.sampler, stage.views.interpolation) == (
            "100 epochs",
            "torchvision",
            "bilinear",
        )
    assert "resize=crop0.875" in evaluation.evaluator.protocol and evaluation.stage == "probe"
