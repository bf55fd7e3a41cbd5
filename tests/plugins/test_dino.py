"""DINO: the cases of methods_views.md section 15 under their numbers, slow oracles, the frozen last layer, views."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, context, count, made, objective, sample, split, tiny
from spendflops_plugins.dino import DINO, DINOViews, cross_entropy
from spendflops_plugins.dino.head import Head, WeightNorm
from spendflops_plugins.simclr import SimCLRViews
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError, PluginError
from spendflops.contracts.types import Context, Features, InputSpec, Stat
from spendflops.engine import data
from spendflops.engine.optim import Clip, adamw
from spendflops.parts.closed_form import vit_forward
from spendflops.parts.nn.norm import BatchNorm
from spendflops.parts.schedules import Cosine, WarmupCosine
from spendflops.testing.model import Subject

FEW = DINOViews(local_views=2)
SMALL = {"hidden": 16, "bottleneck": 8}

test_kit = spendflops.testing.objective_tests("dino", views=FEW)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def terms(student, teacher, center, tau_s, tau_t):
    """Equation (3), one pair of views at a time: the batch means of the cross-entropies, by pair."""
    found = {}
    for i in range(2):
        p = softmax((teacher[:, i] - center) / tau_t)
        for v in range(student.shape[1]):
            if v != i:
                found[i, v] = np.mean(-np.sum(p * np.log(softmax(student[:, v] / tau_s)), axis=-1))
    return found


def oracle(*args):
    return np.mean(list(terms(*args).values()))


@jax.jit
def compiled(student, teacher, center, tau_s, tau_t):
    return cross_entropy(student / tau_s, jax.nn.softmax((teacher - center) / tau_t))


def value(*args):
    with jax.enable_x64(True):
        return float(compiled(*(jnp.asarray(x, jnp.float64) for x in args)))


def logits(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("local,pairs", [(0, 2), (1, 4), (10, 22)])
def test_t14_the_factorised_loss_is_the_mean_over_all_pairs(local, pairs):
    args = (logits(0, 3, 2 + local, 7), logits(1, 3, 2, 7), logits(2, 7), 0.1, 0.04)
    assert len(terms(*args)) == pairs
    assert value(*args) == pytest.approx(oracle(*args), rel=1e-12)
    single = compiled(*(np.asarray(x, np.float32) for x in args))
    assert float(single) == pytest.approx(oracle(*args), rel=1e-5)


def test_t14_gradient():
    args = [logits(0, 2, 4, 5), logits(1, 2, 2, 5), logits(2, 5), 0.3, 0.2]
    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(jax.grad(compiled))(*(jnp.asarray(x) for x in args)))
    numeric = np.zeros_like(gradient)
    for place in np.ndindex(gradient.shape):
        up, down = (args[0].copy() for _ in range(2))
        up[place] += 1e-6
        down[place] -= 1e-6
        numeric[place] = (oracle(up, *args[1:]) - oracle(down, *args[1:])) / 2e-6
    assert np.linalg.norm(gradient - numeric) <= 1e-8 * np.linalg.norm(numeric)


@pytest.mark.parametrize("k,expected", [(64, 4.158883083360), (4096, 8.317766166719), (65536, 11.090354888959)])
def test_t9_uniform(k, expected):
    assert value(np.zeros((1, 3, k)), np.zeros((1, 2, k)), np.zeros(k), 0.1, 0.04) == pytest.approx(expected, abs=1e-11)


def test_t9_with_a_uniform_teacher_no_student_is_better_than_uniform():
    student = logits(0, 1, 2, 64)
    found = value(student, np.zeros((1, 2, 64)), np.zeros(64), 0.1, 0.04)
    s = student / 0.1
    assert found == pytest.approx(np.mean(np.log(np.exp(s).sum(-1)) - s.mean(-1)), rel=1e-12)
    assert found >= math.log(64)


@pytest.mark.parametrize(
    "k,height,tau_t,expected",
    [
        (64, 1.0, 0.04, 0.002856121748),
        (4, 1.0, 0.04, 1.3619093e-4),
        (65536, 1.0, 0.04, 1.380105393414),
        (65536, 0.5, 0.04, 7.074039861605),
        (65536, 0.5, 0.07, 10.997913317703),
    ],
)
def test_t11_spike(k, height, tau_t, expected):
    spike = np.zeros((1, 2, k))
    spike[..., 1] = height
    assert value(spike, spike, np.zeros(k), 0.1, tau_t) == pytest.approx(expected, rel=1e-7)


def test_t11_lower_bound_with_unit_prototypes():
    k = 65536
    student = -np.ones((1, 2, k))
    student[..., 0] = 1.0
    sure = np.zeros((1, 2, k))
    sure[..., 0] = 100.0
    assert value(student, sure, np.zeros(k), 0.1, 0.04) == pytest.approx(1.35069e-4, rel=1e-5)


T12 = {
    "teacher": np.array([[[0.2, 0.1, 0.0], [0.0, 0.1, 0.2]]]),
    "student": np.array([[[0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]]),
    "center": np.array([0.05, 0.0, -0.05]),
}


def test_t12_worked_example():
    args = (T12["student"], T12["teacher"], T12["center"], 0.1, 0.05)
    p = softmax((T12["teacher"][0] - T12["center"]) / 0.05)
    np.testing.assert_allclose(p[0], [0.66524096, 0.24472847, 0.09003057], atol=1e-8)
    np.testing.assert_allclose(p[1], [0.00235563, 0.04731416, 0.95033021], atol=1e-8)
    by_pair = {(0, 1): 1.306716243, (0, 2): 1.461414141, (1, 0): 1.549089081, (1, 2): 0.601114502}
    assert terms(*args) == pytest.approx(by_pair, abs=1e-9)
    assert value(*args) == pytest.approx(1.229583491681, abs=1e-11)


@pytest.fixture(scope="module")
def three():
    """``loss`` of a model with three logits on one image with one local view, as a function of teacher and centre."""
    module = objective(DINO, out_dim=3, teacher_temp_start=0.05, teacher_temp=0.05, **SMALL)
    graph, params, stats = split(module)
    rng = np.random.default_rng(0)
    views = {
        "global_view": rng.integers(0, 256, (1, 2, 32, 32, 3), np.uint8),
        "local_view": rng.integers(0, 256, (1, 1, 16, 16, 3), np.uint8),
    }

    @jax.jit
    def run(teacher, center):
        model = nnx.merge(graph, params, {**stats, "center": center})
        summaries = [model.backbone(x[0], context(train=False)).summary for x in views.values()]
        student = model.head(jnp.concatenate(summaries)[None], context())
        result = model.loss(views, teacher, context())
        return result.value, result.metrics, model.center[...], student

    return lambda *args: jax.tree.map(np.asarray, run(*(np.asarray(x, np.float32) for x in args)))


def test_t12_the_loss_takes_the_old_centre_and_leaves_the_new_one(three):
    found, metrics, center, student = three(T12["teacher"], T12["center"])
    args = (student.astype(np.float64), T12["teacher"], T12["center"], 0.1, 0.05)
    assert found == pytest.approx(oracle(*args), rel=1e-5)
    np.testing.assert_allclose(center, [0.055, 0.01, -0.035], atol=1e-7)
    assert metrics["center_norm"] == pytest.approx(np.linalg.norm([0.055, 0.01, -0.035]), rel=1e-6)
    assert metrics["teacher_temp"] == pytest.approx(0.05)
    assert metrics["monitor"] == 0  # one image has no spread


def test_t13_centre_of_a_constant_teacher(three):
    u = np.array([0.3, -0.2, 0.5])
    center, seen = np.zeros(3), {}
    for n in range(1, 23):
        center = three(np.tile(u, (1, 2, 1)), center)[2]
        seen[n] = center
    for n, part in {1: 0.1, 2: 0.19, 10: 0.6513215599, 22: 0.9015229098}.items():
        np.testing.assert_allclose(seen[n], part * u, rtol=2e-6)


def test_t13_what_leaves_the_loss_unchanged(three):
    teacher, center, same = logits(0, 1, 2, 3) / 10, logits(1, 3) / 10, logits(2, 3)
    plain = three(teacher, center)[0]
    assert three(teacher + same, center + same)[0] == pytest.approx(plain, rel=1e-4)
    assert three(teacher + 3.0, center)[0] == pytest.approx(plain, rel=1e-4)


def test_t19_cross_entropy_is_entropy_and_divergence(three):
    found, metrics, _, student = three(T12["teacher"], T12["center"])
    p = softmax((T12["teacher"][0] - T12["center"]) / 0.05)
    q = softmax(student[0].astype(np.float64) / 0.1)
    entropy = np.mean([-np.sum(x * np.log(x)) for x in p])
    divergence = np.mean([np.sum(p[i] * np.log(p[i] / q[v])) for i in range(2) for v in range(3) if v != i])
    assert metrics["teacher_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert metrics["kl"] == pytest.approx(divergence, rel=1e-4)
    assert found == pytest.approx(entropy + divergence, rel=1e-5)
    usage = p.mean(0)
    assert metrics["marginal_entropy"] == pytest.approx(-np.sum(usage * np.log(usage)), rel=1e-5)


def weight_norm(**options):
    return WeightNorm(8, 5, rngs=nnx.Rngs(0), **options)


def test_t15_weight_norm():
    x = logits(0, 6, 8).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    layer = weight_norm(free_lengths=False)
    before = np.asarray(layer(x))
    assert np.abs(before).max() <= 1
    layer.v.set_value(layer.v[...] * jnp.asarray([0.1, 2.0, 30.0, 1.0, 0.5]))
    np.testing.assert_allclose(layer(x), before, atol=1e-6)
    assert layer.g is None
    free = weight_norm(free_lengths=True)
    np.testing.assert_allclose(free(x), before, atol=1e-6)  # lengths begin at 1
    free.g.set_value(jnp.arange(5.0))
    np.testing.assert_allclose(free(x), before * np.arange(5), atol=1e-5)


def test_t16_clipping_by_tensor_and_by_the_norm_of_all():
    gradients = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[0.0, 4.0]])}
    for per, expected in (("tensor", (1.0, 1.0)), ("global", (0.6, 0.8))):
        clipped = Clip(norm=1.0, per=per)(gradients)
        assert [float(jnp.linalg.norm(g.ravel())) for g in clipped.values()] == pytest.approx(expected, rel=1e-6)


def at(step, steps):
    return Context(key=jax.random.key(0), step=jnp.asarray(step), steps=jnp.asarray(steps))


def test_t17_schedules():
    lr = WarmupCosine(peak=5e-4, end=1e-6, warmup_steps=20, inclusive=True)
    expected = {0: 0, 1: 2.63157895e-5, 19: 5e-4, 20: 5e-4, 21: 4.99807645e-4, 60: 2.505e-4, 99: 1.19235546e-6}
    for step, number in expected.items():
        assert float(lr(at(step, 100))) == pytest.approx(number, rel=1e-4 if step == 99 else 1e-6, abs=1e-12)
    decay = Cosine(start=0.04, end=0.4)
    assert [float(decay(at(s, 100))) for s in (0, 50)] == pytest.approx([0.04, 0.22], rel=1e-6)


def temperature(steps, stage, **options):
    module = nnx.eval_shape(lambda: build(teacher_temp=0.07, **options))
    return [float(module.teacher_temperature(at(step, stage))) for step in steps]


def build(backbone=None, *, out_dim=64, **options):
    trunk = backbone or ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 1}))
    return DINO(trunk, info=INFO, rngs=nnx.Rngs(1), out_dim=out_dim, **(SMALL | options))


def test_t17_teacher_temperature():
    linear = [0.04, 0.04103448, 0.05551724, 0.07]
    assert temperature((0, 1, 15, 29), 300, teacher_temp_warmup_steps=30) == pytest.approx(linear, rel=1e-6)
    assert temperature((30, 299), 300, teacher_temp_warmup_steps=30) == pytest.approx([0.07, 0.07])
    assert temperature((0, 1, 15, 29), 300, teacher_temp_warmup_fraction=0.1) == pytest.approx(linear, rel=1e-6)
    both = {"teacher_temp_warmup_steps": 30, "teacher_temp_warmup_fraction": 0.5}
    assert temperature((9, 29), 20, **both) == pytest.approx([0.07, 0.07])  # the shorter one: 10 steps
    assert temperature((29,), 3000, **both) == pytest.approx([0.07])
    assert np.all(np.isfinite(temperature((0, 1), 2, teacher_temp_warmup_steps=0)))
    module = nnx.eval_shape(build)
    assert float(module.teacher_temperature(at(3, 10))) == pytest.approx(0.04)


def test_t8_average_of_the_teacher():
    module = nnx.eval_shape(build)
    found = [float(module.teacher_decay(at(s, 1000))) for s in (0, 250, 500, 1000)]
    assert found == pytest.approx([0.996, 0.9965857864, 0.998, 1.0], abs=1e-7)


def test_t22_flop_ratios():
    base = {"patch": 16, "width": 768, "layers": 12}
    whole, small = (vit_forward(image=side, **base) for side in (224, 96))
    assert small / whole == pytest.approx(0.1816, abs=5e-5)
    trunk = {"image_size": 224, "patch_size": 16, "dim": 768, "depth": 12, "heads": 12}
    module = nnx.eval_shape(lambda: DINO(ViT(rngs=nnx.Rngs(0), **trunk), info=INFO, rngs=nnx.Rngs(1)))
    for local, ratio, with_heads in ((0, 8.0, 8.01), (8, 12.358, 12.40), (10, 13.447, 13.50)):
        assert 3 * (2 + local * small / whole) + 2 == pytest.approx(ratio, abs=1e-3)
        batch = data.train_structs(module, DINOViews(local_views=local), module.backbone.spec, 4)
        assert batch["local_view"].shape == (4, local, 96, 96, 3)
        # Nobody asks for the gradient of an image.
        spared = 2 * 768 * 768 * (2 * 196 + local * 36)
        assert (module.closed_form(batch) / 4 + spared) / whole == pytest.approx(with_heads, abs=0.005)


@pytest.mark.parametrize("local", [0, 3])
def test_closed_form_is_the_cost_of_the_traced_step(local):
    subject = Subject(DINO, options=DINO.kit_options, views=DINOViews(local_views=local), batch_size=2)
    assert subject.train.closed_form == subject.train.cost().total


def test_closed_form_with_learned_positions():
    def backbone(*, rngs):
        options = {"positions": "learned", "position_resize": "dino_bicubic", "init": "timm"}
        return ViT(rngs=rngs, **(TINY | options))

    subject = Subject(DINO, options=DINO.kit_options, views=FEW, backbone=backbone, batch_size=2)
    assert subject.train.closed_form == pytest.approx(subject.train.cost().total, rel=5e-3)


@pytest.mark.parametrize("dim,total", [(768, 23_138_560), (384, 22_352_128), (192, 21_958_912)])
def test_head_counts(dim, total):
    def head(free):
        options = {"hidden": 2048, "bottleneck": 256, "batch_norm": False, "dtype_name": "float32"}
        return Head(dim, 65536, free_lengths=free, rngs=nnx.Rngs(0), **options)

    assert count(lambda: head(True)) == total
    assert count(lambda: head(False)) == total - 65536


def test_initial_values_and_the_band_of_the_first_loss():
    options = {"hidden": 64, "bottleneck": 256, "free_lengths": True, "batch_norm": False, "dtype_name": "float32"}

    k = 4096

    @jax.jit
    def start(key, x):
        head = Head(16, k, rngs=nnx.Rngs(key), **options)
        return nnx.to_pure_dict(nnx.state(head, nnx.Param)), head(x, context())

    params, out = jax.tree.map(np.asarray, start(jax.random.key(0), logits(0, 5, 16).astype(np.float32)))
    for layer in params["mlp"].values():
        assert layer["kernel"].std() == pytest.approx(0.02, rel=0.05) and np.all(layer["bias"] == 0)
    assert np.abs(params["mlp"][2]["kernel"]).max() > 0.06  # not cut at two standard deviations
    v, g = params["last_layer"]["v"], params["last_layer"]["g"]
    assert 0.0624 < v.max() <= 1 / 16 and v.std() == pytest.approx(1 / 16 / math.sqrt(3), rel=1e-2) and np.all(g == 1)
    zero = np.zeros(k, np.float32)
    twins, others = (
        float(compiled(out[None, s], out[None, t], zero, 0.1, 0.04))
        for s, t in (([0, 0, 0], [0, 0]), ([2, 3, 4], [0, 1]))
    )
    # Logits have the variance 1 / 256. Over tau_s = 0.1 that adds s^2 / 2 to ln K; where both views agree, s t is saved.
    spread, agreement = 0.5 / (256 * 0.1**2), 1 / (256 * 0.1 * 0.04)
    assert math.log(65536) + spread == pytest.approx(11.29, abs=0.005)
    assert math.log(65536) + spread - agreement == pytest.approx(10.31, abs=0.005)
    assert twins == pytest.approx(math.log(k) + spread - agreement, abs=0.1)
    assert others == pytest.approx(math.log(k) + spread, abs=0.3)


def small_head(**options):
    defaults = {"hidden": 6, "bottleneck": 5, "free_lengths": True, "batch_norm": False, "dtype_name": "float32"}
    return made(lambda: Head(4, 7, rngs=nnx.Rngs(0), **(defaults | options)))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_head_against_numpy(batch_norm):
    graph, params, stats = split(small_head(batch_norm=batch_norm))
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(lambda p, x: nnx.merge(graph, p, stats)(x, context()))(params, x))
    for index in range(3):
        x = x @ params["mlp"][index]["kernel"] + params["mlp"][index]["bias"]
        if index < 2:
            if batch_norm:  # over all views of all images
                norm = params["norm"][index]
                x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5) * norm["scale"] + norm["bias"]
            x = np.vectorize(lambda a: a * 0.5 * (1 + math.erf(a / math.sqrt(2))))(x)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    v, g = params["last_layer"]["v"], params["last_layer"]["g"]
    np.testing.assert_allclose(found, x @ (v / np.linalg.norm(v, axis=0) * g), rtol=1e-10, atol=1e-12)


def test_head_has_a_finite_gradient_at_zero():
    graph, params, stats = split(small_head())
    params = jax.tree.map(np.zeros_like, params) | {"last_layer": params["last_layer"]}
    x = np.ones((1, 1, 4), np.float32)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graph, p, stats)(x, context()))))(params)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))


CALLS = []
"""(shape of the images, whether in training) of each call of the recorder, noted while it is traced."""


class Recorder(Backbone):
    def __init__(self, couples_batch):
        self.dim, self.stride, self.image_size = 3, (4, 4), (16, 16)
        self.couples_batch = couples_batch
        self.norm = BatchNorm(3)

    def __call__(self, images, ctx, *, levels=()):
        CALLS.append((images.shape, ctx.train))
        x = self.norm(jnp.mean(self.normalise(images), axis=(1, 2)), ctx)
        return Features(tokens=x[:, None], prefix=x[:, None], summary=x)


def traced(module, function, *args):
    """The jaxpr of ``function(module, *args)``."""
    graph, params, stats = split(module)
    return jax.make_jaxpr(lambda p, s, *a: function(nnx.merge(graph, p, s), *a))(params, stats, *args)


def blank(side, count, local):
    return {
        "global_view": np.zeros((count, 2, side, side, 3), np.uint8),
        "local_view": np.zeros((count, local, side // 2, side // 2, 3), np.uint8),
    }


@pytest.mark.parametrize("couples", [False, True])
def test_views_of_one_resolution_are_one_call_and_the_teacher_sees_the_global_ones(couples, monkeypatch):
    heads, plain = [], Head.__call__
    monkeypatch.setattr(Head, "__call__", lambda self, x, ctx: (heads.append(x.shape), plain(self, x, ctx))[1])
    module, batch = nnx.eval_shape(lambda: build(Recorder(couples))), blank(16, 4, 5)
    CALLS.clear()
    traced(module, lambda m: m.targets(batch, context()))
    # Without drop path; with the statistics of its own batch where there are any.
    assert [((8, 16, 16, 3), couples)] == CALLS and heads == [(4, 2, 3)]
    CALLS.clear(), heads.clear()
    traced(module, lambda m, t: m.loss(batch, t, context()).value, np.zeros((4, 2, 64), np.float32))
    assert CALLS == [((8, 16, 16, 3), True), ((20, 8, 8, 3), True)] and heads == [(4, 7, 3)]
    assert module.couples_batch is couples and nnx.eval_shape(lambda: build(use_bn_in_head=True)).couples_batch


def test_drop_path_is_for_the_student():
    module = nnx.eval_shape(lambda: build(ViT(rngs=nnx.Rngs(0), **(TINY | {"drop_path": 0.5}))))
    batch = blank(32, 2, 1)
    teacher = traced(module, lambda m: m.targets(batch, context()))
    student = traced(module, lambda m, t: m.loss(batch, t, context()).value, np.zeros((2, 2, 64), np.float32))
    assert "random_bits" not in str(teacher) and "random_bits" in str(student)


def test_without_local_views_and_with_one_image():
    module = objective(DINO, out_dim=16, **SMALL)
    views = DINOViews(local_views=0)
    (spec, rng) = module.backbone.spec, np.random.default_rng(0)
    batch = {name: x[None] for name, x in views(sample(), rng, spec).items()}
    data.check_batch(batch, data.train_structs(module, views, spec, 1), "DINO")
    assert batch["local_view"].shape == (1, 0, 12 + 4, 12 + 4, 3)
    graph, params, stats = split(module)

    @jax.jit
    def run(params):
        model = nnx.merge(graph, params, stats)
        return model.loss(batch, model.targets(batch, context()), context()).value

    assert np.isfinite(run(params))


def groups_of(factory):
    """Path -> (decayed, its start) by the official groups."""
    module = nnx.eval_shape(factory)
    _, params, _ = split(module)
    table = adamw(lr=1.0).assign(jax.tree.map(lambda x: np.zeros(()), params), module)
    return {p: (g.decay, (g.start, g.start_fraction)) for g, paths in table for p in paths}


def learned():
    return ViT(rngs=nnx.Rngs(0), **(TINY | {"depth": 1, "positions": "learned"}))


def test_decay_leaves_out_biases_and_norms_but_not_tokens_and_positions():
    found = groups_of(lambda: build(learned(), norm_last_layer=False, freeze_last_layer_steps=7))
    exempt = {p for p, (decay, _) in found.items() if not decay}
    assert exempt == {p for p in found if p.endswith(("bias", "scale"))}
    tokens = {"backbone/cls_token", "backbone/pos_embed"}
    assert {*tokens, "head/last_layer/v", "head/last_layer/g", "head/mlp/0/kernel"} <= set(found) - exempt
    late = {p for p, (_, start) in found.items() if start != (None, None)}
    assert late == {"head/last_layer/v", "head/last_layer/g"} and found["head/last_layer/g"][1] == (7, None)
    other = groups_of(lambda: build(learned(), decay_mask="no_pos_cls"))
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


def test_refusals():
    for options, message in (
        ({"teacher_temp": 0.3, "teacher_temp_warmup_steps": 3}, "not in"),
        ({"teacher_temp_start": 0.0, "teacher_temp_warmup_steps": 3}, "not in"),
        ({"teacher_temp": 0.07}, "how fast"),
        ({"student_temp": 0.0}, "student_temp"),
        ({"decay_mask": "oficial"}, "official"),
    ):
        with pytest.raises(ConfigError, match=message):
            nnx.eval_shape(lambda options=options: build(**options))
    nnx.eval_shape(lambda: build(teacher_temp_start=0.1, teacher_temp=0.1, max_teacher_temp=0.1))
    with pytest.raises(ConfigError, match="local_views is -1"):
        DINOViews(local_views=-1)


def test_views_and_inputs_must_agree_before_anything_compiles():
    module = nnx.eval_shape(build)
    spec = module.backbone.spec
    with pytest.raises(ConfigError, match="local_size = 16"):
        data.train_structs(module, DINOViews(local_size=18), spec, 4)
    with pytest.raises(PluginError, match=r"local_view.*no size for"):
        data.train_structs(module, SimCLRViews(), spec, 4)
    structs = data.train_structs(module, FEW, spec, 1)
    batch = {name: x[None] for name, x in DINOViews(local_views=3)(sample(), np.random.default_rng(0), spec).items()}
    with pytest.raises(ConfigError, match="local_view"):
        data.check_batch(batch, structs, "DINO")


def test_local_views_are_three_sevenths_of_the_global_ones():
    def small(size, stride, **options):
        spec = InputSpec(size=(size, size), stride=(stride, stride), mean=(0,) * 3, std=(1,) * 3)
        letters = DINOViews(**options).letters(spec)
        return letters["h"], letters["w"], letters["V"]

    assert small(224, 16) == (96, 96, 8) and small(224, 8, local_views=0) == (96, 96, 0)
    assert small(224, 14) == (98, 98, 8) and small(32, 4) == (12, 12, 8) and small(16, 16) == (16, 16, 8)
    assert small(32, 4, local_size=16) == (16, 16, 8)


def test_views_are_different_draws_that_a_seed_repeats():
    spec = tiny().spec
    one, again = (DINOViews(local_views=3)(sample(), np.random.default_rng(5), spec) for _ in range(2))
    assert one["global_view"].shape == (2, 32, 32, 3) and one["local_view"].shape == (3, 16, 16, 3)
    for name, x in one.items():
        np.testing.assert_array_equal(x, again[name])
        assert x.dtype == np.uint8 and not np.array_equal(x[0], x[1])


OFF = {
    "global_scale": (1.0, 1.0),
    "local_scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "gray": 0.0,
    "blur": (0.0, 0.0, 0.0),
    "solarize": 0.0,
    "local_views": 1,
    "local_size": 32,
}


def test_which_operator_is_for_which_view():
    spec, given = tiny().spec, sample(0, (32, 32))
    whole = given["image"].array

    def views(**options):
        made = DINOViews(**(OFF | options))(given, np.random.default_rng(0), spec)
        return [*made["global_view"], *made["local_view"]]

    def changed(**options):
        return [not np.array_equal(x, whole) for x in views(**options)]

    assert changed() == [False] * 3
    assert all(np.array_equal(x, whole[:, ::-1]) for x in views(flip=1.0))
    assert changed(jitter=1.0) == changed(gray=1.0) == [True] * 3
    assert all(np.all(x[..., 0] == x[..., 1]) for x in views(gray=1.0))
    for index in range(3):
        blur = tuple(float(i == index) for i in range(3))
        assert changed(blur=blur, radius=(1.0, 1.0)) == [i == index for i in range(3)]
    solarized = views(solarize=1.0)
    np.testing.assert_array_equal(solarized[1], np.where(whole < 128, whole, 255 - whole))
    assert changed(solarize=1.0) == [False, True, False]
    assert changed(global_scale=(0.4, 0.5)) == [True, True, False]
    assert changed(local_scale=(0.4, 0.5)) == [False, False, True]
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    assert changed(jitter=1.0, **still) == [False] * 3


def test_the_teacher_is_what_goes_on():
    assert DINO.transfer == "teacher" and DINO.teacher == ("backbone", "head")
    center = nnx.eval_shape(build).center
    assert isinstance(center, Stat) and center.shape == (64,)
