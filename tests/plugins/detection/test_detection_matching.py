"""Matching against a loop over the matrix of all overlaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.anchors import anchors
from spendflops_plugins.detection.matching import match

from spendflops.contracts.errors import ConfigError

JITTED = jax.jit(match, static_argnames=("low", "high", "low_quality"))


def overlap_of(a, b):
    extent = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]), 0)
    shared = extent[..., 0] * extent[..., 1]
    areas = [np.maximum(x[:, 2] - x[:, 0], 0) * np.maximum(x[:, 3] - x[:, 1], 0) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


def slow(boxes, truth, valid, low, high, low_quality):
    there = np.flatnonzero(valid)
    matrix = overlap_of(boxes.astype(np.float64), truth.astype(np.float64))
    index, overlap, label = (np.zeros(len(boxes)) for _ in range(3))
    for i in range(len(boxes)):
        if len(there):
            index[i] = there[np.argmax(matrix[i, there])]
            overlap[i] = matrix[i, there].max()
        label[i] = 1 if overlap[i] >= high else 0 if overlap[i] < low else -1
        if low_quality and any(matrix[i, j] == matrix[:, j].max() > 0 for j in there):
            label[i] = 1
    return index, overlap, label


@pytest.mark.parametrize("low, high, low_quality", [(0.3, 0.7, True), (0.3, 0.7, False), (0.5, 0.5, False)])
def test_against_a_loop(low, high, low_quality):
    run = jax.jit(jax.vmap(lambda b, t, v: match(b, t, v, low=low, high=high, low_quality=low_quality)))
    # Whole numbers: areas are exact in float32, so that overlaps tie in both or in none.
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 9, (40, 70, 2))
    every = np.concatenate([corner, corner + rng.integers(0, 12, (40, 70, 2))], axis=2).astype(np.float32)
    boxes, truth = every[:, :60], every[:, 60:]
    valid = rng.uniform(size=(40, 10)) < rng.choice([0, 0.5, 1], (40, 1))
    found = run(boxes, truth, valid)
    want = [slow(*row, low, high, low_quality) for row in zip(boxes, truth, valid, strict=True)]
    index, overlap, label = (np.stack(column) for column in zip(*want, strict=True))
    assert all((label == kind).sum() > 20 for kind in ((1, 0) if low == high else (1, 0, -1)))
    assert [one.dtype for one in found] == [jnp.int32, jnp.float32, jnp.int8]
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.overlap, overlap, rtol=1e-6)
    np.testing.assert_array_equal(found.label, label)


def one(boxes, truth, valid=None, **options):
    boxes, truth = (np.asarray(x, np.float32).reshape(-1, 4) for x in (boxes, truth))
    valid = np.ones(len(truth), bool) if valid is None else np.asarray(valid)
    found = JITTED(boxes, truth, valid, **{"low": 0.3, "high": 0.7, "low_quality": True, **options})
    return found.index.tolist(), found.overlap.tolist(), found.label.tolist()


def test_thresholds_belong_to_the_upper_side():
    box, halves = [0, 0, 8, 8], [[0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 2], [0, 0, 8, 1]]
    assert one(halves, box, low=0.25, high=0.5, low_quality=False)[2] == [1, 1, -1, 0]


def test_the_first_of_equal_objects_is_matched():
    index, overlap, _ = one([[0, 0, 4, 4]], [[9, 9, 12, 12], [0, 0, 4, 8], [0, 0, 8, 4]])
    assert (index, overlap) == ([1], [0.5])


def test_a_favourite_keeps_the_object_that_it_overlaps_most():
    # The second object's best box is the first one, whose own best is the first object.
    boxes, truth = [[0, 0, 10, 10], [40, 40, 50, 50]], [[0, 0, 10, 8], [0, 8, 10, 14]]
    index, overlap, label = one(boxes, truth, high=0.9)
    assert index == [0, 0] and label == [1, 0]
    np.testing.assert_allclose(overlap, [0.8, 0])
    assert one(boxes, truth, high=0.9, low_quality=False)[2] == [-1, 0]


def test_all_boxes_that_tie_are_favourites_and_none_without_overlap():
    boxes = [[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [20, 20, 24, 24]]
    assert one(boxes, [[0, 0, 8, 8]])[2] == [1, 1, 1, 0]
    assert one(boxes, [[50, 50, 58, 58]])[2] == [0, 0, 0, 0]


def test_padding_matches_nothing():
    boxes = [[0, 0, 4, 4], [1, 1, 5, 5]]
    assert one(boxes, [[0, 0, 4, 4], [1, 1, 5, 5]], [False, True])[0] == [1, 1]
    assert one(boxes, [[0, 0, 4, 4]], [False]) == ([0, 0], [0, 0], [0, 0])
    assert one(boxes, np.zeros((0, 4))) == ([0, 0], [0, 0], [0, 0])
    assert one(np.zeros((0, 4)), [[0, 0, 4, 4]]) == ([], [], [])
    assert one(np.zeros((2, 4)), np.zeros((2, 4)))[2] == [0, 0]


def test_every_object_has_a_favourite_among_many_anchors():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 180, (100, 2))
    truth = np.concatenate([corner, corner + rng.uniform(4, 70, (100, 2))], axis=1).astype(np.float32)
    grid = np.concatenate([anchors((256 // s, 256 // s), s, size=8 * s) for s in (4, 8, 16)])
    found = jax.jit(lambda t, v: match(grid, t, v, low=0.3, high=2.0, low_quality=True))(truth, np.ones(100, bool))
    matrix = overlap_of(grid.astype(np.float64), truth.astype(np.float64))
    assert (np.asarray(found.label)[matrix.argmax(axis=0)] == 1).all()
    np.testing.assert_allclose(found.overlap, matrix.max(axis=1), atol=1e-5)


def test_the_matrix_of_all_overlaps_is_never_there():
    kinds = (((20_000, 4), jnp.float32), ((100, 4), jnp.float32), ((100,), bool))
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in kinds]
    program = jax.jit(lambda b, t, v: match(b, t, v, low=0.3, high=0.7, low_quality=True)).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 20_000 * 4 * 20


def test_no_gradient_goes_through_it():
    boxes, truth = jnp.asarray([[0.0, 0, 4, 4]]), jnp.asarray([[0.0, 0, 4, 5]])
    loss = lambda b, t: match(b, t, jnp.ones(1, bool), low=0.3, high=0.7, low_quality=True).overlap.sum()  # noqa: E731
    for slope in jax.grad(loss, argnums=(0, 1))(boxes, truth):
        np.testing.assert_array_equal(slope, np.zeros((1, 4)))


def test_thresholds_that_cross_are_refused():
    with pytest.raises(ConfigError, match=r"negative below 0\.7 and positive from 0\.3"):
        one([[0, 0, 1, 1]], [[0, 0, 1, 1]], low=0.7, high=0.3)
