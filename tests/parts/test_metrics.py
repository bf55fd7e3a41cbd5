"""Counts and IoU against loops; T1 and T6."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.parts import metrics

GT = [[[0, 0, 1, 1], [0, 255, 1, 2]], [[0, 0, 0, 0], [0, 0, 1, 255]]]
PR = [[[0, 1, 1, 1], [0, 0, 1, 2]], [[0, 0, 0, 0], [0, 1, 1, 0]]]


def slow_confusion(labels, predictions, classes, ignore=255):
    matrix = [[0] * classes for _ in range(classes)]
    for label, prediction in zip(np.ravel(labels), np.ravel(predictions), strict=True):
        if label != ignore:
            matrix[label][prediction] += 1
    return np.array(matrix)


def slow_miou(labels, predictions, classes):
    values = []
    for c in range(classes):
        both = either = 0
        for label, prediction in zip(np.ravel(labels), np.ravel(predictions), strict=True):
            if label != 255:
                both += label == c and prediction == c
                either += label == c or prediction == c
        if either:
            values.append(both / either)
    return sum(values) / len(values)


def both_ways(labels, predictions, classes):
    """The confusion matrix of the host and of the device, which must agree."""
    host = metrics.confusion_matrix(np.array(labels), np.array(predictions), classes)
    device = jax.jit(metrics.count_confusion, static_argnums=2)(jnp.asarray(labels), jnp.asarray(predictions), classes)
    assert device["confusion"].dtype == jnp.int32 and int(device["invalid"]) == 0
    assert host.dtype == np.int64 and (host == np.asarray(device["confusion"])).all()
    return host


def test_t1_miou():
    confusion = both_ways(GT, PR, 4)
    assert confusion.tolist() == [[7, 2, 0, 0], [0, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(metrics.iou(confusion), [7 / 9, 2 / 3, 1, np.nan], rtol=1e-15)
    scores = metrics.segmentation_scores(confusion)
    want = {"miou": 22 / 27, "pixel_accuracy": 12 / 14, "mean_accuracy": 25 / 27, "classes": 3}
    assert scores == pytest.approx(want, rel=1e-15) and abs(scores["miou"] - 0.814815) < 1e-6


@pytest.mark.parametrize("seed, classes", itertools.product(range(4), (2, 5, 11)))
def test_miou_of_random_maps(seed, classes):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, 3, 8, 9))
    labels[rng.random(labels.shape) < 0.2] = 255
    predictions[predictions == 1] = 0
    confusion = both_ways(labels.astype(np.uint8), predictions, classes)
    assert (confusion == slow_confusion(labels, predictions, classes)).all()
    assert abs(metrics.segmentation_scores(confusion)["miou"] - slow_miou(labels, predictions, classes)) < 1e-12
    order = rng.permutation(labels.size)
    again = both_ways(labels.ravel()[order], predictions.ravel()[order], classes)
    assert (again == confusion).all()
    parts = sum(metrics.confusion_matrix(a, b, classes) for a, b in zip(labels, predictions, strict=True))
    assert (parts == confusion).all()


def test_bounds():
    labels = np.array([0, 1, 1, 2])
    perfect = metrics.segmentation_scores(metrics.confusion_matrix(labels, labels, 3))
    assert perfect == {"miou": 1.0, "pixel_accuracy": 1.0, "mean_accuracy": 1.0, "classes": 3}
    worst = metrics.segmentation_scores(metrics.confusion_matrix(labels, (labels + 1) % 3, 3))
    assert worst == {"miou": 0.0, "pixel_accuracy": 0.0, "mean_accuracy": 0.0, "classes": 3}
    # In the predictions but never in the labels: IoU 0, and it counts.
    assert metrics.segmentation_scores(np.array([[3, 1], [0, 0]]))["miou"] == 0.375
    nothing = metrics.segmentation_scores(np.zeros((2, 2), int))
    assert all(math.isnan(nothing[k]) for k in ("miou", "pixel_accuracy", "mean_accuracy")) and nothing["classes"] == 0


def test_counts_beyond_float32_stay_exact():
    big = np.array([[2**24 + 1, 0], [1, 2**40]])
    assert metrics.iou(big).tolist() == [(2**24 + 1) / (2**24 + 2), 2**40 / (2**40 + 1)]


def test_labels_outside_are_noticed():
    labels, predictions = jnp.array([0, 1, 2, 255, -1]), jnp.zeros(5, int)
    counts = metrics.count_confusion(labels, predictions, 2)
    assert int(counts["invalid"]) == 2 and counts["confusion"].tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match="label 2 is not one of 2"):
        metrics.confusion_matrix(np.array([0, 2]), np.array([0, 0]), 2)
    with pytest.raises(ValueError, match="prediction 3"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([0, 3]), 2)


def test_counting_costs_no_flops():
    jaxpr = str(jax.make_jaxpr(lambda a, b: metrics.count_confusion(a, b, 4))(jnp.zeros(9, int), jnp.zeros(9, int)))
    assert "dot_general" not in jaxpr


def test_count_correct():
    logits = jnp.array([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0], [9.0, 0.0, 0.0], [jnp.nan, 0.0, 0.0]])
    labels = jnp.array([1, 0, 2, 1, 0])
    counts = metrics.count_correct(logits, labels, jnp.array([True, True, True, True, True]))
    assert {k: int(v) for k, v in counts.items()} == {"correct": 3, "count": 5, "invalid": 0}
    counts = metrics.count_correct(logits, jnp.array([1, 3, -1, 7, 0]), jnp.array([True, True, True, False, False]))
    assert {k: int(v) for k, v in counts.items()} == {"correct": 1, "count": 3, "invalid": 2}
    assert all(v.dtype == jnp.int32 for v in counts.values())


def test_t6_bilinear_upsampling():
    want = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(metrics.bilinear_matrix(4, 8) @ np.arange(4), want, atol=1e-15)
    down = metrics.bilinear_matrix(8, 4) @ np.arange(8)
    np.testing.assert_allclose(down, [0.5, 2.5, 4.5, 6.5], atol=1e-15)
    line = metrics.resize_scores(jnp.arange(4.0)[None, None, :, None], (1, 8))
    np.testing.assert_allclose(line[0, 0, :, 0], want, atol=1e-6)
    line = metrics.resize_scores(jnp.arange(8.0)[None, None, :, None], (1, 4))
    np.testing.assert_allclose(line[0, 0, :, 0], [0.5, 2.5, 4.5, 6.5], atol=1e-6)


@pytest.mark.parametrize("size, target", [(1, 4), (3, 3), (3, 7), (32, 512), (5, 2)])
def test_bilinear_matrix_is_what_jax_does(size, target):
    matrix = metrics.bilinear_matrix(size, target)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    x = np.random.default_rng(0).standard_normal(size)
    want = jax.image.resize(jnp.asarray(x, jnp.float32), (target,), "linear", antialias=False)
    np.testing.assert_allclose(matrix @ x, want, atol=2e-5)


def test_spread():
    assert metrics.spread([1.0, 2.0, 3.0]) == 1.0
    assert math.isnan(metrics.spread([1.0]))
