"""Non-maximum suppression against the greedy loop; T5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.nms import nms

CASES, SIZE = 1000, 40
JITTED = jax.jit(nms, static_argnames="threshold")


def keep(boxes, scores, *, threshold, valid=None, labels=None):
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid)
    found = JITTED(boxes, jnp.asarray(scores, jnp.float32), jnp.asarray(valid), threshold=threshold, labels=labels)
    assert found.dtype == bool
    return found.tolist()


A, B, C = [0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]


def test_t5_chain():
    assert keep([A, B, C], [0.9, 0.8, 0.7], threshold=0.4) == [True, False, True]
    assert keep([A, B, C], [0.9, 0.8, 0.7], threshold=0.45) == [True, True, True]


def test_t5_an_iou_at_the_threshold_is_not_above_it():
    assert keep([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], threshold=0.5) == [True, True]
    assert keep([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], threshold=0.499) == [True, False]


def test_t5_unsorted_input():
    assert keep([C, A, B], [0.7, 0.9, 0.8], threshold=0.4) == [True, True, False]
    assert keep([A, A], [0.1, 0.9], threshold=0.5) == [False, True]


def test_t5_the_first_of_equals_wins():
    assert keep([A, A, A], [0.5, 0.5, 0.5], threshold=0.5) == [True, False, False]
    assert keep([A, B, A], [0.0, 0.5, -0.0], threshold=0.5) == [True, True, False]


def test_t5_boxes_without_area_are_kept():
    assert keep([A, [5, 5, 5, 8], [5, 5, 5, 8], [9, 9, 2, 2]], [0.9, 0.8, 0.7, 0.6], threshold=0.1) == [True] * 4


def test_t5_padding():
    none = np.zeros((4, 4))
    assert keep(none, np.zeros(4), threshold=0.5, valid=[False] * 4) == [False] * 4
    assert keep([A, A, B], [0.9, 0.8, 0.7], threshold=0.4, valid=[False, True, False]) == [False, True, False]
    assert keep(none[:0], [], threshold=0.5) == []


def test_t5_coordinates_may_be_negative():
    boxes = np.asarray([A, B, C]) - 100
    assert keep(boxes, [0.9, 0.8, 0.7], threshold=0.4) == [True, False, True]


def test_labels_leave_each_other_alone():
    labels = jnp.asarray([3, 70_000, 3])
    assert keep([A, A, A], [0.7, 0.8, 0.9], threshold=0.5, labels=labels) == [False, True, True]


def test_a_chain_takes_as_many_rounds_as_it_has_links():
    steps = np.arange(65)[:, None] * np.asarray([4, 0, 4, 0])
    assert keep(A + steps, -np.arange(65.0), threshold=0.4) == [i % 2 == 0 for i in range(65)]


def greedy(boxes, scores, valid, threshold, labels):
    boxes = boxes.astype(np.float64)
    areas = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    kept, left = np.zeros(len(boxes), bool), valid.copy()
    while left.any():
        best = max(np.flatnonzero(left), key=lambda i: (scores[i], -i))
        kept[best], left[best] = True, False
        corner = np.maximum(boxes[best, :2], boxes[:, :2])
        extent = np.maximum(np.minimum(boxes[best, 2:], boxes[:, 2:]) - corner, 0)
        shared = extent[:, 0] * extent[:, 1]
        union = areas[best] + areas - shared
        left &= ~((shared > threshold * union) & (labels == labels[best]))
    return kept


def cases(seed):
    """Crowds. Half on a coarse grid with few scores: boxes coincide, scores tie, IoUs meet thresholds exactly."""
    rng = np.random.default_rng(seed)
    shape, half = (CASES, SIZE, 2), CASES // 2
    corner, extent = rng.uniform(-30, 10, shape), rng.uniform(20, 40, shape)
    scores = rng.uniform(size=(CASES, SIZE))
    corner[half:] = corner[half:] / 4 + 40 * rng.integers(0, 3, (half, SIZE, 1))
    corner[:half], extent[:half] = rng.integers(-4, 1, (half, SIZE, 2)), rng.integers(0, 6, (half, SIZE, 2))
    scores[:half] = np.round(scores[:half] * 8)
    boxes = np.concatenate([corner, corner + extent], axis=-1).astype(np.float32)
    labels = rng.integers(0, rng.integers(1, 4, (CASES, 1)), (CASES, SIZE))
    valid = rng.uniform(size=(CASES, SIZE)) < rng.choice([0, 0.3, 1], (CASES, 1), p=[0.05, 0.25, 0.7])
    return boxes, scores.astype(np.float32), valid, labels


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_t5_a_thousand_random_sets_are_those_of_the_greedy_loop(threshold):
    boxes, scores, valid, labels = cases(round(threshold * 10))
    batched = jax.jit(jax.vmap(lambda b, s, v, c: nms(b, s, v, threshold=threshold, labels=c)))
    found = np.asarray(batched(boxes, scores, valid, labels))
    rows = zip(boxes, scores, valid, labels, strict=True)
    want = np.stack([greedy(b, s, v, threshold, c) for b, s, v, c in rows])
    assert 0.2 < want.sum() / valid.sum() < 0.9 and not valid.any(axis=1).all()
    np.testing.assert_array_equal(found, want)


def test_no_gradient_goes_through_it():
    def loss(boxes, scores):
        kept = nms(boxes, scores, jnp.ones(3, bool), threshold=0.4)
        return jnp.where(kept, scores, 0).sum() + (boxes[:, 0] * kept).sum()

    boxes, scores = jnp.asarray([A, B, C], jnp.float32), jnp.asarray([0.9, 0.8, 0.7])
    to_boxes, to_scores = jax.jit(jax.grad(loss, argnums=(0, 1)))(boxes, scores)
    np.testing.assert_array_equal(to_scores, [1, 0, 1])
    np.testing.assert_array_equal(to_boxes, np.outer([1, 0, 1], [1, 0, 0, 0]))
