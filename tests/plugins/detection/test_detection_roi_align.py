"""RoIAlign against single samples in float64; T4, and the levels of T9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.roi_align import levels_of, roi_align

from spendflops.contracts.errors import ConfigError

RAMP_BOX = (4.3, 2.6, 13.1, 11.9)
JITTED = jax.jit(roi_align, static_argnames=("strides", "size", "samples"))


def one(image, box, *, size, stride=1, samples=2):
    maps, boxes = [np.asarray(image, np.float32)[..., None]], np.asarray([box], np.float32)
    found = JITTED(maps, boxes, np.zeros(1, np.int32), strides=(stride,), size=size, samples=samples)
    return np.asarray(found)[0, ..., 0]


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_t4_ramp(samples):
    i, j = np.mgrid[:16, :20]
    found = one(3 + 2 * j - i, RAMP_BOX, size=7, samples=samples)
    assert found[0, 0] == pytest.approx(9.092857, abs=1e-5)
    left, top, right, bottom = RAMP_BOX
    x, y = (start + (np.arange(7) + 0.5) * (stop - start) / 7 for start, stop in ((left, right), (top, bottom)))
    np.testing.assert_allclose(found, 3 + 2 * (x - 0.5) - (y[:, None] - 0.5), atol=1e-5)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 20, 16), (19.5, 15.5, 20, 16), RAMP_BOX, (3, 3, 3, 3)])
def test_t4_a_constant_stays_within_the_image(box):
    np.testing.assert_allclose(one(np.ones((16, 20)), box, size=3), np.ones((3, 3)), rtol=1e-6)


def test_borders_are_held_for_half_a_cell_and_beyond_is_nothing():
    image = np.arange(1, 5)[None, :] * np.ones((4, 1))
    found = one(image, (-0.75, 1, 4.75, 2), size=11, samples=1)[5]  # middles at -0.5, 0, 0.5, ..., 4.5
    np.testing.assert_allclose(found, [1, 1, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4], rtol=1e-6)
    outside = one(image, (-3.5, 1, 0.5, 2), size=4, samples=1)[0]  # middles at -3, -2, -1, 0
    np.testing.assert_allclose(outside, [0, 0, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(one(image, (6, 1, 9, 2), size=2), np.zeros((2, 2)))
    np.testing.assert_array_equal(one(image.T, (1, 6, 2, 9), size=2), np.zeros((2, 2)))


def matrix(shapes, boxes, level, strides, size, samples):
    """float64 [R S S, cells of all maps]: the weight of each cell, one sample after the other."""
    begins = np.cumsum([0] + [h * w for h, w in shapes])
    out = np.zeros((len(boxes), size, size, begins[-1]))
    for r, (box, number) in enumerate(zip(np.asarray(boxes, np.float64), level, strict=True)):
        (height, width), (left, top, right, bottom) = shapes[number], box / strides[number] - 0.5
        for p, q, i, j in np.ndindex(size, size, samples, samples):
            y = top + (p + (i + 0.5) / samples) * (bottom - top) / size
            x = left + (q + (j + 0.5) / samples) * (right - left) / size
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            for row in {int(y), min(int(y) + 1, height - 1)}:
                for column in {int(x), min(int(x) + 1, width - 1)}:
                    weight = (1 - abs(y - row)) * (1 - abs(x - column)) / samples**2
                    out[r, p, q, begins[number] + row * width + column] += weight
    return out.reshape(-1, begins[-1])


SHAPES, STRIDES = [(24, 32), (12, 16), (6, 8), (1, 3)], (4, 8, 16, 40)


def pyramid(channels, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((*shape, channels)).astype(dtype) for shape in SHAPES]


def regions(count, seed=1):
    """Boxes of all sizes, a part of them beyond the image."""
    rng = np.random.default_rng(seed)
    extent = np.exp(rng.uniform(0, 5, (count, 2)))
    corner = rng.uniform(-20, [128, 96], (count, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1)
    boxes[0] = 0
    boxes[1] = [0, 0, 128, 96]
    return boxes.astype(np.float32), rng.integers(0, len(SHAPES), count).astype(np.int32)


@pytest.mark.parametrize("size, samples", [(7, 2), (3, 1), (2, 3)])
def test_against_single_samples_and_its_gradient_against_the_transpose(size, samples):
    maps, (boxes, level) = pyramid(5), regions(24)
    weights = matrix(SHAPES, boxes, level, STRIDES, size, samples)
    assert (weights.sum(axis=1) < 0.5).any() and np.isclose(weights.sum(axis=1), 1).any()
    want = weights @ np.concatenate([one.reshape(-1, 5) for one in maps]).astype(np.float64)
    run = lambda maps: JITTED(maps, boxes, level, strides=STRIDES, size=size, samples=samples)  # noqa: E731
    found, pull = jax.vjp(run, maps)
    assert found.shape == (24, size, size, 5)
    np.testing.assert_allclose(found.reshape(-1, 5), want, atol=2e-5)

    slope = np.random.default_rng(2).standard_normal(found.shape).astype(np.float32)
    back = np.concatenate([np.asarray(one).reshape(-1, 5) for one in pull(jnp.asarray(slope))[0]])
    want = weights.T @ slope.reshape(-1, 5).astype(np.float64)
    assert np.linalg.norm(back - want) < 1e-5 * np.linalg.norm(want)


def test_a_batch_of_images():
    maps = [np.stack(both) for both in zip(pyramid(3), pyramid(3, seed=9), strict=True)]
    boxes, level = (np.stack(both) for both in zip(regions(6), regions(6, seed=8), strict=True))

    def both(f):
        def run(*row):
            found, pull = jax.vjp(lambda *maps: f(maps, *row[-2:]), *row[:-2])
            return found, pull(jnp.sin(found))

        return jax.jit(run)

    single = lambda maps, boxes, level: roi_align(maps, boxes, level, strides=STRIDES, size=3)  # noqa: E731
    run = both(single)
    found, slopes = both(jax.vmap(single))(*maps, boxes, level)
    for image in range(2):
        want, want_slopes = run(*(one[image] for one in (*maps, boxes, level)))
        np.testing.assert_allclose(found[image], want, atol=1e-6)
        for batched, alone in zip(slopes, want_slopes, strict=True):
            np.testing.assert_allclose(batched[image], alone, atol=1e-5)


def test_boxes_have_no_gradient():
    boxes, level = regions(4)
    slope = jax.grad(lambda b: JITTED(pyramid(2), b, level, strides=STRIDES, size=2).sum())(boxes)
    np.testing.assert_array_equal(slope, np.zeros((4, 4)))


def test_a_box_reads_its_own_level_alone():
    maps = [
        np.full((*shape, 1), fill, np.float32) for shape, fill in zip(SHAPES, (np.inf, 1, np.inf, np.inf), strict=True)
    ]
    corners = np.asarray([[0, 0, 1, 1], [127, 95, 128, 96], [0, 0, 128, 96]], np.float32)
    found = JITTED(maps, corners, np.ones(3, np.int32), strides=STRIDES, size=2)
    np.testing.assert_allclose(found, np.ones((3, 2, 2, 1)), rtol=1e-6)


def test_half_precision_is_added_up_in_single_precision():
    maps = [jnp.asarray(one, jnp.bfloat16) for one in pyramid(4)]
    boxes, level = regions(200)
    run = lambda maps: JITTED(maps, boxes, level, strides=STRIDES, size=3)  # noqa: E731
    exact, pull = jax.vjp(run, [one.astype(jnp.float32) for one in maps])
    found, pull_half = jax.vjp(run, maps)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
    # A cell of the last map gets some thousand contributions: added in bfloat16, they would stop to count.
    ones = jnp.ones_like(found)
    for half, single in zip(pull_half(ones)[0], pull(ones.astype(jnp.float32))[0], strict=True):
        np.testing.assert_array_equal(half, single.astype(jnp.bfloat16))
    assert pull(ones.astype(jnp.float32))[0][-1].max() > 100


def test_nothing_is_larger_than_the_output_and_the_maps():
    channels, shapes = 64, [(64, 64), (32, 32)]
    maps = [jax.ShapeDtypeStruct((*shape, channels), jnp.float32) for shape in shapes]
    boxes = jax.ShapeDtypeStruct((100, 4), jnp.float32), jax.ShapeDtypeStruct((100,), jnp.int32)
    loss = lambda m, b, n: jnp.sin(roi_align(m, b, n, strides=(4, 8), size=7)).sum()  # noqa: E731
    used = jax.jit(jax.grad(loss)).lower(maps, *boxes).compile().memory_analysis().temp_size_in_bytes
    output, pyramid = 4 * channels * 100 * 49, 4 * channels * (64 * 64 + 32 * 32)
    assert used < 5 * output + 3 * pyramid < 16 * output  # 16 gathered cells a bin


def test_no_boxes():
    assert roi_align(pyramid(2), np.zeros((0, 4)), np.zeros(0, int), strides=STRIDES, size=3).shape == (0, 3, 3, 2)


def test_each_map_needs_a_stride():
    with pytest.raises(ConfigError, match="4 feature maps have 3 strides"):
        roi_align(pyramid(2), *regions(3), strides=(4, 8, 16), size=3)


def squares(sides):
    return jnp.asarray([[0, 0, side, side] for side in sides], jnp.float32)


def test_t9_levels():
    found = jax.jit(lambda b: levels_of(b, lowest=2, highest=5))(squares([111.9, 112, 223.9, 224, 448, 2000]))
    assert found.dtype == jnp.int32
    assert found.tolist() == [2, 3, 3, 4, 5, 5]
    assert levels_of(squares([0, 1, 1e4, -3]), lowest=2, highest=5).tolist() == [2, 2, 5, 2]


def test_levels_of_random_boxes():
    boxes = regions(500, seed=3)[0] * 8
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).astype(np.float64)
    for lowest, highest, size, canonical in ((2, 5, 224.0, 4), (0, 7, 100.0, 3), (3, 3, 224.0, 4)):
        want = np.floor(canonical + np.log2(np.sqrt(extent.prod(axis=1)) / size + 1e-8))
        found = levels_of(boxes, lowest=lowest, highest=highest, canonical_size=size, canonical_level=canonical)
        np.testing.assert_array_equal(found, np.clip(want, lowest, highest))
