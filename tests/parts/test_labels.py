"""Losses of several labels an image against slow loops over whole target vectors, and cases T7, T8."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.parts import labels as parts

CLASSES = 7
LABELS = np.array([[2, 5, -1, -1], [1, 3, 3, -1], [4, 4, 4, 4], [0, -1, -1, -1], [-1, -1, -1, -1], [6, 0, 1, 2]])
KINDS = {
    "averaged": (parts.averaged, parts.softmax_cross_entropy, parts.softmax_floor),
    "unique": (lambda y: parts.averaged(y, unique=True), parts.softmax_cross_entropy, parts.softmax_floor),
    "sigmoid": (parts.multi_hot, parts.sigmoid_cross_entropy, parts.sigmoid_floor),
}


def target(given, kind, smoothing, classes=CLASSES):
    """The whole target vector of one image, or None."""
    given = [label for label in given if label >= 0]
    given = given if kind == "averaged" else sorted(set(given))
    if not given:
        return None
    y = np.zeros(classes)
    for label in given:
        y[label] += 1
    y = y if kind == "sigmoid" else y / len(given)
    return (1 - smoothing) * y + smoothing / classes


def slow_loss(z, y, kind):
    if kind == "sigmoid":
        return np.sum(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z))
    return -np.sum(y * (z - z.max() - np.log(np.sum(np.exp(z - z.max())))))


def slow_floor(y, kind):
    def term(x):
        return np.sum(-x[x > 0] * np.log(x[x > 0]))

    return term(y) + (term(1 - y) if kind == "sigmoid" else 0)


@functools.cache
def compiled(kind):
    weigh, cross_entropy, floor = KINDS[kind]

    @jax.jit
    def run(logits, labels, smoothing, part):
        weights = weigh(labels)
        both = parts.mixed(labels, weights, part)
        pairs = ((labels, weights), both)
        values = [cross_entropy(logits, *pair, smoothing=smoothing) for pair in pairs]
        return values, [floor(*pair, classes=logits.shape[1], smoothing=smoothing) for pair in pairs]

    return run


def computed(kind, logits, labels, smoothing, part=None):
    """(loss, floor) in float64."""
    with jax.enable_x64(True):
        labels, chosen = jnp.asarray(labels, jnp.int32), part is not None
        found = compiled(kind)(jnp.asarray(logits), labels, smoothing, part if chosen else 1.0)
    return tuple(float(values[chosen]) for values in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("part", [None, 0.3, 1.0])
def test_losses_and_floors_equal_the_slow_ones(kind, smoothing, part):
    logits = 3 * np.random.default_rng(0).normal(size=(len(LABELS), CLASSES))
    found = computed(kind, logits, LABELS, smoothing, part)
    ys = [target(given, kind, smoothing) for given in LABELS]
    if part is not None:
        ys = [
            y if other is None else other if y is None else part * y + (1 - part) * other
            for y, other in zip(ys, ys[::-1], strict=True)
        ]
    pairs = [(z, y) for z, y in zip(logits, ys, strict=True) if y is not None]
    assert found[0] == pytest.approx(np.mean([slow_loss(z, y, kind) for z, y in pairs]), rel=1e-10)
    assert found[1] == pytest.approx(np.mean([slow_floor(y, kind) for _, y in pairs]), rel=1e-10, abs=1e-12)
    assert found[0] >= found[1]


def test_t8_targets():
    # The gradient of the softmax at equal logits is 1/C - target: it shows the target.
    @functools.partial(jax.jit, static_argnames="kind")
    def gradient(labels, kind):
        weigh, cross_entropy, _ = KINDS[kind]
        return jax.grad(lambda z: cross_entropy(z, labels, weigh(labels), smoothing=0.1))(jnp.zeros((1, 10)))

    def shown(labels, kind="averaged"):
        with jax.enable_x64(True):
            padded = np.pad(labels, (0, 4 - len(labels)), constant_values=-1)
            return 0.1 - np.asarray(gradient(jnp.asarray([padded], jnp.int32), kind))[0]

    two, double, once = np.full((3, 10), 0.01)
    two[[2, 5]], double[[1, 3]], once[[1, 3]] = 0.46, (0.31, 0.61), 0.46
    np.testing.assert_allclose(shown([2, 5]), two, atol=1e-12)
    np.testing.assert_allclose(shown([1, 3, 3]), double, atol=1e-12)
    np.testing.assert_allclose(shown([1, 3, 3], "unique"), once, atol=1e-12)
    np.testing.assert_allclose(shown([3, -1, 7, -1]), shown([3, 7]), atol=1e-15)


def test_t8_values_and_their_floor():
    logits = np.zeros((1, 10))
    logits[0, [2, 5]] = 5
    assert computed("averaged", logits, [[2, 5]], 0.1)[0] == pytest.approx(1.1197421659, abs=1e-10)
    best = np.full((1, 10), np.log(0.01))
    best[0, [2, 5]] = np.log(0.46)
    assert computed("averaged", best, [[2, 5]], 0.1) == pytest.approx((1.0828201012,) * 2, abs=1e-10)
    floor = jax.jit(lambda y, c: parts.softmax_floor(y, parts.averaged(y), classes=c, smoothing=0.1))
    for classes, count, least in ((1000, 1, 1.0148), (21_843, 1, 1.3242), (18_291, 8, 3.1775)):
        y = target(range(count), "averaged", 0.1, classes)
        assert slow_floor(y, "averaged") == pytest.approx(least, abs=5e-5)
        labels = np.where(np.arange(8) < count, np.arange(8), -1)[None]
        assert float(floor(labels, classes)) == pytest.approx(least, abs=5e-5)


@pytest.mark.parametrize("bias", [0.0, -10.0, -6.9])
def test_t7_under_a_softmax_constant_logits_give_ln_c_whatever_the_bias(bias):
    found = computed("averaged", np.full((2, 21_843), bias), [[5], [7]], 0.1)[0]
    assert found == pytest.approx(9.9916357831, abs=1e-9)


@pytest.mark.parametrize(
    "bias, classes, labels, expected",
    [
        (-10, 1000, [5], 10.0453988992),
        (-10, 21_843, [5], 10.9916481556),
        (-10, 21_843, [5, 6, 7], 30.9916481556),
        (-6.9, 1000, [5], 7.9072779542),
    ],
)
def test_t7_under_a_sigmoid_every_label_costs_its_bias(bias, classes, labels, expected):
    found = computed("sigmoid", np.full((1, classes), float(bias)), [[*labels, -1, labels[0]]], 0.0)[0]
    assert found == pytest.approx(expected, abs=1e-9)


def test_float32_is_enough():
    logits = 50 * np.random.default_rng(0).normal(size=(len(LABELS), 100))
    rounded = np.asarray(jnp.asarray(logits, jnp.bfloat16), np.float64)
    for kind in ("averaged", "sigmoid"):
        (found, _), _ = compiled(kind)(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(LABELS, jnp.int32), 0.1, 1.0)
        assert found.dtype == jnp.float32
        y = [target(given, kind, 0.1, 100) for given in LABELS]
        slow = [slow_loss(z, t, kind) for z, t in zip(rounded, y, strict=True) if t is not None]
        assert float(found) == pytest.approx(np.mean(slow), rel=1e-5)


def test_labels_beyond_the_classes_are_not_clipped():
    assert np.isnan(computed("averaged", np.zeros((1, 3)), [[3]], 0.0)[0])


def test_a_batch_without_labels_costs_nothing():
    assert computed("averaged", np.ones((2, 3)), [[-1], [-1]], 0.1) == (0.0, 0.0)
