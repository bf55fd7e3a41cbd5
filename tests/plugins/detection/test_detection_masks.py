"""Crops, targets and pasted masks against loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spendflops_plugins.detection.masks import crop_masks, mask_targets, paste

JITTED = jax.jit(mask_targets, static_argnames="size")


def blobs(count, height, width, seed=0):
    """Masks of a few ellipses each, cut in two by a line, and their tight boxes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 0.5
    masks, boxes = [], []
    while len(masks) < count:
        mask = np.zeros((height, width), bool)
        for _ in range(rng.integers(1, 4)):
            cy, cx = rng.uniform(0, [height, width])
            ry, rx = np.exp(rng.uniform(np.log(3), np.log(30), 2))
            mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        mask &= np.abs(x + y - rng.uniform(0, height + width)) > 2
        if mask.sum() > 20:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            masks.append(mask)
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.stack(masks), np.asarray(boxes, np.float32)


def bilinear(image, y, x, rows, columns):
    """``image`` at (y, x), in units of pixels whose middles are whole numbers; held outside of rows and columns."""
    y, x = min(max(y, rows[0]), rows[1]), min(max(x, columns[0]), columns[1])
    total = 0.0
    for row in (int(y), int(y) + 1):
        for column in (int(x), int(x) + 1):
            weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
            if weight:
                total += weight * float(image[row, column])
    return total


def middles(start, stop, size):
    return [float(start) + (k + 0.5) * (float(stop) - float(start)) / size for k in range(size)]


def slow_crop(mask, box, size):
    left, top, right, bottom = (float(edge) for edge in box)
    rows, columns = ((0, extent - 1) for extent in mask.shape)
    return [
        [bilinear(mask, y - 0.5, x - 0.5, rows, columns) for x in middles(left, right, size)]
        for y in middles(top, bottom, size)
    ]


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_crops_against_a_loop(dtype):
    masks, boxes = blobs(12, 60, 80)
    boxes[6:] += np.random.default_rng(1).uniform(0, 2.9, (6, 4)) * [1, 1, -1, -1]
    boxes[4:6] = [[-9.5, -4, 50, 33], [40, 20, 95, 71.5]]  # beyond the image
    found = crop_masks(masks.astype(dtype), boxes, size=21)
    assert found.dtype == np.uint8 and found.shape == (12, 21, 21)
    want = np.asarray([slow_crop(mask, box, 21) for mask, box in zip(masks, boxes, strict=True)])
    clear = np.abs(want - 0.5) > 1e-5  # halves are decided by rounding
    assert clear.mean() > 0.95 and 0.3 < found.mean() < 0.9
    np.testing.assert_array_equal(found[clear], (want >= 0.5)[clear])


def test_a_half_counts_and_any_value_is_one():
    mask = np.asarray([[[0, 255], [255, 0]]], np.uint8)
    assert crop_masks(mask, np.asarray([[0, 0, 2, 2]], np.float32), size=1).tolist() == [[[1]]]
    assert crop_masks(mask, np.asarray([[0, 0, 2, 1]], np.float32), size=4)[0, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("box", [(0, 0, 9, 6), (3.25, 2.5, 7.75, 5.5), (-2, -3, 12, 9)])
def test_an_object_that_reaches_over_its_box_fills_its_crop(box):
    mask, (left, top, right, bottom) = np.zeros((1, 6, 9), np.uint8), box
    rows, columns = slice(max(0, int(top)), int(np.ceil(bottom))), slice(max(0, int(left)), int(np.ceil(right)))
    mask[0, rows, columns] = 1
    assert crop_masks(mask, np.asarray([box], np.float32), size=28).all()


def test_no_objects():
    assert crop_masks(np.zeros((0, 6, 9), np.uint8), np.zeros((0, 4), np.float32), size=5).shape == (0, 5, 5)
    pixel = np.zeros((1, 6, 9), bool)
    pixel[0, 0, 0] = True
    for padding in ([0, 0, 0, 0], [-8, -8, -4, -4]):
        assert crop_masks(pixel, np.asarray([padding], np.float32), size=5).all()


def slow_target(crop, truth, box, size):
    side, out = len(crop), np.zeros((size, size))
    left, top, right, bottom = (float(edge) for edge in truth)
    for p, y in enumerate(middles(box[1], box[3], size)):
        for q, x in enumerate(middles(box[0], box[2], size)):
            if left <= x < right and top <= y < bottom:
                place = [(y - top) / (bottom - top) * side - 0.5, (x - left) / (right - left) * side - 0.5]
                out[p, q] = bilinear(crop, *place, (0, side - 1), (0, side - 1))
    return out


def proposals(truth, count, seed):
    """Boxes around objects, jittered by up to a third of their sides."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(truth), count).astype(np.int32)
    extent = np.tile(truth[index, 2:] - truth[index, :2], 2)
    return (truth[index] + rng.uniform(-0.33, 0.33, (count, 4)) * extent).astype(np.float32), index


def test_targets_against_a_loop():
    crops = (np.random.default_rng(0).uniform(size=(5, 16, 16)) < 0.6).astype(np.uint8)
    truth = blobs(5, 60, 80)[1]
    boxes, index = proposals(truth, 30, 2)
    found = JITTED(crops, truth, boxes, index, size=9)
    assert found.dtype == jnp.float32 and found.shape == (30, 9, 9)
    want = np.asarray([slow_target(crops[i], truth[i], box, 9) for i, box in zip(index, boxes, strict=True)])
    clear = np.abs(want - 0.5) > 1e-4
    assert clear.mean() > 0.97 and (want == 0).mean() > 0.1
    np.testing.assert_array_equal(np.asarray(found)[clear], (want >= 0.5)[clear])
    twice = [np.stack([x, x]) for x in (crops, truth, boxes, index)]
    both = jax.vmap(lambda *row: JITTED(*row, size=9))(*twice)
    np.testing.assert_array_equal(both, np.stack([found, found]))


def test_a_whole_object_is_its_box():
    crops = jnp.ones((1, 28, 28), jnp.uint8)
    truth, boxes = jnp.asarray([[2, 2, 6, 8]], jnp.float32), jnp.asarray([[0, 0, 8, 8]], jnp.float32)
    want = np.zeros((8, 8))
    want[2:8, 2:6] = 1
    np.testing.assert_array_equal(JITTED(crops, truth, boxes, jnp.zeros(1, jnp.int32), size=8)[0], want)


def test_padding_has_no_target():
    crops, none = jnp.ones((1, 4, 4), jnp.uint8), jnp.zeros((1, 4))
    with jax.debug_nans(True):
        for boxes in (none, jnp.asarray([[-1.0, -1, 1, 1]])):
            assert not mask_targets(crops, none, boxes, jnp.zeros(1, jnp.int32), size=3).any()


def test_targets_from_crops_are_those_of_whole_masks():
    masks, truth = blobs(20, 120, 160, seed=3)
    boxes, index = proposals(truth, 200, 4)
    found = np.asarray(JITTED(crop_masks(masks, truth, size=112), truth, boxes, index, size=28))
    x, y = (boxes[:, k, None] + (np.arange(28) + 0.5) / 28 * (boxes[:, k + 2] - boxes[:, k])[:, None] for k in (0, 1))
    # The pixel below the middle of each bin, none outside of the image.
    column, row = np.floor(x).astype(int)[:, None, :], np.floor(y).astype(int)[:, :, None]
    inside = (column >= 0) & (column < 160) & (row >= 0) & (row < 120)
    want = masks[index[:, None, None], np.clip(row, 0, 119), np.clip(column, 0, 159)] & inside
    assert np.mean(found != want) < 0.02 < 0.2 < want.mean()


def slow_paste(probabilities, box, size):
    (h, w), (left, top, right, bottom) = probabilities.shape, (float(edge) for edge in box)
    out = np.zeros(size)
    for row, column in np.ndindex(*size):
        y, x = (row + 0.5 - top) / (bottom - top) * h - 0.5, (column + 0.5 - left) / (right - left) * w - 0.5
        for i in range(int(np.floor(y)), int(np.floor(y)) + 2):
            for j in range(int(np.floor(x)), int(np.floor(x)) + 2):
                if 0 <= i < h and 0 <= j < w:
                    out[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * float(probabilities[i, j])
    return out


@pytest.mark.parametrize("threshold", [0.5, 0.05, 0.8])
@pytest.mark.parametrize(
    "box",
    [(5.3, 4.1, 30.9, 22.7), (-8, -5.5, 12, 40), (3, 3, 4.1, 3.9), (0, 0, 40, 30), (50, 3, 70, 9), (20, 11, 20.2, 28)],
)
def test_pasted_masks_against_a_loop(box, threshold):
    probabilities = np.random.default_rng(0).uniform(size=(7, 5)).astype(np.float32)
    found = paste(probabilities, np.asarray(box, np.float32), (30, 40), threshold=threshold)
    assert found.dtype == bool and found.shape == (30, 40)
    want = slow_paste(probabilities, np.asarray(box, np.float32), (30, 40))
    clear = np.abs(want - threshold) > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], (want >= threshold)[clear])


def test_a_certain_mask_fills_its_box_and_one_without_area_shows_nothing():
    sure, want = np.ones((28, 28), np.float32), np.zeros((12, 12), bool)
    want[2:9, 3:7] = True
    # The value falls to a half at the edge of the box, but to a quarter in its corners.
    found = paste(sure, np.asarray([3, 2, 7, 9]), (12, 12))
    np.testing.assert_array_equal(found, want)
    for box in ([3, 2, 3, 9], [7, 9, 3, 2], [0, 0, 0, 0]):
        assert not paste(sure, np.asarray(box), (12, 12)).any()


def test_a_pixel_that_rounding_puts_on_the_end_of_the_last_cell():
    box = np.asarray([-4.2, 0, 31.860869565217396, 4])
    assert paste(np.ones((4, 11), np.float32), box, (4, 40), threshold=0.1).any()
