"""Masks that are remapped when decoded, and masks of instances, against loops over pixels."""

import pickle
import sys

import numpy as np
import PIL.Image
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import EncodedImage, decode_mask
from spendflops.parts.sources.masks import IGNORED, MaskedImages, StoredMask, instance_mask, label_table

TABLE = label_table({0: IGNORED, 1: 0, 2: 1})


def png(path, array):
    PIL.Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return str(path)


def runs_of(mask):
    """Run lengths in column-major order, zeros first, by a loop."""
    counts, now = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != now:
                counts.append(0)
                now = not now
            counts[-1] += 1
    return counts


def compressed(counts):
    """COCO's string, after the description of the format: 5 bits a character, the differences from the fourth on."""
    text = ""
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            done = rest == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def masks(count=40):
    rng = np.random.default_rng(0)
    for i in range(count):
        height, width = rng.integers(1, 90, 2)
        yield rng.random((height, width)) < (0, 1, 0.5, 0.02, 0.98)[i % 5]


def test_values_become_labels(tmp_path):
    stored = [[0, 1, 2], [2, 2, 0]]
    mask = StoredMask(EncodedImage(png(tmp_path / "m.png", stored)), TABLE)
    expected = np.array([[255, 0, 1], [1, 1, 255]], np.uint8)
    for each in (mask, pickle.loads(pickle.dumps(mask))):
        assert decode_mask(each).dtype == np.uint8
        np.testing.assert_array_equal(decode_mask(each), expected)
        np.testing.assert_array_equal(decode_mask(each), expected)  # once and for all: nothing is remapped twice
    assert "m.png" in repr(mask) and mask.name.endswith("m.png")


def test_a_palette_is_not_converted(tmp_path):
    image = PIL.Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="L").convert("P")
    image.putpalette([200, 10, 10, 5, 5, 5, 90, 90, 90])
    image.putdata([0, 1, 2, 1])
    image.save(tmp_path / "p.png")
    mask = StoredMask(EncodedImage(str(tmp_path / "p.png")), TABLE)
    np.testing.assert_array_equal(mask.decode_mask(), [[255, 0], [1, 0]])


@pytest.mark.parametrize("value", [3, 255])
def test_a_value_without_a_label(tmp_path, value):
    mask = StoredMask(EncodedImage(png(tmp_path / "m.png", [[0, value], [1, value]])), TABLE)
    with pytest.raises(DataError, match=rf"m\.png has the value {value}(.|\n)*2 pixel"):
        mask.decode_mask()


def test_a_mask_of_another_size_than_its_image(tmp_path):
    png(tmp_path / "i.png", np.zeros((4, 6, 3)))
    png(tmp_path / "m.png", np.ones((6, 4)))
    options = {"masks": ["m.png"], "table": TABLE}
    both = MaskedImages(str(tmp_path), ["i.png"], features=("image", "mask"), **options)
    with pytest.raises(DataError, match=r"m\.png is 4 x 6 pixels, its image 6 x 4(.|\n)*i\.png"):
        both[0]["mask"].decode_mask()
    # The image is not opened for it where it was not asked for.
    (tmp_path / "i.png").unlink()
    assert MaskedImages(str(tmp_path), ["i.png"], features=("mask",), **options)[0]["mask"].decode_mask().shape == (
        6,
        4,
    )


def test_a_source_opens_what_is_asked_for(tmp_path):
    png(tmp_path / "i.png", np.zeros((4, 6, 3)))
    source = MaskedImages(
        str(tmp_path), ["i.png"], features=("label", "image"), masks=["no.png"], columns={"label": np.array([7])}
    )
    assert list(source[0]) == ["label", "image"] and source[0]["label"] == 7 and type(source[0]["label"]) is int
    assert len(source) == 1 and str(tmp_path) in repr(source)
    for index in (1, -1):
        with pytest.raises(IndexError):
            source[index]


def test_run_lengths():
    for mask in masks():
        counts = runs_of(mask)
        for stored in (counts, compressed(counts)):
            got = instance_mask({"size": list(mask.shape), "counts": stored}, mask.shape)
            assert got.dtype == bool
            np.testing.assert_array_equal(got, mask)


def test_compressed_run_lengths_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        theirs = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
        assert compressed(runs_of(mask)) == theirs


def test_polygons_of_rectangles():
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = (int(n) for n in rng.integers(5, 24, 2))
        expected, polygons = np.zeros((height, width), bool), []
        for _ in range(int(rng.integers(1, 4))):
            left, right = sorted(int(n) for n in rng.choice(width + 1, 2, replace=False))
            top, bottom = sorted(int(n) for n in rng.choice(height + 1, 2, replace=False))
            polygons.append([left, top, right, top, right, bottom, left, bottom])
            for y in range(top, bottom):
                for x in range(left, right):
                    expected[y, x] = True
        np.testing.assert_array_equal(instance_mask(polygons, (height, width)), expected)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "no polygon"),
        (None, "no polygon"),
        ("abc", "no polygon"),
        ([[0, 0, 3, 3]], "three points"),  # pycocotools takes four numbers for a box
        ([[0, 0, 1, 1, 2, 2, 3]], "three points"),
        ([[0, 0, 2, 0, 2, 2], 5], "three points"),
        ([[0, 0, 2, 0, 2, "2"]], "no number"),
        ([[0, 0, 2, 0, 2, float("nan")]], "no number"),
        ([[[0, 0], [2, 0], [2, 2], [0, 0], [2, 0], [2, 2]]], "no number"),
        ([[0, 0, 1e9, 0, 1e9, 2]], "far outside"),
        ([[0, -5, 2, 0, 2, 2]], "far outside"),
        ({"size": [4, 4]}, "whole numbers"),
        ({"counts": [16]}, "size None"),
        ({"size": [3, 4], "counts": [12]}, r"size \[3, 4\]"),
        ({"size": [4, 4], "counts": [3, 14]}, "sum to 17"),
        ({"size": [4, 4], "counts": [10**12]}, "sum to 1000000000000"),
        ({"size": [4, 4], "counts": [17, -1]}, "none below 0"),
        ({"size": [4, 4], "counts": [16.0]}, "whole numbers"),
        ({"size": [4, 4], "counts": "@"}, "none below 0"),
        ({"size": [4, 4], "counts": "P"}, "within a number"),
        ({"size": [4, 4], "counts": "0 0"}, "character ' '"),
    ],
)
def test_odd_segmentations(segmentation, said):
    with pytest.raises(ValueError, match=said):
        instance_mask(segmentation, (4, 4))


def test_without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ConfigError, match=r"spendflops\[detection\]"):
        instance_mask([[0, 0, 2, 0, 2, 2]], (4, 4))
    np.testing.assert_array_equal(instance_mask({"size": [1, 2], "counts": [1, 1]}, (1, 2)), [[False, True]])
