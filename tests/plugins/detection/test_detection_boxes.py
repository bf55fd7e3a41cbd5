"""Boxes and anchors against loops; T9."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.anchors import anchors
from spendflops_plugins.detection.boxes import LIMIT, area, clip, decode, encode, pairwise_iou

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some(count, seed, *, extent=120):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-50, 150, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.5, extent, (count, 2))], axis=1).astype(np.float32)


def slow_iou(a, b):
    out = np.zeros((len(a), len(b)))
    for i, (l1, t1, r1, b1) in enumerate(np.asarray(a, np.float64)):
        for j, (l2, t2, r2, b2) in enumerate(np.asarray(b, np.float64)):
            shared = max(0, min(r1, r2) - max(l1, l2)) * max(0, min(b1, b2) - max(t1, t2))
            both = max(0, r1 - l1) * max(0, b1 - t1) + max(0, r2 - l2) * max(0, b2 - t2) - shared
            out[i, j] = shared / both if both else 0
    return out


def test_areas():
    found = area(jnp.asarray([[[0, 0, 10, 5], [2, 3, 2, 9]], [[5, 5, 4, 4], [-4, -4, -1, -2]]], jnp.float32))
    np.testing.assert_array_equal(found, [[50, 0], [0, 6]])  # two negative extents are no area


def test_iou_against_a_loop():
    a, b = some(40, 0), some(25, 1)
    want = slow_iou(a, b)
    assert (want > 0.1).sum() > 50 and (want == 0).sum() > 50
    np.testing.assert_allclose(jax.jit(pairwise_iou)(a, b), want, atol=3e-6)
    np.testing.assert_array_equal(pairwise_iou(a[:0], b), np.zeros((0, 25)))
    both = jax.vmap(pairwise_iou)(jnp.stack([a[:20], a[20:]]), jnp.stack([b, b]))
    np.testing.assert_allclose(both.reshape(40, 25), want, atol=3e-6)


def test_boxes_without_area_overlap_nothing_and_have_gradients():
    a = jnp.asarray([[0, 0, 10, 10], [3, 3, 3, 8], [0, 0, 0, 0], [9, 9, 2, 2]], jnp.float32)
    found, pull = jax.vjp(jax.jit(lambda x: pairwise_iou(x, x)), a)
    np.testing.assert_array_equal(found, np.diag([1, 0, 0, 0]))
    assert np.isfinite(pull(jnp.ones((4, 4)))[0]).all()


def test_gradients_of_the_iou_are_differences():
    a, b = some(6, 2).astype(np.float64), some(5, 3)
    weights = np.random.default_rng(4).standard_normal((6, 5))
    found = jax.jit(jax.grad(lambda a: (pairwise_iou(a, b) * weights).sum()))(jnp.asarray(a, jnp.float32))
    want = np.zeros_like(a)
    for place in np.ndindex(*a.shape):
        step = np.zeros_like(a)
        step[place] = 1e-6
        want[place] = ((slow_iou(a + step, b) - slow_iou(a - step, b)) * weights).sum() / 2e-6
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_t9_deltas():
    anchor, box = jnp.asarray([0, 0, 10, 10], jnp.float32), jnp.asarray([5, 5, 25, 25], jnp.float32)
    np.testing.assert_allclose(jax.jit(encode)(box, anchor), [1, 1, math.log(2), math.log(2)], rtol=1e-6)
    found = encode(box, anchor, weights=WEIGHTS)
    np.testing.assert_allclose(found, [10, 10, 3.465736, 3.465736], rtol=1e-6)
    np.testing.assert_allclose(decode(found, anchor, weights=WEIGHTS), box, rtol=1e-6)


def test_deltas_against_a_loop_and_back():
    boxes, starts = some(50, 5), some(50, 6)
    want = []
    for (l1, t1, r1, b1), (l2, t2, r2, b2) in zip(boxes.astype(float), starts.astype(float), strict=True):
        w, h = r2 - l2, b2 - t2
        shift = [((l1 + r1) - (l2 + r2)) / 2 / w * 10, ((t1 + b1) - (t2 + b2)) / 2 / h * 10]
        want.append([*shift, math.log((r1 - l1) / w) * 5, math.log((b1 - t1) / h) * 5])
    found = jax.jit(lambda a, b: encode(a, b, weights=WEIGHTS))(boxes, starts)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    back = decode(found.reshape(5, 10, 4), jnp.asarray(starts).reshape(5, 10, 4), weights=WEIGHTS, limit=10)
    np.testing.assert_allclose(back.reshape(50, 4), boxes, rtol=1e-4, atol=1e-3)


def test_padding_has_deltas_of_zero():
    real, none = [2, 2, 6, 8], [0, 0, 0, 0]
    boxes = jnp.asarray([none, real, none, real, [3, 3, 9, 3]], jnp.float32)
    starts = jnp.asarray([real, none, none, real, real], jnp.float32)
    np.testing.assert_array_equal(encode(boxes, starts), np.zeros((5, 4)))
    for slope in jax.jit(jax.grad(lambda b, a: encode(b, a).sum(), argnums=(0, 1)))(boxes, starts):
        assert np.isfinite(slope).all()


def test_large_deltas_are_cut_off_after_the_weights():
    anchor = jnp.asarray([0, 0, 16, 16], jnp.float32)
    huge = jnp.asarray([0, 0, 1e4, 1e4], jnp.float32)
    np.testing.assert_allclose(decode(huge, anchor), [-492, -492, 508, 508], rtol=1e-5)
    assert abs(LIMIT - 4.135) < 1e-3
    below = jnp.asarray([0, 0, 4.0 * 5, -200], jnp.float32)  # 4 once divided; far below is left as it is
    half = 8 * math.exp(4)
    np.testing.assert_allclose(decode(below, anchor, weights=WEIGHTS), [8 - half, 8, 8 + half, 8], rtol=1e-5)
    narrow = decode(huge, anchor, limit=math.log(2))
    np.testing.assert_allclose(narrow, [-8, -8, 24, 24], rtol=1e-6)


def test_deltas_of_half_precision_give_boxes_of_single_precision():
    anchor = jnp.asarray([[100, 0, 900, 8]], jnp.float32)
    found = decode(jnp.asarray([[1, 0, 0, 0]], jnp.bfloat16), anchor, weights=WEIGHTS)  # a tenth is none of bfloat16
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [[180, 0, 980, 8]], rtol=1e-6)


def test_boxes_are_clipped_to_the_image():
    boxes = jnp.asarray([[-5, -3, 400, 90], [700, 20, 800, 30], [1, 2, 3, 4]], jnp.float32)
    np.testing.assert_array_equal(clip(boxes, (80, 640)), [[0, 0, 400, 80], [640, 20, 640, 30], [1, 2, 3, 4]])


def test_t9_anchors():
    found = anchors((1, 1), 4, size=32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], [-45.2548 / 2, -22.6274 / 2, 45.2548 / 2, 22.6274 / 2], rtol=1e-5)
    np.testing.assert_array_equal(found[1], [-16, -16, 16, 16])
    np.testing.assert_array_equal(found[2], found[0][[1, 0, 3, 2]])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_against_a_loop(offset):
    want = []
    for row in range(3):
        for column in range(5):
            for ratio in (0.25, 1, 3):
                w, h = 20 / math.sqrt(ratio), 20 * math.sqrt(ratio)
                x, y = (column + offset) * 8, (row + offset) * 8
                want.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    found = anchors((3, 5), 8, size=20, ratios=(0.25, 1, 3), offset=offset)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-5)


def test_t15_a_pyramid_over_1024_pixels_has_261888_anchors():
    assert sum(len(anchors((1024 // s, 1024 // s), s, size=8 * s)) for s in (4, 8, 16, 32, 64)) == 261_888
