"""The losses of detectors against loops, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles_detection as oracle
import oracles_detection_losses as slow
import pytest
from spendflops_plugins.detection import boxes, losses

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
PENALTIES = {
    "l1": abs,
    "smooth_l1": functools.partial(slow.smooth_l1, beta=1 / 9),
    "huber": functools.partial(slow.huber, delta=1 / 9),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_boxes(rng, *shape):
    corner = rng.uniform(0, 40, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 20, (*shape, 2))], axis=-1)


@pytest.mark.parametrize("kind", losses.REGRESSIONS)
def test_rpn(rng, kind):
    images, anchors, objects = 2, 30, 3
    logits, deltas = rng.normal(0, 3, (images, anchors)), rng.normal(0, 0.3, (images, anchors, 4))
    places, truth = random_boxes(rng, anchors), random_boxes(rng, images, objects)
    index = rng.integers(0, objects, (images, anchors))
    sampled = rng.integers(-1, 2, (images, anchors))
    targets = np.stack(
        [boxes.encode(jnp.asarray(t[i]), jnp.asarray(places)) for t, i in zip(truth, index, strict=True)]
    )
    given = (
        losses.objectness(logits, sampled == 1, sampled == 0, samples=16),
        losses.offsets(deltas, targets, sampled == 1, count=16 * images, kind=kind, beta=1 / 9),
    )
    wanted = slow.rpn_loss(logits, deltas, places, truth, index, sampled, samples=16, penalty=PENALTIES[kind])
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize("kind", losses.REGRESSIONS)
def test_box_head(rng, kind):
    regions, classes = 25, 4
    logits, deltas = rng.normal(0, 2, (regions, classes + 1)), rng.normal(0, 1, (regions, classes, 4))
    found, truth = random_boxes(rng, regions), random_boxes(rng, regions)
    labels, valid = rng.integers(0, classes + 1, regions), rng.random(regions) < 0.8
    positive = (labels < classes) & valid
    own = deltas[np.arange(regions), np.minimum(labels, classes - 1)]
    targets = boxes.encode(jnp.asarray(truth), jnp.asarray(found), weights=slow.WEIGHTS)
    given = (
        losses.softmax_classes(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid)),
        losses.offsets(own, targets, positive, count=valid.sum(), kind=kind, beta=1 / 9),
    )
    wanted = slow.box_head_loss(logits, deltas, found, truth, labels, valid, penalty=PENALTIES[kind])
    np.testing.assert_allclose(given, wanted, **CLOSE)


def test_masks(rng):
    logits, classes = rng.normal(0, 3, (6, 5, 5, 3)), rng.integers(0, 3, 6)
    targets, positive = (rng.random((6, 5, 5)) < 0.4).astype(float), np.array([1, 1, 0, 1, 0, 0], bool)
    given = losses.masks(logits[np.arange(6), :, :, classes], targets, positive)
    np.testing.assert_allclose(given, slow.mask_head_loss(logits, targets, classes, positive), **CLOSE)


def test_no_region_and_no_foreground_give_zero():
    nothing, labels = jnp.zeros(3, bool), jnp.zeros(3, int)
    assert losses.masks(jnp.ones((3, 2, 2)), jnp.ones((3, 2, 2)), nothing) == 0
    assert losses.softmax_classes(jnp.ones((3, 2)), labels, nothing) == 0
    for count in (0, None):
        assert losses.offsets(jnp.ones((3, 4)), jnp.ones((3, 4)), nothing, count=count, kind="l1", beta=1) == 0


@pytest.mark.parametrize("kind", losses.REGRESSIONS)
def test_mean_over_coordinates(rng, kind):
    deltas, targets, positive = rng.normal(0, 1, (9, 4)), rng.normal(0, 1, (9, 4)), rng.random(9) < 0.5
    given = losses.offsets(deltas, targets, positive, count=None, kind=kind, beta=1 / 9)
    np.testing.assert_allclose(given, slow.coordinate_mean(deltas, targets, positive, PENALTIES[kind]), **CLOSE)


def test_targets_without_an_object_spoil_neither_loss_nor_gradient():
    targets, positive = jnp.full((1, 2, 4), jnp.nan), jnp.zeros((1, 2), bool)

    def loss(deltas):
        return losses.offsets(deltas, targets, positive, count=2, kind="l1", beta=1)

    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 2, 4)))
    assert np.isfinite(value) and np.all(gradient == 0)


def test_sigmoid_of_some_classes(rng):
    regions, classes = 12, 5
    logits, labels = rng.normal(0, 3, (regions, classes + 1)), rng.integers(0, classes + 1, regions)
    valid, columns = rng.random(regions) < 0.7, np.array([1, 0, 1, 1, 0], bool)
    given = losses.sigmoid_classes(logits, labels, jnp.asarray(valid), np.broadcast_to(columns, (regions, classes)))
    wanted = slow.federated_loss(logits, labels, valid, np.flatnonzero(columns), background=classes)
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize("background", [False, True])
def test_federated_classes_are_those_there_and_others_up_to_the_number(background):
    labels = jnp.array([2, 2, 7, 10 if background else 7, 4])
    valid = jnp.array([True, True, True, True, False])
    weights = jnp.sqrt(jnp.array([4.0, 0, 9, 1, 16, 1, 25, 4, 4, 36]))
    draw = jax.jit(jax.vmap(lambda key: losses.federated(labels, valid, weights, key, count=5)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    more = slow.federated_draws({2, 7}, background=background, classes=5)
    assert np.all(drawn.sum(1) == 2 + more)
    assert drawn[:, [2, 7]].all() and not drawn[:, 1].any()


def test_federated_classes_are_drawn_in_the_ratio_of_their_weights():
    counts, labels = [4.0, 0, 9, 1, 16, 1, 25, 4, 4, 36], jnp.array([2, 7])
    draw = jax.jit(
        jax.vmap(lambda key: losses.federated(labels, labels >= 0, jnp.sqrt(jnp.array(counts)), key, count=3))
    )
    drawn = np.array(draw(jax.random.split(jax.random.key(1), 20_000)))
    drawn[:, [2, 7]] = False
    wanted = slow.federated_weights(counts, {2, 7})
    np.testing.assert_allclose(drawn.mean(0), wanted, atol=4 * 0.5 / 20_000**0.5)


def test_more_classes_there_than_asked_for_are_all_looked_at():
    labels = jnp.arange(6)
    drawn = losses.federated(labels, labels >= 0, jnp.ones(8), jax.random.key(0), count=4)
    assert drawn.tolist() == [True] * 6 + [False] * 2


def test_oracle_is_about_the_same_boxes(rng):
    a, b = random_boxes(rng, 5), random_boxes(rng, 5)
    wanted = [oracle.encode(x, y, slow.WEIGHTS) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(boxes.encode(jnp.asarray(b), jnp.asarray(a), weights=slow.WEIGHTS), wanted, rtol=1e-10)
