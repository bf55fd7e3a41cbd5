"""LVIS in miniature: files without names, lists of classes, repeated images."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from spendflops_plugins.detection.lvis import CATEGORIES, IMAGE_COUNTS, INFO, LVIS, repeat_factors, rounded

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources.coco import open_index

sys.path.insert(0, str(Path(__file__).parents[2] / "parts"))
from pictures import encode, smooth

FEATURES = tuple(INFO.features)
RECTANGLE = [[2, 3, 10, 3, 10, 9, 2, 9]]
KNOWN = (1, 3, 77, 715, 1203)


def image(key, folder="train2017", negative=(), incomplete=()):
    return {
        "id": key,
        "coco_url": f"http://images.cocodataset.org/{folder}/{key:012d}.jpg",
        "flickr_url": "http://farm9.staticflickr.com/a.jpg",
        "height": 16,
        "width": 24,
        "license": 1,
        "neg_category_ids": list(negative),
        "not_exhaustive_category_ids": list(incomplete),
    }


def box(key, image_id, category=1, **change):
    row = {"id": key, "image_id": image_id, "category_id": category, "bbox": [2, 3, 8, 6], "area": 48.0}
    return {**row, "segmentation": RECTANGLE, **change}


def categories(ids=KNOWN):
    def category(key):
        name = CATEGORIES.names[key - 1]
        return {"id": key, "name": name, "synset": f"{name}.n.01", "frequency": "c", "image_count": 1, "def": ""}

    return [category(key) for key in ids]


def dump(root, split, images, annotations, named=None):
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    content["categories"] = categories() if named is None else named
    folder = Path(root) / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"lvis_v1_{split}.json").write_text(json.dumps(content))


# Of the training images one lies among the validation images of COCO, and the other way round.
TRAIN = [image(9, "val2017", (715, 3)), image(4, negative=(1203,), incomplete=(3, 77)), image(6)]
VAL = [image(12, "train2017", (1,)), image(11, "val2017")]
BOXES = [box(5, 9, 77), box(1, 4, 3), box(2, 4, 3), box(3, 9, 1203, bbox=[0, 0, 24, 16]), box(4, 4, 1)]


def build(root):
    for listed in (TRAIN, VAL):
        for each in listed:
            path = Path(root).joinpath(*each["coco_url"].split("/")[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(smooth(16, 24, each["id"])))
    dump(root, "train", TRAIN, BOXES)
    dump(root, "val", VAL, [box(1, 12, 715)])
    return Path(root)


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests("lvis", splits=("train", "val"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    build(PLACE.name)


def opened(root, split="train", features=FEATURES, **options):
    return LVIS(path=str(root), **{"partial": True, **options}).source(split, features=features)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_what_is_known_without_a_disk():
    info = LVIS().info
    assert info.sizes == {"train": 100_170, "val": 19_809} and LVIS(partial=True).info.sizes == {}
    assert len(info.box_classes) == len(set(info.box_classes)) == len(info.box_counts) == 1203
    # Rare, common and frequent classes, as Gupta et al. count them.
    counts = np.array(info.box_counts)
    assert [int(n.sum()) for n in (counts <= 10, (counts > 10) & (counts <= 100), counts > 100)] == [337, 461, 405]
    assert counts.min() == 1 and info.box_classes[0] == "aerosol_can" and info.box_counts[0] == 64
    assert info.box_classes[1202] == "zucchini" and info.box_counts[1202] == 81
    assert info.box_classes[CATEGORIES.from_id([793])[0]] == "person" and IMAGE_COUNTS[792] == 1928
    assert info.licence and info.citation and info.homepage and "crowd" not in info.features


def test_samples():
    pytest.importorskip("pycocotools")
    source = pickle.loads(pickle.dumps(opened(PLACE.name)))
    assert len(source) == 3 and source.left_out == {} and source.missing() == ()
    four, six, nine = (source[i] for i in range(3))
    assert [x["image_id"] for x in (four, six, nine)] == [4, 6, 9]
    assert four["box_labels"].tolist() == [2, 2, 0] and four["box_ids"].tolist() == [1, 2, 4]
    assert nine["box_labels"].tolist() == [76, 1202] and nine["labels"].tolist() == [76, 1202]
    np.testing.assert_array_equal(nine["boxes"], np.float32([[2, 3, 10, 9], [0, 0, 24, 16]]))
    assert four["instance_masks"].shape == (3, 16, 24) and four["instance_masks"][0].sum() == 48
    told = [(x["neg_labels"].tolist(), x["open_labels"].tolist()) for x in (four, six, nine)]
    assert told == [([1202], [2, 76]), ([], []), ([714, 2], [])]
    assert six["boxes"].shape == (0, 4) and six["neg_labels"].dtype == np.int32
    # The photograph of image 9 lies in val2017.
    assert np.abs(nine["image"].decode().astype(int) - smooth(16, 24, 9)).mean() < 6
    assert opened(PLACE.name, "val", ("image_id",))[1]["image_id"] == 12
    # The same from the stored index.
    again = opened(PLACE.name)
    np.testing.assert_array_equal(again[2]["neg_labels"], nine["neg_labels"])


def test_places(tmp_path):
    root = build(tmp_path / "coco")
    moved = (root / "annotations").rename(tmp_path / "lvis")
    assert len(opened(root, annotations=str(moved))) == 3
    refuses(lambda: opened(root), "annotations/lvis_v1_train.json cannot be read")
    (root / "images").mkdir()
    for name in ("train2017", "val2017"):
        (root / name).rename(root / "images" / name)
    assert opened(root, annotations=str(moved))[2]["image"].size == (16, 24)
    for name in ("train2017", "val2017"):
        (root / "images" / name).rename(tmp_path / name)
    refuses(lambda: opened(root, annotations=str(moved)), "no folder train2017 or val2017", "train2017.zip")


def test_counts_are_checked_of_the_copy_and_not_of_what_is_shown():
    for options in ({}, {"annotated_only": True}, {"repeat_threshold": 0.5}):
        refuses(lambda options=options: opened(PLACE.name, partial=False, **options), "train has 3", "100,170")


def test_images_with_a_box():
    source = opened(PLACE.name, features=("image_id",), annotated_only=True)
    assert [source[i]["image_id"] for i in range(len(source))] == [4, 9]
    assert LVIS(annotated_only=True).info.sizes == {}
    source = opened(PLACE.name, "val", ("image_id",), annotated_only=True)
    assert [source[i]["image_id"] for i in range(len(source))] == [12]


def slow_factors(images, boxes, threshold):
    """The formula, image by image."""
    shown = {i: {row["category_id"] for row in boxes if row["image_id"] == i} for i in images}
    frequency = {c: sum(c in classes for classes in shown.values()) / len(images) for c in KNOWN}
    factor = {c: max(1.0, (threshold / f) ** 0.5) for c, f in frequency.items() if f}
    return [max([factor[c] for c in shown[i]], default=1.0) for i in images]


def test_repeat_factors(tmp_path):
    rng = np.random.default_rng(0)
    keys = list(range(1, 41))
    chances = (0.9, 0.4, 0.15, 0.05, 0.0)
    boxes = [
        (i, c)
        for i in keys
        for c, chance in zip(KNOWN, chances, strict=True)
        for _ in range(2)
        if rng.random() < chance
    ]
    boxes = [box(1 + number, i, c) for number, (i, c) in enumerate(boxes)]
    dump(tmp_path, "train", [image(i) for i in keys], boxes)
    index = open_index(tmp_path / "annotations/lvis_v1_train.json")
    for threshold in (0.01, 0.3, 1.0):
        expected = slow_factors(keys, boxes, threshold)
        np.testing.assert_allclose(repeat_factors(index, threshold, images=40), expected, rtol=1e-12)
    assert len(set(expected)) > 2 and min(expected) >= 1
    (tmp_path / "train2017").mkdir()
    source = opened(tmp_path, features=("image_id",), repeat_threshold=1.0)
    came = [source[i]["image_id"] for i in range(len(source))]
    assert came == sorted(came) and set(came) == set(keys)  # copies of an image follow each other
    copies = np.array([came.count(i) for i in keys])
    assert ((copies == np.floor(expected)) | (copies == np.ceil(expected))).all() and copies.max() > 1
    assert "train" not in LVIS(repeat_threshold=1.0).info.sizes and "val" in LVIS(repeat_threshold=1.0).info.sizes
    other = opened(tmp_path, features=("image_id",), repeat_threshold=1.0, repeat_seed=1)
    assert [other[i]["image_id"] for i in range(len(other))] != came
    # Frequencies are parts of the images that are shown.
    empty = [image(i) for i in range(100, 160)]
    dump(tmp_path, "train", [*(image(i) for i in keys), *empty], boxes)
    shown = [i for i in keys if any(row["image_id"] == i for row in boxes)]
    source = opened(tmp_path, features=("image_id",), repeat_threshold=1.0, annotated_only=True)
    came = [source[i]["image_id"] for i in range(len(source))]
    expected = np.array(slow_factors(shown, boxes, 1.0))
    copies = np.array([came.count(i) for i in shown])
    assert set(came) == set(shown) and (np.abs(copies - expected) < 1).all()


def test_rounding_keeps_the_expectation():
    factors = np.array([1.0, 1.25, 2.9, 7.0])
    drawn = np.array([rounded(factors, seed) for seed in range(2000)])
    assert drawn.dtype == np.int64 and (drawn[:, [0, 3]] == (1, 7)).all()
    np.testing.assert_allclose(drawn.mean(axis=0), factors, atol=0.04)
    np.testing.assert_array_equal(rounded(factors, 3), drawn[3])
    assert set(np.unique(drawn[:, 1])) == {1, 2} and set(np.unique(drawn[:, 2])) == {2, 3}


def test_only_training_images_are_repeated(tmp_path):
    listed, boxes = [image(1), image(2), image(3)], [box(1, 1, 3), box(2, 2, 77)]
    for split in ("train", "val"):
        dump(tmp_path, split, listed, boxes)
    (tmp_path / "train2017").mkdir()
    found = set()
    for seed in range(6):
        options = {"features": ("image_id",), "repeat_threshold": 1.0, "repeat_seed": seed}
        assert len(opened(tmp_path, "val", **options)) == 3
        assert len(opened(tmp_path, "val", **options, annotated_only=True)) == 2
        found.add(len(opened(tmp_path, "train", **options, annotated_only=True)))
    assert max(found) > 2


@pytest.mark.parametrize(
    ("images", "boxes", "words"),
    [
        ([image(4, negative=(2,))], [], ("neg_category_ids of an image names no category", "id 2")),
        ([image(4, incomplete=(2**70,))], [], ("not_exhaustive_category_ids", "names no category")),
        ([image(4) | {"neg_category_ids": 3}], [], ("no list of ids",)),
        ([image(4) | {"neg_category_ids": ["3"]}], [], ("no list of ids",)),
        ([image(4) | {"coco_url": 5}], [], ("'coco_url' is '5'",)),
        ([image(4) | {"coco_url": "http://a/../b.jpg"}], [], ("no path below",)),
        ([{k: v for k, v in image(4).items() if k != "coco_url"}], [], ("there is no 'file_name'",)),
        ([image(4)], [box(1, 4, 2)], ("annotation 1 has a category_id that is not in the file",)),
        ([image(4)], [box(1, 4, bbox=[30, 3, 2, 2])], ("annotation 1 has a box outside its image",)),
        ([image(4)], [box(1, 4, iscrowd="0")], ("'iscrowd' is '0'",)),
        ([image(4)], [box(1, 4, segmentation=[])], ("annotation 1 has a segmentation that is none",)),
        ([image(4)], [box(0, 4)], ("annotation with the id 0",)),
    ],
)
def test_annotations_that_cannot_be_meant(tmp_path, images, boxes, words):
    dump(tmp_path, "train", images, boxes)
    (tmp_path / "train2017").mkdir()
    refuses(lambda: opened(tmp_path), "lvis_v1_train.json", *words)


def test_what_is_left_out_is_counted_and_said(tmp_path):
    flat, lost = box(7, 4, bbox=[3, 3, 0, 2]), box(8, 4, 2)
    dump(tmp_path, "train", [image(4)], [flat, lost, box(9, 4)])
    (tmp_path / "train2017").mkdir()
    source = opened(tmp_path, features=("boxes",), invalid="drop")
    assert len(source[0]["boxes"]) == 1
    assert source.left_out == {"a category_id that is not in the file": 1, "a box without area": 1}
    assert "left out 1: a box without area" in repr(source)


def test_classes_of_another_data_set(tmp_path):
    dump(tmp_path, "train", [image(4)], [], named=[{"id": 1, "name": "person"}])
    (tmp_path / "train2017").mkdir()
    refuses(lambda: opened(tmp_path), "category 1 'person'", "another data set")
    dump(tmp_path, "train", [image(4)], [], named=[*categories(), {"id": 1204, "name": "unicorn"}])
    refuses(lambda: opened(tmp_path), "category 1204 'unicorn'")


def test_options():
    for threshold in (-0.1, 1.5):
        refuses(lambda t=threshold: LVIS(repeat_threshold=t), "repeat_threshold", error=ConfigError)
    refuses(lambda: LVIS(invalid="skip"), "unknown invalid 'skip'", error=ConfigError)
    refuses(lambda: opened(PLACE.name, features=("crowd",)), "no feature 'crowd'", error=ConfigError)
    refuses(lambda: opened(PLACE.name, "test"), "no split 'test'")
    assert LVIS(path="~/x", annotations="~/y").described["annotations"] == "~/y"
    assert os.path.isabs(LVIS(path="x").path)
