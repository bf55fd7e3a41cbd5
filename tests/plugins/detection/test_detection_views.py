"""Large-scale jitter: pixels, boxes and masks against loops over an affine map, and what is left out and counted."""

from __future__ import annotations

import pickle

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.detection.views import DetectionViews
from spendflops_plugins.shapes import Shapes

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import InputSpec
from spendflops.parts.images import ArrayImage
from spendflops.testing.samples import KitData

MEAN = (0.485, 0.456, 0.406)
CLASSES = tuple("abcdefghij")
SIZES = [(40, 52), (31, 64), (64, 64), (90, 33)]


def spec(height=48, width=64, classes=CLASSES):
    return InputSpec(size=(height, width), stride=(8, 8), mean=MEAN, std=(1,) * 3, box_classes=classes)


def blobs(rng, size, count):
    """Masks of random discs, some of them cut off by the image's edge, some of two parts."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        for _ in range(rng.integers(1, 3)):
            cy, cx, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 12)
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    return masks


def sample(seed=0, size=(40, 52), count=5, **given):
    """A scene whose pixels are white where an object is, on noise that is dark."""
    rng = np.random.default_rng(seed)
    masks = given.pop("instance_masks", None)
    masks = blobs(rng, size, count) if masks is None else masks
    pixels = rng.integers(0, 60, (*masks.shape[1:], 3), dtype=np.uint8)
    pixels[masks.any(axis=0)] = 255
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    made = {
        "image": ArrayImage(pixels),
        "boxes": boxes,
        "box_labels": np.arange(len(masks), dtype=np.int32) % len(CLASSES),
        "crowd": np.zeros(len(masks), bool),
        "instance_masks": masks,
    }
    return made | given


def made(given, seed=0, to=None, **options):
    views = DetectionViews(**options)
    return views({name: given[name] for name in views.features}, np.random.default_rng(seed), to or spec())


def rectangles(size, *boxes):
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def window(seed, stored, canvas, scale=(0.1, 2.0), flip=0.5):
    """What is drawn: size of the resized image, begin and size of the crop, flipped."""
    rng = np.random.default_rng(seed)
    factor = rng.uniform(*scale)
    factor *= min(canvas[0] / stored[0], canvas[1] / stored[1])
    whole = [max(1, round(factor * side)) for side in stored]
    size = [min(a, b) for a, b in zip(whole, canvas, strict=True)]
    begin = rng.integers(np.array(whole) - size + 1)
    return whole, begin, size, rng.random() < flip


@pytest.mark.parametrize("stored", SIZES)
def test_pixels_are_those_of_a_crop_of_the_resized_image(stored):
    canvas = (48, 64)
    for seed in range(12):
        given = sample(seed, stored)
        whole, begin, size, flipped = window(seed, stored, canvas)
        resized = PIL.Image.fromarray(given["image"].array).resize(whole[::-1], PIL.Image.Resampling.BILINEAR)
        part = np.asarray(resized)[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
        expected = np.empty((*canvas, 3), np.uint8)
        expected[:] = np.rint(255 * np.array(MEAN))
        expected[: size[0], : size[1]] = part[:, ::-1] if flipped else part
        got = made(given, seed)["image"]
        assert got.dtype == np.uint8 and got.shape == expected.shape
        # Pillow rounds after each axis, and may take the other one first.
        off = np.abs(got.astype(int) - expected)
        assert off.max() <= 2 and off.mean() < 0.4 and (off > 1).mean() < 1e-3


def slow_box(mask, whole, begin, size, flipped):
    """The box of all pixels of a mask on the canvas: every pixel's corners by the affine map, cut off at the window."""
    down, along = whole[0] / mask.shape[0], whole[1] / mask.shape[1]
    edges = []
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if not mask[y, x]:
                continue
            top, bottom = (np.clip(v * down - begin[0], 0, size[0]) for v in (y, y + 1))
            left, right = (np.clip(v * along - begin[1], 0, size[1]) for v in (x, x + 1))
            if bottom > top and right > left:
                edges.append((size[1] - right, top, size[1] - left, bottom) if flipped else (left, top, right, bottom))
    if not edges:
        return None
    edges = np.array(edges)
    return np.concatenate([edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)])


@pytest.mark.parametrize("stored", SIZES)
def test_boxes_are_those_of_what_the_crop_leaves_of_the_masks(stored):
    dropped = 0
    for seed in range(10):
        given = sample(seed, stored)
        drawn = window(seed, stored, (48, 64))
        found = [(label, slow_box(mask, *drawn)) for label, mask in enumerate(given["instance_masks"])]
        found = [(label, box) for label, box in found if box is not None]
        got = made(given, seed)
        assert got["valid"].sum() == len(found) and got["dropped"].tolist() == [0, 5 - len(found), 0]
        assert got["box_labels"][got["valid"]].tolist() == [label for label, _ in found]
        expected = np.array([box for _, box in found]).reshape(-1, 4)
        np.testing.assert_allclose(got["boxes"][got["valid"]], expected, atol=2e-5)
        assert got["boxes"].min() >= 0 and (got["boxes"] <= (64, 48, 64, 48)).all()
        dropped += 5 - len(found)
    assert dropped  # some objects lie outside of some crops


def slow_crop(mask, box, size):
    """float64 [size size]: the mask between its pixel centres, at the centres of bins."""
    values = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y = box[1] + (i + 0.5) * (box[3] - box[1]) / size - 0.5
            x = box[0] + (j + 0.5) * (box[2] - box[0]) / size - 0.5
            for row in range(int(np.floor(y)), int(np.floor(y)) + 2):
                for column in range(int(np.floor(x)), int(np.floor(x)) + 2):
                    inside = mask[min(max(row, 0), mask.shape[0] - 1), min(max(column, 0), mask.shape[1] - 1)]
                    values[i, j] += (1 - abs(y - row)) * (1 - abs(x - column)) * inside
    return values


@pytest.mark.parametrize("boxes_from", ["masks", "boxes"])
def test_masks_are_of_the_boxes_that_the_crop_leaves(boxes_from):
    """A mask is what a slow crop of the stored mask is, at its box mapped back by the affine map."""
    compared = 0
    for seed in range(6):
        given = sample(seed, (40, 52))
        whole, begin, size, flipped = window(seed, (40, 52), (48, 64), (1.2, 2.0))
        got = made(given, seed, scale=(1.2, 2.0), boxes_from=boxes_from, mask_size=9)
        for box, label, cropped in zip(*(got[n][got["valid"]] for n in ("boxes", "box_labels", "masks")), strict=True):
            left, top, right, bottom = box.astype(np.float64)
            left, right = (size[1] - right, size[1] - left) if flipped else (left, right)
            along, down = 52 / whole[1], 40 / whole[0]
            back = (
                (left + begin[1]) * along,
                (top + begin[0]) * down,
                (right + begin[1]) * along,
                (bottom + begin[0]) * down,
            )
            value = slow_crop(given["instance_masks"][label], back, 9)
            clear = np.abs(value - 0.5) > 1e-4
            np.testing.assert_array_equal((cropped[:, ::-1] if flipped else cropped)[clear], value[clear] > 0.5)
            compared += 1
    assert compared > 10


def test_boxes_never_leave_the_canvas():
    full = sample(instance_masks=np.ones((1, 57, 39), bool))
    for seed in range(200):
        box = made(full, seed, mask_size=0)["boxes"][0]
        assert box.min() >= 0 and (box <= (64, 48, 64, 48)).all(), seed


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_image_boxes_and_masks_show_the_same(flip):
    """The middles of a mask's bins, mapped into the image by its box, are white where the mask says so."""
    agree = []
    for seed in range(8):
        got = made(sample(seed, (60, 80), 1), seed, scale=(0.8, 2.0), flip=flip, mask_size=24)
        left, top, right, bottom = got["boxes"][0]
        if min(right - left, bottom - top) < 5:
            continue
        rows = np.floor(top + (np.arange(24) + 0.5) * (bottom - top) / 24).astype(int)
        columns = np.floor(left + (np.arange(24) + 0.5) * (right - left) / 24).astype(int)
        white = got["image"][rows[:, None], columns, 0] > 150
        agree.append((white == got["masks"][0]).mean())
        assert set(np.unique(got["masks"])) <= {0, 1} and got["masks"][0].any()
    assert len(agree) > 3 and np.mean(agree) > 0.93 and min(agree) > 0.85


def test_a_flip_mirrors_all_of_it_and_undoes_itself():
    for seed in range(6):
        given = sample(seed, (40, 52))
        plain, turned = (made(given, seed, flip=flip) for flip in (0.0, 1.0))
        _, _, (height, width), _ = window(seed, (40, 52), (48, 64))
        np.testing.assert_array_equal(turned["image"][:height, :width], plain["image"][:height, :width][:, ::-1])
        np.testing.assert_array_equal(turned["image"][height:], plain["image"][height:])
        count = plain["valid"].sum()
        assert turned["valid"].sum() == count
        back = turned["boxes"][:count].copy()
        back[:, [0, 2]] = width - back[:, [2, 0]]
        np.testing.assert_allclose(back, plain["boxes"][:count], atol=1e-5)
        np.testing.assert_array_equal(turned["masks"][:, :, ::-1], plain["masks"])
        # Of an image that is mirrored before, the flip makes the image that it was.
        mirrored = given | {
            "image": ArrayImage(np.ascontiguousarray(given["image"].array[:, ::-1])),
            "instance_masks": given["instance_masks"][:, :, ::-1],
        }
        once, twice = (made(x, seed, flip=f, scale=(0.5, 1.0)) for x, f in ((given, 0.0), (mirrored, 1.0)))
        assert np.abs(once["image"].astype(int) - twice["image"]).max() <= 1
        np.testing.assert_allclose(once["boxes"], twice["boxes"], atol=1e-5)


def test_the_generator_alone_decides():
    given = sample(3)
    views = DetectionViews()
    first, again = (views(given, np.random.default_rng(5), spec()) for _ in range(2))
    other = pickle.loads(pickle.dumps(views))(given, np.random.default_rng(6), spec())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["image"], other["image"])


def test_scales_and_crops_are_uniform():
    """A white image tells by its extent how it was scaled; one column that is white tells where it was cropped."""
    white = sample(instance_masks=np.ones((1, 30, 40), bool))
    sides = np.array([made(white, seed, scale=(0.2, 0.9), flip=0.0)["boxes"][0, 2] for seed in range(1000, 1300)])
    assert 12 <= sides.min() < 16 and 54 < sides.max() <= 58 and abs(sides.mean() - 0.55 * 64) < 2
    mark = sample(instance_masks=rectangles((48, 64), (32, 0, 33, 48)))
    places = [made(mark, seed, scale=(2.0, 2.0), flip=0.0)["boxes"][0, 0] for seed in range(200)]
    # The column lies at 64 of 128 pixels; the crop begins anywhere from 0 to 64.
    assert min(places) < 4 and max(places) > 60 and abs(np.mean(places) - 32) < 5
    for seed in range(3):
        got = made(sample(seed, (24, 64)), seed, scale=(1.0, 1.0))
        assert (got["image"][24:] == np.rint(255 * np.array(MEAN))).all() and got["dropped"].sum() == 0


def test_more_objects_than_the_padding():
    sides = (4, 9, 7, 9, 3, 9)
    masks = rectangles((40, 80), *((12 * i, 10, 12 * i + side, 10 + side) for i, side in enumerate(sides)))
    got = made(sample(instance_masks=masks), objects=3, scale=(1.0, 1.0))
    # The largest ones; of equal ones the first; in their order.
    assert got["box_labels"].tolist() == [1, 3, 5] and got["valid"].all() and got["dropped"].tolist() == [3, 0, 0]
    got = made(sample(instance_masks=masks), objects=2, scale=(1.0, 1.0))
    assert got["box_labels"].tolist() == [1, 3] and got["dropped"].tolist() == [4, 0, 0]
    got = made(sample(instance_masks=masks), objects=8, scale=(1.0, 1.0))
    assert got["valid"].tolist() == [True] * 6 + [False] * 2 and got["dropped"].tolist() == [0, 0, 0]
    for name in ("boxes", "box_labels", "masks"):
        assert not got[name][6:].any() and len(got[name]) == 8


def test_crowds_are_no_objects():
    given = sample(count=4, crowd=np.array([False, True, False, True]))
    got = made(given, scale=(1.0, 1.0))
    assert got["box_labels"][:2].tolist() == [0, 2] and got["valid"].sum() == 2 and got["dropped"].tolist() == [0, 0, 2]
    # They take no place from objects.
    got = made(given, scale=(1.0, 1.0), objects=2)
    assert got["valid"].sum() == 2 and got["dropped"].tolist() == [0, 0, 2]
    got = made(given, scale=(1.0, 1.0), crowd=False)
    assert got["valid"].sum() == 4 and "crowd" not in DetectionViews(crowd=False).features
    with pytest.raises(KeyError):
        DetectionViews()({name: given[name] for name in given if name != "crowd"}, np.random.default_rng(0), spec())


def test_an_image_without_objects():
    for boxes_from in ("masks", "boxes"):
        got = made(sample(count=0), boxes_from=boxes_from)
        assert not got["valid"].any() and got["dropped"].tolist() == [0, 0, 0]
        for name in ("boxes", "box_labels", "masks"):
            assert not got[name].any() and np.isfinite(got[name]).all()


def test_objects_that_vanish_are_counted():
    masks = rectangles((48, 64), (0, 0, 2, 2), (62, 46, 64, 48), (5, 5, 5, 5), (0, 0, 64, 48))
    seen = set()
    for seed in range(12):
        got = made(sample(instance_masks=masks), seed, scale=(2.0, 2.0))
        assert got["dropped"][1] == 4 - got["valid"].sum() >= 2  # the empty mask, and one of two opposite corners
        assert 2 not in got["box_labels"][got["valid"]]
        seen |= set(got["box_labels"][got["valid"]].tolist())
    assert 3 in seen
    # A pixel at a tenth of its size has a hundredth of a pixel.
    one = sample(instance_masks=rectangles((48, 64), (30, 20, 31, 21)))
    for min_area, count in ((0.009, 1), (0.0105, 0)):
        got = made(one, scale=(0.1, 0.1), min_area=min_area)
        assert got["valid"].sum() == count, min_area
    got = made(one, scale=(0.1, 0.1))
    assert got["valid"].sum() == 1 and (np.log(got["boxes"][0, 2:] - got["boxes"][0, :2]) > -4).all()


def test_boxes_of_the_data_set_are_mapped_and_cut_off():
    given = sample(instance_masks=rectangles((48, 64), (10, 10, 20, 20), (30, 4, 60, 40), (1, 1, 3, 3)))
    # Over every edge, twice; outside.
    given["boxes"] = np.float32([[-5, 8, 70, 50.5], [30.25, 4, 60, 40], [64, 0, 70, 9]])
    got = made(given, scale=(0.5, 0.5), flip=0.0, boxes_from="boxes")
    np.testing.assert_allclose(got["boxes"][:2], [[0, 4, 32, 24], [15.125, 2, 30, 20]], atol=1e-5)
    assert got["valid"].sum() == 2 and got["dropped"].tolist() == [0, 1, 0]
    # Masks are cropped to these boxes: a quarter of the first one's height is above the object.
    assert not got["masks"][0, :5].any() and got["masks"][0].any() and got["masks"].shape == (100, 112, 112)
    without = made(given, scale=(0.5, 0.5), flip=0.0, boxes_from="boxes", mask_size=0)
    np.testing.assert_array_equal(without["boxes"], got["boxes"])
    assert "masks" not in without


def test_what_is_read_and_given():
    views = DetectionViews()
    assert views.features == ("image", "box_labels", "instance_masks", "crowd") and views.optional == ("masks",)
    boxes = DetectionViews(mask_size=0, boxes_from="boxes", crowd=False)
    assert boxes.features == ("image", "box_labels", "boxes") and boxes.optional == ()
    assert DetectionViews(mask_size=0).features == views.features
    letters = DetectionViews(objects=7, mask_size=28).letters(spec())
    assert letters == {"H": 48, "W": 64, "C": 3, "M": 7, "S": 28}
    got = made(sample(), objects=7, mask_size=28)
    shapes = {name: (value.dtype.name, value.shape) for name, value in got.items()}
    assert shapes == {
        "image": ("uint8", (48, 64, 3)),
        "boxes": ("float32", (7, 4)),
        "box_labels": ("int32", (7,)),
        "valid": ("bool", (7,)),
        "extent": ("int32", (2,)),
        "dropped": ("int32", (3,)),
        "masks": ("uint8", (7, 28, 28)),
    }


def test_samples_of_data_sets():
    scenes = Shapes(curated=False, size=48, length=20)
    views = DetectionViews(crowd=False, mask_size=14, scale=(1.0, 1.0))
    source = scenes.source("train", features=views.features)
    told = scenes.source("train", features=("boxes",))
    for index in range(20):
        got = views(source[index], np.random.default_rng(index), spec(48, 48, scenes.info.box_classes))
        boxes = told[index]["boxes"]
        mirrored = np.stack([48 - boxes[:, 2], boxes[:, 1], 48 - boxes[:, 0], boxes[:, 3]], axis=1)
        found = got["boxes"][got["valid"]]
        assert any(np.array_equal(found, expected) for expected in (boxes, mirrored))
    kit = KitData().source("train", features=DetectionViews().features)
    assert [int(made(kit[i], scale=(1.0, 1.0))["valid"].sum()) for i in range(4)] == [1] * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instance_masks": np.zeros((5, 52, 40), bool)}, ("masks of 40 x 52", "image of 52 x 40")),
        ({"instance_masks": np.zeros((4, 40, 52), bool)}, ("instance_masks of 4 objects, box_labels of 5",)),
        ({"crowd": np.zeros(6, bool)}, ("crowd of 6 objects",)),
        ({"box_labels": np.array([0, 1, 2, 3, 10])}, ("box_labels [0, 1, 2, 3, 10] of 10 classes",)),
        ({"box_labels": np.array([0, 1, 2, 3, -1])}, ("no class",)),
    ],
)
def test_samples_that_cannot_be_meant(change, words):
    given = sample() | change
    with pytest.raises(DataError) as caught:
        made(given)
    assert all(word in str(caught.value) for word in words) and "in memory" in str(caught.value)


def test_labels_are_not_checked_where_no_classes_are_known():
    given = sample(box_labels=np.array([0, 1, 2, 3, 99]))
    assert 99 in made(given, scale=(1.0, 1.0), to=spec(classes=()))["box_labels"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"boxes_from": "mask"}, "did you mean 'masks'"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (2.0, 1.0)}, "scale is"),
        ({"objects": 0}, "objects is 0"),
        ({"mask_size": -1}, "mask_size -1"),
        ({"min_area": 0.0}, "min_area 0.0"),
    ],
)
def test_options(options, word):
    with pytest.raises(ConfigError) as caught:
        DetectionViews(**options)
    assert word in str(caught.value)
