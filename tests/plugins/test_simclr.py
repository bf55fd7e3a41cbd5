"""SimCLR: cases with known values under their numbers (T1 to T6), a slow oracle, views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, flatten, loss_of, objective, sample, tiny
from spendflops_plugins.simclr import SimCLR, SimCLRViews, nt_xent
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.errors import ConfigError
from spendflops.parts.nn.heads import unit_vectors
from spendflops.testing.model import Subject

test_kit = spendflops.testing.objective_tests("simclr")


@jax.jit
def compiled(*views_and_temperature):
    *views, temperature = views_and_temperature
    return nt_xent(jnp.stack(views, axis=1), temperature=temperature)[0]


def value(*views_and_temperature):
    with jax.enable_x64(True):
        return float(compiled(*map(jnp.asarray, views_and_temperature)))


def oracle(*views_and_temperature):
    """Equation (1), one pair of views of one image at a time."""
    *views, temperature = views_and_temperature
    z = [(image, vector) for view in views for image, vector in enumerate(view)]
    losses = []
    for i, (image, anchor) in enumerate(z):
        similar = [np.exp(anchor @ other / temperature) for k, (_, other) in enumerate(z) if k != i]
        positives = [similar[k - (k > i)] for k, (other, _) in enumerate(z) if other == image and k != i]
        assert len(positives) == len(views) - 1
        losses += [-np.log(positive / sum(similar)) for positive in positives]
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


def test_more_views_average_over_the_positives():
    views = [directions(seed, (3, 8)) for seed in range(4)]
    assert value(*views, 0.3) == pytest.approx(oracle(*views, 0.3), rel=1e-10)
    assert value(views[2], views[0], views[1], 0.3) == pytest.approx(value(*views[:3], 0.3), rel=1e-12)
    collapsed = [np.tile(views[0][:1], (3, 1))] * 4
    assert value(*collapsed, 0.3) == pytest.approx(np.log(3 * 4 - 1), rel=1e-12)


@pytest.mark.parametrize(
    "count,temperature,mean,official",
    [
        (4, 0.1, 2.7236248e-4, 5.4472497e-4),
        (4, 0.5, 0.594437664233319, 1.188875328466638),
        (8, 0.2, 0.09014345340166, 0.18028690680332),
        (256, 0.1, 0.022889978263745, 0.04577995652749),
        pytest.param(4096, 0.1, 0.31614227977541837, 0.6322845595508367, marks=pytest.mark.slow),
    ],
)
def test_t1_identical_positives_orthogonal_images(count, temperature, mean, official):
    found = value(np.eye(count), np.eye(count), temperature)
    assert found == pytest.approx(mean, rel=1e-7)
    # The official code adds the mean over the anchors of one view and that over those of the other.
    assert 2 * found == pytest.approx(official, rel=1e-7)


def test_t1_official_sum_is_the_mean_times_the_number_of_views():
    batch = batch_of(SimCLRViews(count=3), tiny().spec, size=2)
    values = []
    for name in ("mean", "official_sum"):
        module = objective(SimCLR, projector_layers=1, projector_dim=8, reduction=name)
        values.append(float(apply(module, lambda m: m.loss(batch, None, context()).value)))
    assert values[1] == pytest.approx(3 * values[0], rel=1e-6)


@pytest.mark.parametrize("count,expected", [(4, 1.945910149055), (256, 6.236369590204)])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_t2_total_collapse(count, expected, temperature):
    z = np.tile(directions(0, (1, 8)), (count, 1))
    assert value(z, z, temperature) == pytest.approx(expected, abs=1e-11)


def test_t2_total_collapse_of_the_official_batch():
    z = np.tile(directions(0, (1, 2)), (4096, 1)).astype(np.float32)
    assert float(compiled(z, z, 0.1)) == pytest.approx(9.010791269516, rel=1e-6)


def test_t2_collapse_has_no_gradient():
    def loss(x):
        z = unit_vectors(x)
        return nt_xent(jnp.stack([z, z], axis=1), temperature=0.1)[0]

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

    planar = value(angle(0, 90), angle(30, 120), 0.5)
    assert planar == pytest.approx(0.361122913529447, abs=1e-12)
    assert 2 * planar == pytest.approx(0.722245827058894, abs=1e-12)
    a, b = directions(0, (6, 4)), directions(1, (6, 4))
    order = np.random.default_rng(2).permutation(6)
    assert value(a[order], b[order], 0.2) == pytest.approx(value(a, b, 0.2), rel=1e-12)
    assert value(b, a, 0.2) == pytest.approx(value(a, b, 0.2), rel=1e-12)
    scaled = np.random.default_rng(3).uniform(0.1, 9, (6, 1)) * a
    with jax.enable_x64(True):
        assert np.abs(unit_vectors(jnp.asarray(scaled)) - a).max() < 1e-12


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
    half = value(np.eye(8)[:4], np.eye(8)[:4], 0.5)
    assert half == pytest.approx(0.594437664233319, abs=1e-12) and half < value(np.eye(8), np.eye(8), 0.5)


def test_unit_vectors_have_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: jnp.sum(unit_vectors(x)))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(gradient))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(unit_vectors(x), x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("layers,expected", [(3, 1_281_152), (2, 689_792)])
def test_projector_counts(layers, expected):
    backbone = {"image_size": 32, "patch_size": 8, "dim": 768, "depth": 1, "heads": 12}

    def build():
        return SimCLR(ViT(rngs=nnx.Rngs(0), **backbone), info=INFO, rngs=nnx.Rngs(1), projector_layers=layers)

    projector = nnx.eval_shape(build).projector
    assert sum(x.size for x in jax.tree.leaves(nnx.state(projector, nnx.Param))) == expected
    assert projector.widths == (768,) * layers + (128,)
    assert all(dense.bias is None for dense in projector.dense)
    assert [norm.bias is None for norm in projector.norm] == [False] * (layers - 1) + [True]


def test_projector_starts_at_a_deviation_of_a_hundredth():
    module = SimCLR(tiny(depth=1, dim=64), info=INFO, rngs=nnx.Rngs(0), projector_layers=2)
    kernels = [np.asarray(dense.kernel[...]) for dense in module.projector.dense]
    assert [k.shape for k in kernels] == [(64, 64), (64, 128)]
    assert all(abs(k.std() / 0.01 - 1) < 0.05 and k.max() > 0.025 for k in kernels)


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
    cosines, same = z @ z.T, np.tile(np.eye(4, dtype=bool), (2, 2))
    positive = np.mean(np.diagonal(z[:4] @ z[4:].T))
    assert float(metrics["positive_cosine"]) == pytest.approx(positive, abs=1e-4)
    assert float(metrics["negative_cosine"]) == pytest.approx(np.mean(cosines[~same]), abs=1e-4)
    assert float(metrics["loss_minus_collapsed"]) == pytest.approx(float(value_) - np.log(7), abs=1e-5)
    moved = flatten(after)
    assert len(moved) == 4 and all(np.any(s != 0) and np.any(s != 1) for s in moved.values())
    assert module.projector.norm[1].bias is None and SimCLR.couples_batch


def test_refusals():
    with pytest.raises(ConfigError, match="official_sum"):
        objective(SimCLR, reduction="sum")
    for options in ({"temperature": 0.0}, {"projector_layers": 0}):
        with pytest.raises(ConfigError, match="positive"):
            objective(SimCLR, **options)
    with pytest.raises(ConfigError, match="two views"):
        SimCLRViews(count=1)


def test_a_batch_of_one_image_is_refused_before_anything_compiles():
    with pytest.raises(ConfigError, match="batch of one image") as caught:
        Subject(SimCLR, options={"projector_layers": 1}, batch_size=1).train.cost()
    assert "negatives" in caught.value.why and "batch_size" in caught.value.fix


@pytest.mark.parametrize("number,layers", [(2, 1), (3, 3)])
def test_closed_form_is_the_traced_cost(number, layers):
    options = {"projector_layers": layers, "projector_dim": 8}
    train = Subject(SimCLR, options=options, views=SimCLRViews(count=number), batch_size=3).train
    assert train.closed_form == train.cost().total


def test_any_number_of_views():
    views, spec = SimCLRViews(count=3), tiny().spec
    assert views(sample(), np.random.default_rng(5), spec)["view"].shape == (3, 32, 32, 3)
    assert views.letters(spec) == {"H": 32, "W": 32, "C": 3, "V": 3}


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
