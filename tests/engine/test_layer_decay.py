"""Layer-wise learning rates: the numbers of the papers, and every parameter in its layer."""

import functools

import numpy as np
import pytest
from enginelib import accuracy, recipe, stage
from spendflops_plugins.supervised import Supervised
from spendflops_plugins.vit import ViT

from spendflops.config import compose, load
from spendflops.contracts.errors import ConfigError
from spendflops.engine.build import build_stage
from spendflops.engine.layer_decay import layer_decay
from spendflops.engine.loop import run_recipe
from spendflops.engine.optim import adamw


def assigned(depth, rate, **options):
    groups = layer_decay(rate=rate, depth=depth, **options)
    model = functools.partial(ViT, image_size=16, patch_size=8, dim=8, depth=depth, heads=2, positions="learned")
    made = stage("supervised", backbone=model, optimizer=adamw(lr=1.0, groups=groups))
    definition = build_stage(made).definition
    table = made.optimizer.assign(definition.params, definition.example)
    return {path: group for group, paths in table for path in paths}


def test_t5_fine_tuning_of_vit_b():
    found = assigned(12, 0.65)
    assert found["backbone/patch_embed/kernel"].lr == pytest.approx(0.00369721, rel=1e-5)
    last = {group.lr for path, group in found.items() if path.startswith("backbone/blocks/11/")}
    assert last == {0.65}
    assert found["head/kernel"].lr == found["backbone/norm/scale"].lr == 1


def test_every_parameter_has_the_rate_of_its_layer_and_the_exempt_no_decay():
    def slow(path, depth):
        # MAE's get_layer_id, written anew: 0 before the blocks, i + 1 in block i, depth + 1 after them.
        parts = path.split("/")
        if parts[0] == "backbone" and parts[1] in ("patch_embed", "cls_token", "pos_embed"):
            return 0
        return int(parts[2]) + 1 if parts[:2] == ["backbone", "blocks"] else depth + 1

    found = assigned(3, 0.5)
    assert {slow(path, 3) for path in found} == {0, 1, 2, 3, 4}
    for path, group in found.items():
        assert group.lr == pytest.approx(0.5 ** (4 - slow(path, 3))), path
        exempt = path.endswith(("bias", "scale", "cls_token", "pos_embed"))
        assert group.decay != exempt, path


def test_all_may_decay():
    assert all(group.decay for group in assigned(2, 0.5, exempt="").values())


def test_a_step_moves_parameters_at_these_rates(tmp_path):
    """Adam's first step is the learning rate in every coordinate with a gradient."""
    groups = layer_decay(rate=0.5, depth=1)
    head = functools.partial(Supervised, head_init="trunc_normal")
    made = stage("supervised", objective=head, optimizer=adamw(lr=1e-3, weight_decay=0.0, groups=groups))
    result = run_recipe(recipe(made, budget="1 steps", evaluations=(accuracy(),)), tmp_path, quiet=True)
    assert result["stages"][0]["steps"] == 1
    table = (tmp_path / "logs" / "optimizer-supervised.txt").read_text()
    assert "lr x0.25" in table and "lr x0.5" in table and "lr x1" in table


@pytest.mark.parametrize("depth", [2, 4])
def test_a_backbone_of_another_depth_is_refused_before_anything_is_trained(depth):
    """With too few layers the last blocks would learn as fast as the head."""
    groups = layer_decay(rate=0.5, depth=depth)
    model = functools.partial(ViT, image_size=16, patch_size=8, dim=8, depth=3, heads=2)
    made = stage("supervised", backbone=model, optimizer=adamw(lr=1.0, groups=groups))
    with pytest.raises(ConfigError, match=f"made for {depth} blocks, the backbone has 3") as error:
        build_stage(made)
    assert "depth to 3" in str(error.value)


def test_in_gin():
    bindings = ["supervised/optim.adamw.groups = @optim.layer_decay()"]
    bindings += ["optim.layer_decay.rate = 0.75", "optim.layer_decay.depth = 12"]
    made = load(
        compose(objective="supervised", backbone="vit_ti16", dataset="shapes", budget="1 steps", bindings=bindings)
    ).object
    assert np.isclose(made.stages[0].optimizer.groups[0].lr, 0.75**13)


@pytest.mark.parametrize("options", [{"rate": 0.0, "depth": 3}, {"rate": 1.1, "depth": 3}, {"rate": 0.5, "depth": 0}])
def test_out_of_range(options):
    with pytest.raises(ConfigError, match="layer_decay"):
        layer_decay(**options)
