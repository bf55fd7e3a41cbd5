"""LiT: the preset locks the image tower of CLIP; its price, to the FLOP, and its parameters, to the bit."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops import config
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Context
from spendflops.engine.build import build_stage
from spendflops.engine.load import load
from spendflops.engine.loop import run_recipe
from spendflops.engine.state import flatten
from spendflops.parts import closed_form
from spendflops.testing.samples import KitData

BATCH, SIDE, PATCH, DIM, DEPTH, EMBEDDING, TEXT, LENGTH = 8, 16, 8, 16, 1, 8, 12, 10
TINY = f"""
backbones.vit.image_size = {SIDE}
backbones.vit.patch_size = {PATCH}
backbones.vit.dim = {DIM}
backbones.vit.depth = {DEPTH}
backbones.vit.heads = 2
lit/objectives.clip.embedding_dim = {EMBEDDING}
lit/objectives.clip.text_dim = {TEXT}
lit/objectives.clip.text_depth = 1
lit/objectives.clip.text_heads = 2
""".strip().splitlines()
PRESET = [
    *TINY,
    f"lit/BATCH_SIZE = {BATCH}",
    f"lit/MAX_LENGTH = {LENGTH}",
    "COMPUTE_DTYPE = 'float32'",
    "InitFrom.weights = 'not-opened-here'",
]


@functools.cache
def stage():
    """The stage of ``--objective lit`` on a tiny backbone."""
    composed = config.compose(objective="lit", backbone="vit_nano", dataset="shapes", budget="9 steps", bindings=PRESET)
    made = config.load(composed).object.stages[0]
    return dataclasses.replace(made, dataset=KitData())


@functools.cache
def locked():
    return build_stage(stage())


def whole_objective():
    return functools.partial(stage().objective.func, **{**stage().objective.keywords, "locked": False})


@functools.cache
def whole():
    """The same step, but everything is trained."""
    return build_stage(dataclasses.replace(stage(), objective=whole_objective()))


def test_the_locked_tower_is_billed_one_forward_and_nothing_else():
    module = locked().definition.example
    price = locked().train.cost().total
    patches = (SIDE // PATCH) ** 2
    embedding = closed_form.patch_embedding(patches, PATCH, DIM)
    blocks = closed_form.transformer(patches + 1, DIM, DEPTH)
    images, texts = (closed_form.linear(1, width, EMBEDDING) for width in (DIM, TEXT))
    # Of the projection of images the gradient of its kernel, and none of the tower below it.
    towers = embedding + blocks + module.text.flops(LENGTH, train=True)
    assert price == BATCH * (towers + 2 * images + 3 * texts) + 3 * closed_form.linear(BATCH, EMBEDDING, BATCH)
    # Twice the blocks and once the patch embedding (nobody asks for the gradient of an image) are saved.
    assert whole().train.cost().total - price == BATCH * (2 * blocks + embedding + images)
    assert module.backbone.flops(train=True) - module.backbone.flops() == 2 * blocks + embedding
    assert locked().train.closed_form == price and whole().train.closed_form == whole().train.cost().total


def batches(count):
    source = KitData().source("train", features=stage().views.features)
    made = []
    for step in range(count):
        rng = np.random.default_rng(step)
        views = [stage().views(source[step * BATCH + i], rng, locked().spec) for i in range(BATCH)]
        made.append({name: np.stack([view[name] for view in views]) for name in views[0]})
    return made


def test_the_locked_tower_does_not_change_and_has_no_optimiser_state():
    state = locked().init.compile()(jax.random.key(0))
    before = flatten(jax.device_get(state["params"]))  # a copy: the state is donated
    for batch in batches(3):
        run = {"key": jax.random.key(1), "steps": np.int32(9)}
        state, metrics = locked().train.compile()(state, batch, run)
        assert np.isfinite(metrics["health"])
    after = flatten(jax.device_get(state["params"]))
    changed = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    tower = {path for path in before if path.startswith("backbone/")}
    assert len(tower) > 10 and changed == set(before) - tower
    assert {"image_projection/kernel", "text_projection/kernel", "logit_scale", "text/embedding"} <= changed
    kept = jax.tree_util.tree_flatten_with_path(state["opt"])[0]
    assert kept and not [path for path, _ in kept if "backbone" in jax.tree_util.keystr(path)]


def test_the_preset_is_the_authors():
    optimizer, clip = stage().optimizer, stage().objective.keywords
    assert stage().name == "lit" and (optimizer.lr.peak, optimizer.clip.norm) == (1e-3, 1.0)
    assert 1 / clip["temperature"] == pytest.approx(10)
    assert optimizer.groups is None and not locked().definition.example.groups[0].train
    assigned = {
        path: group.decay
        for group, paths in optimizer.assign(locked().definition.params, locked().definition.example)
        for path in paths
        if group.train
    }
    plain = {"logit_scale", "text/pos_embed", "text/blocks/0/norm1/scale", "text/blocks/0/attn/qkv/bias"}
    assert plain <= {path for path, decays in assigned.items() if not decays}
    decayed = {"text/embedding", "image_projection/kernel", "text_projection/kernel", "text/blocks/0/attn/qkv/kernel"}
    assert decayed <= {path for path, decays in assigned.items() if decays}


def test_the_tower_runs_as_in_evaluation_whatever_the_model_says():
    dropped = functools.partial(stage().backbone.func, **{**stage().backbone.keywords, "depth": 2, "drop_path": 0.5})
    stages = (
        dataclasses.replace(stage(), backbone=dropped, objective=o) for o in (stage().objective, whole_objective())
    )
    still, moving = (build_stage(each).definition for each in stages)
    (batch,), values = batches(1), jax.jit(still.init)(jax.random.key(0))

    def losses(definition):
        def loss(key):
            ctx = Context(key=key, step=jnp.int32(0), steps=jnp.int32(9), train=True)
            return definition.merge(*values).loss(batch, None, ctx).value

        return {float(value) for value in jax.lax.map(loss, jax.random.split(jax.random.key(1), 3))}

    assert len(losses(still)) == 1 < len(losses(moving))


def test_without_a_projection_the_embedding_is_the_summary():
    bare = {**stage().objective.keywords, "image_projection": False}
    with pytest.raises(ConfigError, match="embedding_dim = 16"):
        build_stage(dataclasses.replace(stage(), objective=functools.partial(stage().objective.func, **bare)))
    fitting = functools.partial(stage().objective.func, **{**bare, "embedding_dim": DIM})
    built = build_stage(dataclasses.replace(stage(), objective=fitting))
    assert "image_projection" not in built.definition.params
    opened = functools.partial(stage().objective.func, **{**bare, "embedding_dim": DIM, "locked": False})
    train = build_stage(dataclasses.replace(stage(), objective=opened)).train
    assert train.closed_form == train.cost().total


def test_random_weights_are_not_locked():
    bindings = [b for b in PRESET if "InitFrom" not in b]
    composed = config.compose(
        objective="lit", backbone="vit_nano", dataset="shapes", budget="1 steps", bindings=bindings
    )
    with pytest.raises(ConfigError, match="exactly one of `stage`, `run` and `weights`"):
        config.load(composed)


SMALL = """
include 'recipes/lit.gin'
Stage.batch_size = 8
plugins.datasets.KitData = 'spendflops.testing.samples:KitData'
DATASET = @data/datasets.KitData()
"""


def test_the_tower_of_an_earlier_stage_through_the_nano_preset(tmp_path):
    file = tmp_path / "lit.gin"
    file.write_text(SMALL + "\n".join(TINY))
    # Nothing is trained: what a step leaves alone is shown above.
    recipe = config.load(config.compose(gin_files=[file], budget="0")).object
    run_recipe(recipe, tmp_path / "run", quiet=True)
    first, second = (load(tmp_path / "run", stage=name).params["backbone"] for name in ("supervised", "lit"))
    first, second = (flatten(jax.device_get(tree)) for tree in (first, second))
    assert {p: x.tobytes() for p, x in first.items()} == {p: x.tobytes() for p, x in second.items()}
