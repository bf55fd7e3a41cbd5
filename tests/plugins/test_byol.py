"""BYOL: cases with known values under their numbers (T7, T8, T10, T20, T22), a slow oracle of the whole step, views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from purelib import INFO, apply, batch_of, context, flatten, objective, sample, split, tiny
from spendflops_plugins.byol import BYOL, BYOLViews, regression_loss
from spendflops_plugins.vit import ViT

import spendflops.testing
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.errors import ConfigError
from spendflops.contracts.objective import Group
from spendflops.contracts.types import Context, Features
from spendflops.engine.optim import lars
from spendflops.parts.nn.heads import MLPHead, mean_cosine, unit_vectors
from spendflops.parts.nn.linear import Linear
from spendflops.parts.nn.norm import BatchNorm
from spendflops.testing.model import Subject

SMALL = {"hidden_dim": 32, "output_dim": 8}

test_kit = spendflops.testing.objective_tests("byol")


@jax.jit
def both_directions(p1, p2, t1, t2):
    p1, p2, t1, t2 = map(unit_vectors, (p1, p2, t1, t2))
    return regression_loss(p1, t2) + regression_loss(p2, t1)


def value(*vectors):
    with jax.enable_x64(True):
        return float(both_directions(*(jnp.asarray(v, jnp.float64) for v in vectors)))


def cosines(a, b):
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_loss_equals_the_oracle():
    p1, p2, t1, t2 = np.random.default_rng(0).normal(size=(4, 5, 7))
    expected = np.mean(2 - 2 * cosines(p1, t2)) + np.mean(2 - 2 * cosines(p2, t1))
    assert value(p1, p2, t1, t2) == pytest.approx(expected, rel=1e-10)
    single = both_directions(*(x.astype(np.float32) for x in (p1, p2, t1, t2)))
    assert float(single) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("degrees,expected", [(0, 0.0), (90, 4.0), (180, 8.0), (45, 4 - 2 * np.sqrt(2)), (60, 2.0)])
def test_t7_angles(degrees, expected):
    target, turn = np.array([[1.0, 0.0]]), np.deg2rad(degrees)
    prediction = 3 * np.array([[np.cos(turn), np.sin(turn)]])
    assert value(prediction, prediction, target, target) == pytest.approx(expected, abs=1e-12)


def test_t7_views_are_crossed():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert value(one, other, one, other) == pytest.approx(4.0, abs=1e-12)


def test_t7_gradient():
    """Orthogonal to the prediction and 2 sin(angle) / length long, a direction; the mean divides it by the batch."""
    p, t = np.random.default_rng(1).normal(size=(2, 3, 4))

    @jax.jit
    def loss(p, t):
        return regression_loss(unit_vectors(p), unit_vectors(t))

    with jax.enable_x64(True):
        gradient = 3 * np.asarray(jax.grad(loss)(jnp.asarray(p), jnp.asarray(t)))
    assert np.abs(np.sum(gradient * p, axis=1)).max() < 1e-12
    sine = np.sqrt(1 - cosines(p, t) ** 2)
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=1), 2 * sine / np.linalg.norm(p, axis=1), rtol=1e-10)


@pytest.mark.parametrize("ema", [0.97, 0.99, 0.996])
def test_t8_decay_rises_along_a_cosine(ema):
    steps = 400
    module = objective(BYOL, ema=ema, **SMALL)

    def decay(step):
        ctx = Context(key=jax.random.key(0), step=jnp.int32(step), steps=jnp.int32(steps))
        return module.teacher_decay(ctx)

    found = np.asarray(jax.vmap(decay)(jnp.arange(steps + 2)), np.float64)
    expected = [1 - (1 - ema) * (np.cos(np.pi * k / steps) + 1) / 2 for k in range(steps + 1)]
    np.testing.assert_allclose(found[:-1], expected, atol=1e-7)
    assert found[steps] == found[steps + 1] == 1
    assert np.mean(found[:steps]) == pytest.approx(1 - (1 - ema) / 2, abs=(1 - ema) / steps)
    if ema == 0.996:
        assert found[[0, 100, 200]] == pytest.approx([0.996, 0.9965857864, 0.998], abs=1e-7)


@pytest.fixture(scope="module")
def subject():
    """Its online weights stand still, its target starts elsewhere and follows at a constant rate."""
    made = Subject(BYOL, options={**SMALL, "ema": 0.9, "ema_end": 0.9, "teacher_init": "independent"}, batch_size=3)
    made.optimizer = lambda definition: lars(lr=0.0)
    return made


def test_t8_target_after_steps_of_a_constant_decay(subject):
    """The target's distance from the online weights is m^n of the first one."""
    states = [subject.initial]
    for _ in range(3):
        states.append(subject.step(states[-1], subject.batches[0])[0])
    online = flatten({name: states[0]["params"][name] for name in ("backbone", "projector")})
    ema = [flatten(state["ema"]) for state in states]
    assert set(ema[0]) == set(online) and "predictor" not in states[0]["ema"]
    moved = [np.linalg.norm(ema[n]["projector/dense/0/kernel"] - online["projector/dense/0/kernel"]) for n in range(4)]
    np.testing.assert_allclose(moved, moved[0] * 0.9 ** np.arange(4), rtol=1e-5)


def test_t10_batch_norm_per_view_and_joint():
    norm, views = BatchNorm(1, eps=0.0), [np.array([[0.0], [2.0]]), np.array([[10.0], [12.0]])]
    with jax.enable_x64(True):
        each = [np.ravel(norm(jnp.asarray(v), context())) for v in views]
        joint = np.ravel(norm(jnp.asarray(np.concatenate(views)), context()))
    np.testing.assert_allclose(each, [[-1, 1], [-1, 1]], atol=1e-12)
    np.testing.assert_allclose(joint, [-1.17669681, -0.78446454, 0.78446454, 1.17669681], atol=1e-8)


def test_t20_lars():
    """One step at a learning rate of 1, and a second one at half of it: the momentum does not remember the rate."""
    params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([1.0])}
    gradients = {"kernel": jnp.array([0.0, 1.0]), "bias": jnp.array([2.0])}
    module = objective(BYOL, **SMALL)
    optimizer = lars(
        lr=lambda ctx: jnp.where(ctx.step == 0, 1.0, 0.5),
        weight_decay=0.1,
        lr_in_momentum=False,
        groups=(Group(match="bias", decay=False),),
    )
    state, start = optimizer.init(params, module), params
    for step in range(2):
        ctx = Context(key=jax.random.key(0), step=jnp.int32(step), steps=jnp.int32(2))
        params, state, _ = optimizer.update(gradients, state, params, objective=module, ctx=ctx)
        if step == 0:
            np.testing.assert_allclose(start["kernel"] - params["kernel"], [0.00104765, 0.00488901], atol=3e-7)
    # By hand: trust |w| / |g + wd w|, momentum 0.9, then the rate; the bias is neither decayed nor adapted.
    w, buffer = np.array([3.0, 4.0]), 0.0
    for rate in (1.0, 0.5):
        g = np.array([0.0, 1.0]) + 0.1 * w
        buffer = 0.9 * buffer + 0.001 * np.linalg.norm(w) / np.linalg.norm(g) * g
        w = w - rate * buffer
    np.testing.assert_allclose(params["kernel"], w, atol=1e-6)
    np.testing.assert_allclose(params["bias"], [1 - 2 - 0.5 * (0.9 * 2 + 2)], rtol=1e-6)


def test_groups_leave_biases_and_norms_alone():
    table = lars(lr=1.0).assign(split(objective(BYOL, **SMALL))[1], objective(BYOL, **SMALL))
    spared = {path for group, paths in table if not group.decay for path in paths}
    heads = {path for path in spared if not path.startswith("backbone")}
    assert heads == {
        f"{h}/{x}" for h in ("projector", "predictor") for x in ("dense/0/bias", "norm/0/bias", "norm/0/scale")
    }
    assert all(path.endswith(("/bias", "/scale")) for path in spared) and "backbone/patch_embed/bias" in spared


def test_t22_flops(subject):
    """Two views through the online network and back, and through the target network: 8 F, not 12; one predictor."""
    train, backbone = subject.train, subject.definition.example.backbone
    cost = train.cost()
    assert train.closed_form == cost.total
    projector, predictor = 2 * (32 * 32 + 32 * 8), 2 * (8 * 32 + 32 * 8)
    assert cost.phases["targets"] == 3 * 2 * (backbone.flops() + projector)
    assert cost.phases["forward"] == 3 * 2 * (backbone.flops() + projector + predictor)
    # Nobody asks for the gradient of the images.
    images = 3 * 2 * 2 * 16 * 48 * 32
    assert cost.total == 4 * cost.phases["forward"] - 3 * 2 * predictor - images
    hardware = train.cost(hardware=True)
    assert hardware.total == cost.total and hardware.phases["targets"] == cost.phases["targets"]


def numpy_head(head, x):
    """Linear, batch norm of these rows, ReLU, linear; the kernel of the last layer has no bias."""
    first, last = head.dense
    x = x @ np.asarray(first.kernel[...], np.float64) + np.asarray(first.bias[...])
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.asarray(head.norm[0].scale[...]) + np.asarray(
        head.norm[0].bias[...]
    )
    assert last.bias is None
    return np.maximum(x, 0) @ np.asarray(last.kernel[...], np.float64)


def stepped(module, batch):
    """(targets, loss, metrics, gradient of the loss, of the targets, summaries of each view), in one compilation."""
    graph, params, stats = split(module)

    @jax.jit
    def run(params, stats):
        targets = nnx.merge(graph, params, stats).targets(batch, context())

        def loss(params, targets):
            result = nnx.merge(graph, params, stats).loss(batch, targets, context())
            return result.value, result.metrics

        (result, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, targets)
        backbone = nnx.merge(graph, params, stats).backbone
        summaries = [backbone(batch["view"][:, v], context()).summary for v in range(2)]
        return targets, result, metrics, gradients, summaries

    return run(params, stats)


def test_objective_normalises_each_view_by_itself():
    """The whole loss from the backbone's summaries in numpy."""
    module = objective(BYOL, **SMALL, reduction="official_sum")
    batch = batch_of(BYOLViews(), module.backbone.spec)
    targets, result, metrics, gradients, summaries = stepped(module, batch)
    z = [numpy_head(module.projector, np.asarray(x, np.float64)) for x in summaries]
    p = [numpy_head(module.predictor, x) for x in z]
    for target, expected in zip(targets, z, strict=True):
        np.testing.assert_allclose(target, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)
    distance = np.mean(2 - 2 * cosines(p[0], z[1])) + np.mean(2 - 2 * cosines(p[1], z[0]))
    assert float(result) == pytest.approx(distance, rel=1e-4)
    assert float(metrics["target_cosine"]) == pytest.approx(1 - distance / 4, abs=1e-4)
    unit = z[0] / np.linalg.norm(z[0], axis=1, keepdims=True)
    assert float(metrics["monitor"]) == pytest.approx(np.mean(unit.std(0)) * np.sqrt(8), rel=1e-4)
    assert float(metrics["target_std"]) == pytest.approx(float(metrics["monitor"]), rel=1e-4)
    summary = np.asarray(summaries[0], np.float64)
    summary /= np.linalg.norm(summary, axis=1, keepdims=True)
    assert float(metrics["summary_std"]) == pytest.approx(np.mean(summary.std(0)) * np.sqrt(32), rel=1e-4)
    others = (unit @ unit.T)[~np.eye(4, dtype=bool)]
    assert float(metrics["batch_cosine"]) == pytest.approx(others.mean(), abs=1e-4)
    assert float(metrics["teacher_decay"]) == pytest.approx(0.996)
    assert np.any(flatten(gradients)["backbone/patch_embed/kernel"])


def test_mean_is_half_of_the_official_sum():
    batch = batch_of(BYOLViews(), tiny().spec, size=2)
    module, half = (objective(BYOL, **SMALL, reduction=r) for r in ("official_sum", "mean"))
    targets = np.tile(np.eye(8, dtype=np.float32)[:2], (2, 1, 1))
    found = [float(apply(m, lambda m: m.loss(batch, targets, context()).value)) for m in (module, half)]
    assert found[0] == pytest.approx(2 * found[1], rel=1e-6)


class Normed(Backbone):
    """Batch norm and a linear layer of an image's mean colour: a backbone whose features depend on the batch."""

    couples_batch = True

    def __init__(self, *, rngs):
        self.dim, self.stride, self.image_size = 8, (8, 8), (32, 32)
        self.norm, self.dense = BatchNorm(3), Linear(3, 8, rngs=rngs)

    def __call__(self, images, ctx, *, levels=()):
        summary = self.dense(self.norm(jnp.mean(self.normalise(images), axis=(1, 2)), ctx))
        return Features(tokens=summary[:, None], prefix=summary[:, :0, None], summary=summary)


def test_a_backbone_with_batch_statistics_sees_one_view_at_a_time():
    module = BYOL(Normed(rngs=nnx.Rngs(0)), info=INFO, rngs=nnx.Rngs(1), head_norm="ln", **SMALL)
    assert module.couples_batch
    batch = batch_of(BYOLViews(), module.backbone.spec)
    found = apply(module, lambda m: m.summaries(batch["view"], context()))
    for v in range(2):
        alone = apply(module, lambda m, v=v: m.backbone(batch["view"][:, v], context()).summary)
        np.testing.assert_allclose(found[v], alone, rtol=1e-5, atol=1e-6)
    joint = apply(module, lambda m: m.backbone(batch["view"].reshape(-1, 32, 32, 3), context()).summary)
    assert np.abs(joint[::2] - found[0]).max() > 1e-2


@pytest.mark.parametrize("width,projector,predictor", [(768, 4_206_592, 2_109_440)])
def test_head_counts(width, projector, predictor):
    backbone = {"image_size": 32, "patch_size": 8, "dim": width, "depth": 1, "heads": 12}
    module = nnx.eval_shape(lambda: BYOL(ViT(rngs=nnx.Rngs(0), **backbone), info=INFO, rngs=nnx.Rngs(1)))
    sizes = [
        sum(x.size for x in jax.tree.leaves(nnx.state(m, nnx.Param))) for m in (module.projector, module.predictor)
    ]
    assert sizes == [projector, predictor]
    assert module.teacher == ("backbone", "projector") and module.transfer == "online"


def test_heads_start_as_in_haiku():
    module = BYOL(tiny(depth=1), info=INFO, rngs=nnx.Rngs(0), hidden_dim=256, output_dim=64)
    for dense in (*module.projector.dense, *module.predictor.dense):
        kernel, bound = np.asarray(dense.kernel[...]), 2 * dense.kernel.shape[0] ** -0.5
        assert 0.97 * bound < np.abs(kernel).max() <= bound
        assert abs(kernel.std() / (0.8796 * bound / 2) - 1) < 0.03
    assert not np.any(module.projector.dense[0].bias[...])


def normalised(x, axis, eps):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


HIDDEN = {
    "none": lambda x, kernel: x @ kernel,
    "ln": lambda x, kernel: normalised(x @ kernel, 1, 1e-6),
    "gn_ws": lambda x, kernel: normalised((x @ normalised(kernel, 0, 0)).reshape(len(x), 16, -1), 2, 1e-5).reshape(
        len(x), -1
    ),
}


@pytest.mark.parametrize("norm", HIDDEN)
def test_heads_without_batch_statistics(norm):
    module = BYOL(tiny(depth=1), info=INFO, rngs=nnx.Rngs(0), head_norm=norm, **SMALL)
    assert not module.couples_batch
    x = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    kernels = [np.asarray(dense.kernel[...], np.float64) for dense in module.projector.dense]
    hidden = np.maximum(HIDDEN[norm](x, kernels[0]), 0)
    expected = hidden @ (normalised(kernels[1], 0, 0) if norm == "gn_ws" else kernels[1])
    found = module.projector(jnp.asarray(x), context())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    alone = module.projector(jnp.asarray(x[:1]), context())
    np.testing.assert_allclose(found[:1], alone, rtol=1e-5, atol=1e-6)


def test_output_norm_centres_what_is_compared():
    module = BYOL(tiny(depth=1), info=INFO, rngs=nnx.Rngs(0), output_norm=True, **SMALL)
    x = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32) + 3
    for head, given in ((module.projector, x), (module.predictor, x[:, :8])):
        found = np.asarray(head(jnp.asarray(given), context()))
        assert np.abs(found.mean(0)).max() < 1e-5 and head.norm[1].bias is None
        np.testing.assert_allclose(found.std(0), 1, rtol=2e-3)


def test_refusals():
    for options, message in (
        ({"head_norm": "batch"}, "bn"),
        ({"reduction": "sum"}, "official_sum"),
        ({"teacher_init": "copies"}, "copy"),
        ({"ema": 1.2}, "within 0 and 1"),
        ({"ema_end": -0.1}, "within 0 and 1"),
        ({"predictor_layers": 0}, "start at 1"),
        ({"head_norm": "gn_ws", "hidden_dim": 30}, "do not divide"),
        ({"head_norm": "none", "output_norm": True}, "no effect"),
    ):
        with pytest.raises(ConfigError, match=message):
            objective(BYOL, **{**SMALL, **options})


def test_a_batch_of_one_image_needs_heads_without_batch_norm():
    with pytest.raises(ConfigError, match="batch of one image") as caught:
        Subject(BYOL, options=SMALL, batch_size=1).train.cost()
    assert "statistics" in caught.value.why and "head_norm" in caught.value.fix
    assert Subject(BYOL, options={**SMALL, "head_norm": "ln"}, batch_size=1).train.cost().total > 0


def test_heads_share_nothing_and_monitors_see_a_collapse():
    head = MLPHead((4, 3), rngs=nnx.Rngs(0), kernel_init=lambda fan_in: nnx.initializers.ones)
    assert len(head.norm) == 0 and head.dense[0].bias is None and head.flops() == 24
    assert float(mean_cosine(jnp.ones((5, 4)) / 2)) == pytest.approx(1.0)
    assert float(mean_cosine(jnp.eye(4))) == pytest.approx(0.0, abs=1e-6)
    assert float(mean_cosine(jnp.ones((1, 1)))) == 0


def test_views_are_two_different_draws_that_a_seed_repeats():
    views, spec = BYOLViews(), tiny().spec
    one, again = (views(sample(), np.random.default_rng(5), spec)["view"] for _ in range(2))
    assert one.shape == (2, 32, 32, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], one[1])


OFF = {
    "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": (0.0, 0.0),
    "solarize": (0.0, 0.0),
}  # fmt: skip


def test_every_operator_of_the_views_can_be_switched_off():
    spec, given = tiny().spec, sample(0, (32, 32))

    def views(**options):
        return BYOLViews(**(OFF | options))(given, np.random.default_rng(0), spec)["view"]

    whole = given["image"].array
    np.testing.assert_array_equal(views(), [whole, whole])
    np.testing.assert_array_equal(views(flip=1.0), [whole[:, ::-1]] * 2)
    gray = views(gray=1.0)
    assert np.all(gray[..., 0] == gray[..., 1])
    for options in ({"jitter": 1.0}, {"scale": (0.1, 0.2)}):
        assert all(not np.array_equal(view, whole) for view in views(**options))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    np.testing.assert_array_equal(views(jitter=1.0, **still), [whole, whole])
    for name in still:
        assert all(not np.array_equal(view, whole) for view in views(jitter=1.0, **{**still, name: 0.5}))
    # Blur and solarisation have a probability a view.
    for name in ("blur", "solarize"):
        for chances in ((1.0, 0.0), (0.0, 1.0)):
            changed = [not np.array_equal(view, whole) for view in views(**{name: chances})]
            assert changed == [bool(chance) for chance in chances]
    turned = views(solarize=(1.0, 1.0), threshold=0.0)
    np.testing.assert_array_equal(turned, [255 - whole] * 2)


def test_solarisation_follows_the_blur():
    spec, given = tiny().spec, sample(0, (32, 32))
    options = OFF | {"blur": (1.0, 1.0), "sigma": (1.0, 1.0)}
    blurred = BYOLViews(**options)(given, np.random.default_rng(0), spec)["view"][0].astype(int)
    both = BYOLViews(**(options | {"solarize": (1.0, 1.0)}))(given, np.random.default_rng(0), spec)["view"][0]
    expected = np.where(blurred < 128, blurred, 255 - blurred)
    assert np.abs(both - expected)[np.abs(blurred - 127.5) > 1].max() <= 1
