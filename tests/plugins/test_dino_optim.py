"""DINO's optimiser: what decays, clipping by tensor, and the last layer that starts late with a state of its own."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, split
from spendflops_plugins.dino import DINO
from spendflops_plugins.vit import ViT

from spendflops.contracts.types import Context
from spendflops.engine.optim import Clip, adamw


def build(**options):
    trunk = ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 1, "positions": "learned"}))
    small = {"out_dim": 64, "hidden": 16, "bottleneck": 8}
    return DINO(trunk, info=INFO, rngs=nnx.Rngs(1), **(small | options))


def at(step, steps):
    return Context(key=jax.random.key(0), step=jnp.asarray(step), steps=jnp.asarray(steps))


def test_t16_clipping_by_tensor_and_by_the_norm_of_all():
    gradients = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[0.0, 4.0]])}
    for per, expected in (("tensor", (1.0, 1.0)), ("global", (0.6, 0.8))):
        clipped = Clip(norm=1.0, per=per)(gradients)
        assert [float(jnp.linalg.norm(g.ravel())) for g in clipped.values()] == pytest.approx(expected, rel=1e-6)


def groups_of(factory):
    """Path -> (decayed, its start) by the official groups."""
    module = nnx.eval_shape(factory)
    _, params, _ = split(module)
    table = adamw(lr=1.0).assign(jax.tree.map(lambda x: np.zeros(()), params), module)
    return {p: (g.decay, (g.start, g.start_fraction)) for g, paths in table for p in paths}


def test_decay_leaves_out_biases_and_norms_but_not_tokens_and_positions():
    found = groups_of(lambda: build(norm_last_layer=False, freeze_last_layer_steps=7))
    exempt = {p for p, (decay, _) in found.items() if not decay}
    assert exempt == {p for p in found if p.endswith(("bias", "scale"))}
    tokens = {"backbone/cls_token", "backbone/pos_embed"}
    assert {*tokens, "head/last_layer/v", "head/last_layer/g", "head/mlp/0/kernel"} <= set(found) - exempt
    late = {p for p, (_, start) in found.items() if start != (None, None)}
    assert late == {"head/last_layer/v", "head/last_layer/g"} and found["head/last_layer/g"][1] == (7, None)
    other = groups_of(lambda: build(decay_mask="no_pos_cls"))
    assert {p for p, (decay, _) in other.items() if not decay} - exempt == tokens
    assert "head/last_layer/g" not in other  # of norm 1 for good


@pytest.mark.parametrize("options", [{"freeze_last_layer_steps": 2000}, {"freeze_last_layer_fraction": 0.2}])
def test_the_last_layer_takes_steps_of_the_learning_rate_once_it_is_released(options):
    module = nnx.eval_shape(lambda: build(norm_last_layer=False, **options))
    params = {"head": {"last_layer": {"v": jnp.ones((2, 3))}, "mlp": {"0": {"kernel": jnp.ones((2, 2))}}}}
    optimizer = adamw(lr=0.5, weight_decay=0.01)
    state = optimizer.init(params, module)
    gradients = {"head/last_layer/v": jnp.full((2, 3), 0.3), "head/mlp/0/kernel": jnp.ones((2, 2))}

    @jax.jit
    def step(params, state, number):
        return optimizer.update(gradients, state, params, objective=module, ctx=at(number, 10_000))[:2]

    for number in (0, 1, 1999):
        params, state = step(params, state, number)
        assert np.all(np.asarray(params["head"]["last_layer"]["v"]) == 1)  # no decay either
        assert not np.any(np.asarray(params["head"]["mlp"]["0"]["kernel"]) == 1)
    for number in range(2000, 2014):
        before = np.asarray(params["head"]["last_layer"]["v"])
        params, state = step(params, state, number)
        moved = before - np.asarray(params["head"]["last_layer"]["v"])
        np.testing.assert_allclose(moved, 0.5 * (1 + 0.01 * before), rtol=1e-4)
    # With the count of the other layers the first step would be 2.9 times as long.
    assert 0.1 / math.sqrt(0.001 / (1 - 0.999**2001)) == pytest.approx(2.94, abs=0.01)
