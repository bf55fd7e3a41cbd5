"""What a step does to a state: string keys, EMA copies outside the gradient, statistics, parameters from elsewhere."""

from __future__ import annotations

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enginelib import VIT, recipe, stage
from flax import nnx
from spendflops_plugins.mae import MAEViews
from spendflops_plugins.vit import ViT

from spendflops.contracts.errors import ConfigError, PluginError
from spendflops.contracts.objective import Objective
from spendflops.contracts.types import Context, Loss, Stat
from spendflops.engine.build import build, build_stage
from spendflops.engine.optim import sgd
from spendflops.engine.state import _rngs, create, define, flatten, inherit, transferred, transplant, unflatten
from spendflops.engine.step import train_step
from spendflops.parts.nn.linear import Linear
from spendflops.testing.samples import KitData


class Follow(Objective):
    """BYOL-like: the online network follows its own slow copy; DINO-like: a centre that follows the batch."""

    inputs: ClassVar = {"image": "uint8 B H W C"}
    teacher = ("backbone", "head")
    transfer = "teacher"
    views = MAEViews

    def __init__(self, backbone, *, info, rngs):
        self.backbone = backbone
        self.head = Linear(backbone.dim, 3, rngs=rngs)
        self.predictor = Linear(3, 3, rngs=rngs)
        self.center = Stat(jnp.zeros(3))
        self.seen = Stat(jnp.zeros(()))

    def embed(self, batch, ctx):
        return self.head(self.backbone(batch["image"], ctx).summary)

    def targets(self, batch, ctx):
        self.seen[...] = self.seen[...] + 1000  # must be dropped
        return self.embed(batch, ctx)

    def loss(self, batch, targets, ctx):
        z = self.predictor(self.embed(batch, ctx))
        self.center[...] = 0.5 * self.center[...] + 0.5 * jnp.mean(targets, axis=0)
        self.seen[...] = self.seen[...] + 1
        return Loss(value=jnp.mean(jnp.square(z - targets)), metrics={"loss": jnp.asarray(-1.0)})

    def teacher_decay(self, ctx):
        return jnp.asarray([0.75, 1.0, 0.0])[ctx.step]


BATCH = {"image": np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)}
OPTIMIZER = sgd(lr=0.5, momentum=0.0)


@pytest.fixture(scope="module")
def definition():
    return define(VIT, Follow, info=KitData().info)


@pytest.fixture(scope="module")
def states(definition):
    """The states after 0, 1, 2 and 3 steps, and the metrics of the first."""
    step = jax.jit(train_step(definition, OPTIMIZER))
    call = {"key": jax.random.key(1), "steps": jnp.int32(9)}
    first = jax.jit(lambda key: create(definition, OPTIMIZER, key))(jax.random.key(0))
    second, metrics = step(first, BATCH, call)
    third, _ = step(second, BATCH, call)
    fourth, _ = step(third, BATCH, call)
    return first, second, third, fourth, metrics


def test_keys_are_strings_and_paths_name_every_parameter(states):
    flat = flatten(states[0]["params"])
    assert "backbone/blocks/0/attn/qkv/kernel" in flat and "predictor/bias" in flat
    assert flatten(unflatten(flat)) == flat

    def strings(tree):
        return all(isinstance(k, str) and (not isinstance(v, dict) or strings(v)) for k, v in tree.items())

    assert strings({k: states[0][k] for k in ("params", "stats", "ema")})


def test_the_copy_follows_with_the_decay_of_its_step_and_is_not_trained(states):
    first, second, third, fourth, _ = states
    assert set(first["ema"]) == {"backbone", "head"}
    online = flatten({k: second["params"][k] for k in first["ema"]})
    for path, old in flatten(first["ema"]).items():
        new, expected = flatten(second["ema"])[path], 0.75 * old + 0.25 * online[path]
        np.testing.assert_allclose(new, expected, rtol=1e-6, atol=1e-8)
    moved = flatten(second["params"])["head/kernel"] - flatten(first["params"])["head/kernel"]
    assert float(jnp.abs(moved).max()) > 0
    # A decay of one leaves the copy as it is, to the last bit.
    for path, old in flatten(second["ema"]).items():
        assert np.array_equal(old, flatten(third["ema"])[path])
    # A decay of zero copies.
    for path, x in flatten(fourth["ema"]).items():
        assert np.array_equal(x, flatten(fourth["params"])[path])


def test_no_gradient_flows_through_the_targets(definition, states):
    # An oracle without a teacher: the targets are constants.
    first, second, _, _, metrics = states
    params, stats = first["params"], first["stats"]
    ctx = Context(key=jax.random.fold_in(jax.random.key(1), 0), step=jnp.int32(0), steps=jnp.int32(9))
    teacher = {**params, **first["ema"]}
    targets = jax.jit(lambda t: definition.merge(t, stats).targets(BATCH, ctx))(teacher)

    def loss(params):
        return definition.merge(params, stats).loss(BATCH, targets, ctx).value

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    # The objective's own metric called "loss" does not hide the loss.
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    for path, g in flatten(gradient).items():
        moved = flatten(params)[path] - flatten(second["params"])[path]
        np.testing.assert_allclose(moved, 0.5 * g, rtol=1e-4, atol=1e-7)


def test_changes_of_statistics_in_the_loss_stay_and_those_in_targets_do_not(states):
    first, second, third, fourth, _ = states
    assert [float(s["stats"]["seen"]) for s in (first, second, third, fourth)] == [0, 1, 2, 3]
    assert float(jnp.abs(second["stats"]["center"]).max()) > 0


class Alone(Follow):
    """Its copy starts elsewhere, and its predictor's bias stays below a bound."""

    teacher_init = "independent"

    def project(self):
        self.predictor.bias[...] = jnp.minimum(self.predictor.bias[...], -0.25)


def test_copies_may_start_at_weights_of_their_own():
    alone, same = (define(VIT, kind, info=KitData().info) for kind in (Alone, Follow))
    key = jax.random.key(0)
    made, copied = (jax.jit(lambda k, d=d: create(d, OPTIMIZER, k))(key) for d in (alone, same))
    kernel = "backbone/blocks/0/attn/qkv/kernel"
    online, own = flatten(made["params"])[kernel], flatten(made["ema"])[kernel]
    assert np.array_equal(online, flatten(copied["params"])[kernel])
    assert np.array_equal(online, flatten(copied["ema"])[kernel])
    assert not np.allclose(online, own) and np.std(own) == pytest.approx(float(np.std(online)), rel=0.2)


def test_new_parameters_are_projected_after_every_update(states):
    alone = define(VIT, Alone, info=KitData().info)
    step = jax.jit(train_step(alone, OPTIMIZER))
    after, _ = step(states[0], BATCH, {"key": jax.random.key(1), "steps": jnp.int32(9)})
    free, kept = flatten(states[1]["params"]), flatten(after["params"])
    np.testing.assert_array_equal(kept["predictor/bias"], np.minimum(free["predictor/bias"], -0.25))
    assert np.any(kept["predictor/bias"] != free["predictor/bias"])
    for path in set(free) - {"predictor/bias"}:
        np.testing.assert_allclose(kept[path], free[path], rtol=1e-6, atol=1e-8)


def test_what_is_handed_on(definition, states):
    state = states[1]
    teacher, _ = transferred(definition, state)
    online, _ = transferred(definition, state, "online")
    assert teacher["head"] is state["ema"]["head"] and teacher["predictor"] is state["params"]["predictor"]
    assert online["head"] is state["params"]["head"]
    with pytest.raises(ConfigError, match="'online' or 'teacher', not 'best'"):
        transferred(definition, state, "best")
    with pytest.raises(ConfigError, match="MAE has no teacher"):
        transferred(build_stage(stage("mae")).definition, state, "teacher")


def tree(**leaves):
    return unflatten({path.replace("__", "/"): np.full(shape, n) for n, (path, shape) in enumerate(leaves.items())})


def test_transplant_takes_what_matches_and_says_what_it_did():
    target = tree(backbone__a=(2,), backbone__b=(3,), head__w=(4,))
    given = tree(backbone__a=(2,), backbone__b=(3,), old__w=(1,))
    source = jax.tree.map(lambda x: x + 10, given)
    new, lines = transplant((target, {}), (source, {}), select="backbone/.*")
    assert new["backbone/a"][0] == 10 and new["backbone/b"][0] == 11 and new["head/w"][0] == 2
    assert lines == ["taken     backbone/a (2,)", "taken     backbone/b (3,)", "not used  old/w (1,)"]


def test_transplant_lists_what_is_missing_or_of_another_shape():
    target = tree(backbone__a=(2,), backbone__b=(3,), backbone__c=(1,))
    source = tree(backbone__a=(2,), backbone__b=(4,))
    with pytest.raises(ConfigError) as caught:
        transplant((target, {}), (source, {}), select="backbone/.*")
    assert "2 of 3 tensors" in caught.value.what
    assert "backbone/b (3,): (4,) there" in caught.value.why and "backbone/c (1,): absent" in caught.value.why
    new, lines = transplant((target, {}), (source, {}), select="backbone/.*", allow=(".*/b", ".*/c"))
    assert new["backbone/b"][0] == 1 and new["backbone/c"][0] == 2
    assert "left new  backbone/b (3,): (4,) there" in lines
    with pytest.raises(ConfigError, match=r"selects nothing: 'trunk/\.\*'"):
        transplant((target, {}), (source, {}), select="trunk/.*")


def test_copies_and_statistics_start_from_what_was_taken(definition, states):
    fresh = create(definition, OPTIMIZER, jax.random.key(7))
    source = transferred(definition, states[2])
    state, _ = inherit(definition, fresh, source, select="backbone/.*|center")
    taken, given = flatten(state["params"]), flatten(source[0])
    assert all(np.array_equal(taken[p], given[p]) for p in taken if p.startswith("backbone/"))
    # A teacher that kept its own random start would teach noise.
    assert all(np.array_equal(x, taken[p]) for p, x in flatten(state["ema"]).items())
    assert np.array_equal(state["stats"]["center"], states[2]["stats"]["center"]) and float(state["stats"]["seen"]) == 0
    assert not np.array_equal(taken["predictor/kernel"], given["predictor/kernel"])


def test_a_stage_that_cannot_take_its_start_is_refused_before_the_first_one_runs():
    from spendflops.engine.recipe import InitFrom

    wide = functools.partial(ViT, image_size=16, patch_size=4, dim=32, depth=1, heads=2)
    second = stage("supervised", backbone=wide, share=0.5, init=(InitFrom(stage="mae"),))
    with pytest.raises(ConfigError, match="cannot be taken from the earlier stage"):
        build(recipe(stage("mae", share=0.5), second))


class Careless(Follow):
    """A teacher without a decay."""

    teacher_decay = Objective.teacher_decay


class Lost(Follow):
    """A teacher that is not there."""

    teacher = ("hat",)


class Homeless(Follow):
    """Keeps its backbone under another name."""

    def __init__(self, backbone, *, info, rngs):
        self.trunk = backbone


class Moody(Follow):
    """Keeps a random state."""

    def __init__(self, backbone, *, info, rngs):
        super().__init__(backbone, info=info, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "cls, message",
    [
        (Careless, "has a teacher but no teacher_decay"),
        (Lost, "teacher names 'hat'"),
        (Homeless, "does not keep its backbone"),
        (Moody, "keeps a random state"),
    ],
)
def test_objectives_that_break_their_contract_are_refused_before_anything_compiles(cls, message):
    with pytest.raises(PluginError, match=message):
        build_stage(stage(objective=cls))


def test_a_tensor_of_another_image_size_is_resampled_by_the_backbone():
    def resample(name, value):
        return jnp.repeat(value, 2, axis=0) if name == "pos" else None

    target = {"backbone": {"pos": jnp.zeros((4, 2)), "b": jnp.zeros(3)}, "head": {"pos": jnp.zeros((4, 2))}}
    source = {"backbone": {"pos": np.ones((2, 2)), "b": np.ones(3)}, "head": {"pos": np.ones((2, 2))}}
    new, lines = transplant((target, {}), (source, {}), select="backbone/.*", resample=resample)
    np.testing.assert_array_equal(new["backbone/pos"], np.ones((4, 2)))
    assert "resampled backbone/pos (2, 2) to (4, 2)" in lines
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (target, source))
    new, _ = transplant((shapes[0], {}), (shapes[1], {}), select="backbone/.*", resample=resample)
    assert new["backbone/pos"].shape == (4, 2)
    # What is not the backbone's, and what still does not fit, is refused as before.
    with pytest.raises(ConfigError, match="head/pos"):
        transplant((target, {}), (source, {}), select=".*", resample=resample)
    source["backbone"]["pos"] = np.ones((3, 2))
    with pytest.raises(ConfigError, match="backbone/pos"):
        transplant((target, {}), (source, {}), select="backbone/.*", resample=resample)


def test_keys_of_a_model_are_those_of_flax():
    """The count is Python's, since Flax's is slow; the values that a seed stands for are not to change."""
    ours, theirs = _rngs(jax.random.key(3)), nnx.Rngs(jax.random.key(3))

    def drawn(rngs):
        keys = [rngs.params(), rngs.params(), rngs(), rngs.dropout(), rngs.fork().params()]
        return [jax.random.key_data(key).tolist() for key in keys]

    assert drawn(ours) == drawn(theirs)
