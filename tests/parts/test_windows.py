"""Windows over images against loops: where they lie, what overlaps, what a label pixel is given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import ArrayImage
from spendflops.parts.windows import (
    CenterCrop,
    Windows,
    classes_of_pixels,
    covering,
    label_map,
    mean_canvas,
    merge_windows,
    most_windows,
    window_begins,
)

MEAN = (0.2, 0.4, 0.6)


def coded(size, seed=0):
    """An image whose red channel is its label map."""
    mask = np.random.default_rng(seed).integers(0, 200, size, dtype=np.uint8)
    return {"image": ArrayImage(np.repeat(mask[..., None], 3, axis=-1)), "mask": mask}


def windows(**options):
    given = {"size": (8, 8), "windows": 6, "stride": (5, 5), "squash": False, "pixels": None, "mean": MEAN}
    return Windows(**{**given, "interpolation": "nearest", **options})


def slow_begins(extent, size, stride):
    """The loop of mmsegmentation's slide inference."""
    found = []
    for index in range(max(extent - size + stride - 1, 0) // stride + 1):
        end = min(index * stride + size, extent)
        found.append(max(end - size, 0))
    return found


def test_windows_cover_every_pixel_and_lie_as_in_the_loop():
    for extent in range(1, 60):
        for size, stride in ((8, 5), (8, 8), (8, 1), (12, 7)):
            begins = window_begins(extent, size, stride)
            assert begins == slow_begins(extent, size, stride)
            covered = np.zeros(max(extent, size), bool)
            for begin in begins:
                covered[begin : begin + size] = True
            assert covered.all()
    assert window_begins(683, 512, 341) == [0, 171] and len(window_begins(2048, 512, 341)) == 6
    assert most_windows((512, 512), (341, 341)) == 6


@pytest.mark.parametrize(
    "stored,expected",
    [((256, 512), (512, 1024)), ((683, 512), (683, 512)), ((480, 640), (512, 683)), ((100, 1000), (205, 2048))],
)
def test_the_shorter_side_gets_the_models_size_and_the_longer_one_has_a_limit(stored, expected):
    assert covering(stored, (512, 512)) == expected


@pytest.mark.parametrize("size", [(8, 8), (8, 13), (13, 8), (16, 8), (8, 32), (4, 60)])
def test_windows_show_the_image_and_the_labels_of_its_pixels(size):
    made, pre = windows()(coded(size)), windows()
    assert {n: (str(v.dtype), v.shape) for n, v in made.items()} == pre.entries
    extent, turned = made["extent"], bool(made["turned"])
    labels = made["mask"][: extent[0] * extent[1]].reshape(extent)
    assert np.all(made["mask"][labels.size :] == 255) and tuple(made["label_size"]) == tuple(extent)
    seen = np.zeros(extent, int)
    for image, offset, valid in zip(made["image"], made["offsets"], made["valid"], strict=True):
        top, left = (0, offset) if turned else (offset, 0)
        part = labels[top : top + 8, left : left + 8]
        np.testing.assert_array_equal(image[: part.shape[0], : part.shape[1], 0], part)
        np.testing.assert_array_equal(
            image[part.shape[0] :], np.broadcast_to(mean_canvas((1, 1), MEAN), (8, 8, 3))[part.shape[0] :]
        )
        seen[top : top + 8, left : left + 8] += valid
    assert np.all(seen > 0) and made["valid"].sum() == len(slow_begins(max(extent), 8, 5))


def test_what_does_not_fit_says_what_to_set():
    with pytest.raises(DataError, match="set windows = 4, or None"):
        windows(windows=2)(coded((8, 22)))
    with pytest.raises(DataError, match="set pixels = 176"):
        windows(pixels=175)(coded((8, 22)))
    with pytest.raises(ConfigError, match="stride"):
        windows(stride=(9, 9))
    with pytest.raises(ConfigError, match="0 windows"):
        windows(windows=0)
    with pytest.raises(DataError, match="9 x 8 pixels for an image of 22 x 8"):
        label_map(coded((8, 22)) | {"mask": np.zeros((8, 9), np.uint8)})


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (5, 30), (6, 4), (9, 8)])
def test_a_centre_crop_is_not_rescaled(size):
    pre, sample = CenterCrop(size=(8, 8), mean=MEAN), coded(size)
    made = pre(sample)
    assert {n: (str(v.dtype), v.shape) for n, v in made.items()} == pre.entries
    top, left = ((max(0, side - 8)) // 2 for side in size)
    part = sample["mask"][top : top + 8, left : left + 8]
    expected = np.full((8, 8), 255)
    expected[: part.shape[0], : part.shape[1]] = part
    np.testing.assert_array_equal(made["mask"], expected)
    np.testing.assert_array_equal(made["image"][..., 0][expected != 255], part.ravel())
    assert np.all(made["image"][expected == 255] == np.rint(255 * np.asarray(MEAN)))


def slow_merge(logits, begins, extent, turned):
    total, count = np.zeros((*extent, logits.shape[-1])), np.zeros((*extent, 1))
    for part, begin in zip(logits, begins, strict=False):
        for y, x in np.ndindex(part.shape[:2]):
            row, column = (y, x + begin) if turned else (y + begin, x)
            if row < extent[0] and column < extent[1]:
                total[row, column] += part[y, x]
                count[row, column] += 1
    return total / count


@pytest.mark.parametrize("size,extent", [((8, 8), (20, 8)), ((8, 8), (8, 21)), ((6, 8), (6, 17)), ((8, 6), (8, 11))])
def test_merging_equals_the_loop(size, extent):
    rng = np.random.default_rng(0)
    pre = windows(size=size, stride=(size[0] * 2 // 3, size[1] * 2 // 3), windows=5)
    turned = extent[1] > size[1]
    begins = slow_begins(extent[turned], size[turned], pre.stride[turned])
    # Whole numbers: sums are exact, XLA's quotient of them is within a unit of the last place.
    logits = rng.integers(-50, 50, (5, *size, 3)).astype(np.float32)
    offsets = np.pad(begins, (0, 5 - len(begins))).astype(np.int32)
    valid = np.arange(5) < len(begins)
    logits[~valid] = np.nan
    merged = jax.jit(lambda *a: merge_windows(*a, canvas=pre.canvas))(logits, offsets, valid, np.asarray(turned))
    merged = np.asarray(merged).swapaxes(0, 1) if turned else np.asarray(merged)
    expected = slow_merge(logits[valid], begins, extent, turned)
    np.testing.assert_allclose(merged[: extent[0], : extent[1]], expected, rtol=1.5e-7)
    assert len(begins) > 1 and np.isfinite(merged).all()


def slow_value(logits, y, x, size):
    """Bilinear, half-pixel centres, edges held."""
    height, width = logits.shape[:2]
    v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
    u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
    top, left = int(v), int(u)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = v - top, u - left
    upper = (1 - b) * logits[top, left] + b * logits[top, right]
    return (1 - a) * upper + a * ((1 - b) * logits[bottom, left] + b * logits[bottom, right])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [(9, 14), (30, 5), (3, 2), (6, 11)])
def test_label_pixels_read_the_bilinear_value(size, turned, monkeypatch):
    monkeypatch.setattr("spendflops.parts.windows.CHUNK", 32)
    rng = np.random.default_rng(1)
    extent = (6, 11)
    logits = rng.normal(size=(*extent, 4)).astype(np.float32)
    canvas = np.full((14, 14, 4), 1e9, np.float32)
    canvas[: extent[turned], : extent[not turned]] = logits.swapaxes(0, 1) if turned else logits
    found = classes_of_pixels(
        jnp.asarray(canvas), jnp.asarray(turned), jnp.asarray(extent), jnp.asarray(size), pixels=200
    )
    expected = [np.argmax(slow_value(logits.astype(np.float64), y, x, size)) for y, x in np.ndindex(size)]
    np.testing.assert_array_equal(found[: size[0] * size[1]], expected)
    assert found.shape == (200,)


def test_positions_of_large_maps_are_exact():
    # A ramp whose sign changes between two pixels of a map of 4,096 columns.
    extent, size = jnp.asarray((1, 2049)), jnp.asarray((1, 4096))
    ramp = (np.arange(2049) - 1024.0)[None, :, None] * np.array([0.0, 1.0])
    found = classes_of_pixels(jnp.asarray(ramp, jnp.float32), jnp.asarray(False), extent, size, pixels=4096)
    position = (np.arange(4096) + 0.5) * 2049 / 4096 - 0.5
    np.testing.assert_array_equal(found, position > 1024)
