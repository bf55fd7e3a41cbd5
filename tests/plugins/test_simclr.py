"""SimCLR: the cases of methods_views.md section 15 under their numbers, a slow oracle, views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import apply, batch_of, context, flatten, loss_of, objective, sample, tiny
from spendflops_plugins.simclr import Projector, SimCLR, SimCLRViews, nt_xent, unit_vectors

import spendflops.testing
from spendflops.contracts.errors import ConfigError

test_kit = spendflops.testing.objective_tests("simclr")


@jax.jit
def compiled(a, b, temperature):
    return nt_xent(a, b, temperature=temperature)[0]


def value(a, b, temperature):
    with jax.enable_x64(True):
        return float(compiled(jnp.asarray(a), jnp.asarray(b), temperature))


def oracle(a, b, temperature):
    """Equation (1), one anchor at a time."""
    z, count = np.concatenate([a, b]), len(a)
    losses = []
    for i in range(2 * count):
        similar = [np.exp(z[i] @ z[k] / temperature) for k in range(2 * count) if k != i]
        losses.append(-np.log(np.exp(z[i] @ z[(i + count) % (2 * count)] / temperature) / sum(similar)))
    return np.mean(losses)


def directions(seed, shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_loss_equals_the_oracle(count, temperature):
    a, b = directions(0, (count, 8)), directions(1, (count, 8))
    assert value(a, b, temperature) == pytest.approx(oracle(a, b, temperature), rel=1e-10)
    single = compiled(a.astype(np.float32), b.astype(np.float32), temperature)
    assert float(single) == pytest.approx(oracle(a, b, temperature), rel=1e-5)


@pytest.mark.parametrize(
    "count,temperature,mean",
    [
        (4, 0.1, 2.7236248e-4),
        (4, 0.5, 0.594437664233319),
        (8, 0.2, 0.09014345340166),
        (256, 0.1, 0.022889978263745),
    ],
)
def test_t1_identical_positives_orthogonal_images(count, temperature, mean):
    assert value(np.eye(count), np.eye(count), temperature) == pytest.approx(mean, rel=1e-7)


def test_t1_official_sum_is_twice_the_mean():
    batch = batch_of(SimCLRViews(), tiny().spec, size=3)
    values = []
    for name in ("mean", "official_sum"):
        module = objective(SimCLR, reduction=name)
        values.append(float(apply(module, lambda m: m.loss(batch, None, context()).value)))
    assert values[1] == pytest.approx(2 * values[0], rel=1e-6)


@pytest.mark.parametrize("count,expected", [(4, 1.945910149055), (256, 6.236369590204)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_t2_total_collapse(count, expected, temperature):
    z = np.tile(directions(0, (1, 8)), (count, 1))
    assert value(z, z, temperature) == pytest.approx(expected, abs=1e-11)


def test_t2_collapse_has_no_gradient():
    def loss(x):
        z = unit_vectors(x)
        return nt_xent(z, z, temperature=0.1)[0]

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))(jnp.asarray(np.tile(3 * directions(0, (1, 8)), (4, 1))))
    np.testing.assert_allclose(gradient, 0, atol=1e-14)


@pytest.mark.parametrize("temperature,expected", [(0.1, 11.791767035854), (0.5, 3.814064727564)])
def test_t3_antipodal_positives(temperature, expected):
    assert value(np.eye(4), -np.eye(4), temperature) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("temperature,expected", [(0.5, 0.348471885802), (0.1, 9.7175335e-6)])
def test_t4_simplex(temperature, expected):
    centred = np.eye(4) - 0.25
    z = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert value(z, z, temperature) == pytest.approx(expected, rel=1e-7)


def test_t5_planar_and_its_symmetries():
    def angle(*degrees):
        return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)

    assert value(angle(0, 90), angle(30, 120), 0.5) == pytest.approx(0.361122913529447, abs=1e-12)
    a, b = directions(0, (6, 4)), directions(1, (6, 4))
    order = np.random.default_rng(2).permutation(6)
    assert value(a[order], b[order], 0.2) == pytest.approx(value(a, b, 0.2), rel=1e-12)
    assert value(b, a, 0.2) == pytest.approx(value(a, b, 0.2), rel=1e-12)


def test_t6_gradient_flows_through_the_negatives():
    """A loss with a stop-gradient on the other embeddings has the same value and another gradient."""
    a, b = directions(0, (5, 4)), directions(1, (5, 4))
    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(jax.grad(compiled))(jnp.asarray(a), jnp.asarray(b), 0.3))
    numeric = np.zeros_like(a)
    for i in np.ndindex(a.shape):
        up, down = a.copy(), a.copy()
        up[i] += 1e-6
        down[i] -= 1e-6
        numeric[i] = (oracle(up, b, 0.3) - oracle(down, b, 0.3)) / 2e-6
    assert np.linalg.norm(gradient - numeric) <= 1e-7 * np.linalg.norm(numeric)


def test_t6_negatives_are_global():
    a, b = directions(0, (8, 4)), directions(1, (8, 4))
    local = np.mean([value(a[i : i + 4], b[i : i + 4], 0.3) for i in (0, 4)])
    assert local < value(a, b, 0.3)


def test_unit_vectors_have_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: jnp.sum(unit_vectors(x)))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(gradient))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(unit_vectors(x), x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("layers,expected", [(3, 1_281_152), (2, 689_792)])
def test_projector_counts(layers, expected):
    def build():
        return Projector((768,) * layers + (128,), rngs=nnx.Rngs(0), dtype_name="float32")

    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param))
    assert sum(x.size for x in leaves) == expected


def test_objective_normalises_both_views_together():
    """The whole loss from the backbone's summaries in numpy: dense, joint batch norm, ReLU, dense, batch norm."""
    module = objective(SimCLR, projector_layers=2, projector_dim=8, temperature=0.5)
    batch = batch_of(SimCLRViews(), module.backbone.spec)
    views = np.concatenate(np.moveaxis(batch["view"], 1, 0))
    value_, metrics, after, x = loss_of(module, batch, lambda m: m.backbone(views, context()).summary)
    x = np.asarray(x, np.float64)
    for index in range(2):
        x = x @ np.asarray(module.projector.dense[index].kernel[...], np.float64)
        layer = module.projector.norm[index]
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.asarray(layer.scale[...])
        x = np.maximum(x + np.asarray(layer.bias[...]), 0) if index == 0 else x
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert float(value_) == pytest.approx(oracle(z[:4], z[4:], 0.5), rel=1e-4)
    cross = z[:4] @ z[4:].T / 0.5
    p = np.exp(cross) / np.exp(cross).sum(1, keepdims=True)
    assert float(metrics["contrastive_accuracy"]) == np.mean(cross.argmax(1) == np.arange(4))
    assert float(metrics["contrastive_entropy"]) == pytest.approx(-np.mean(np.sum(p * np.log(p), axis=1)), rel=1e-4)
    assert float(metrics["monitor"]) == pytest.approx(np.mean(z[:4].std(0)) * np.sqrt(8), rel=1e-4)
    moved = flatten(after)
    assert len(moved) == 4 and all(np.any(s != 0) and np.any(s != 1) for s in moved.values())
    assert module.projector.norm[1].bias is None and SimCLR.couples_batch


def test_refusals():
    with pytest.raises(ConfigError, match="official_sum"):
        objective(SimCLR, reduction="sum")
    for options in ({"temperature": 0.0}, {"projector_layers": 0}):
        with pytest.raises(ConfigError, match="positive"):
            objective(SimCLR, **options)


def test_views_are_two_different_draws_that_a_seed_repeats():
    views, spec = SimCLRViews(), tiny().spec
    one, again = (views(sample(), np.random.default_rng(5), spec)["view"] for _ in range(2))
    assert one.shape == (2, 32, 32, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], one[1])


def test_every_operator_of_the_views_can_be_switched_off():
    off = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}
    spec, given = tiny().spec, sample(0, (32, 32))

    def view(**options):
        return SimCLRViews(**(off | options))(given, np.random.default_rng(0), spec)["view"][0]

    whole = given["image"].array
    np.testing.assert_array_equal(view(), whole)
    np.testing.assert_array_equal(view(flip=1.0), whole[:, ::-1])
    gray = view(gray=1.0)
    assert np.all(gray[..., 0] == gray[..., 1])
    for options in ({"jitter": 1.0}, {"blur": 1.0}, {"scale": (0.1, 0.2)}):
        assert not np.array_equal(view(**options), whole)
    np.testing.assert_array_equal(view(jitter=1.0, strength=0.0), whole)
