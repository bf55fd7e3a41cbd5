"""DINO: the cases of methods_views.md section 15 under their numbers, slow oracles, the frozen last layer, views."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, TINY, context, objective, sample, split
from spendflops_plugins.dino import DINO, DINOViews, cross_entropy
from spendflops_plugins.dino.head import Head
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.types import Context, Features, Stat
from spendflops.engine import data
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
    assert subject.train.closed_form == subject.train.cost().total


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


def test_the_teacher_is_what_goes_on():
    assert DINO.transfer == "teacher" and DINO.teacher == ("backbone", "head")
    center = nnx.eval_shape(build).center
    assert isinstance(center, Stat) and center.shape == (64,)
