"""COCO as distributed, in miniature: splits, features and the files that each needs."""

import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from spendflops_plugins.coco import COCO

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources.coco import FEATURES

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
from pictures import encode, smooth

TRIANGLE = [[2.5, 3, 12, 3.25, 7, 11]]
CROWD = {"size": [16, 24], "counts": [20, 40, 324]}
ALL = tuple(FEATURES)


def rows(start):
    """Boxes and captions of images start + 1 .. start + 3; the second has no box."""
    common = {"bbox": [2.5, 3, 9.5, 8], "area": 37.0, "segmentation": TRIANGLE, "iscrowd": 0}
    boxes = [
        {"id": start + 1, "image_id": start + 3, "category_id": 90, **common},
        {"id": start + 2, "image_id": start + 1, "category_id": 1, **common},
        {"id": start + 3, "image_id": start + 3, "category_id": 13, **common, "segmentation": CROWD, "iscrowd": 1},
        # As annotation 918 of train2017.
        {"id": start + 4, "image_id": start + 3, "category_id": 62, **common, "bbox": [6.65, 8.33, 1.03, 0.0]},
    ]
    captions = [{"id": start + i, "image_id": start + 1 + i % 3, "caption": f"caption {start + i}\n"} for i in range(9)]
    return boxes, captions


def dump(path, images, annotations=None, categories=None):
    content = {"info": {}, "licenses": [], "images": images}
    content |= {} if annotations is None else {"annotations": annotations}
    content |= {} if categories is None else {"categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def build(root, *, images="", year=2017):
    root = Path(root)
    pairs = zip(COCO.categories.ids, COCO.categories.names, strict=True)
    categories = [{"supercategory": "thing", "id": key, "name": name} for key, name in pairs]
    for number, split in enumerate(("train", "val", "test")):
        start, name = 100 * number, f"{split}{year}"
        (root / images / name).mkdir(parents=True)
        listed = [
            {"id": key, "file_name": f"{key:012d}.jpg", "height": 16, "width": 24, "license": 1}
            for key in (start + 2, start + 3, start + 1)
        ]
        for image in listed:
            (root / images / name / image["file_name"]).write_bytes(encode(smooth(16, 24, image["id"])))
        boxes, captions = rows(start)
        if split == "test":
            dump(root / f"annotations/image_info_{name}.json", listed, categories=categories)
        else:
            dump(root / f"annotations/instances_{name}.json", listed, boxes, categories)
            dump(root / f"annotations/captions_{name}.json", listed, captions)
    return root


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(COCO, splits=("train", "val"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    build(PLACE.name)


def opened(root, split="train", features=ALL, **options):
    return COCO(path=str(root), **{"partial": True, **options}).source(split, features=features)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_what_is_known_without_a_disk():
    info = COCO().info
    assert info.sizes == {"train": 118_287, "val": 5_000, "test": 40_670}
    assert COCO(annotated_only=True).info.sizes == {"train": 117_266, "val": 4_952}
    assert info.sizes["train"] - 1_021 == COCO(annotated_only=True).info.sizes["train"]
    # The two years hold the same labelled photographs.
    assert sum(COCO(year=2014).info.sizes[s] - info.sizes[s] for s in ("train", "val")) == 0
    assert sum(COCO(year=y, annotated_only=True).info.sizes[s] for y in (2014,) for s in ("train", "val")) == 122_218
    assert len(info.classes) == 80 and info.classes[0] == "person" and info.classes[79] == "toothbrush"
    assert info.box_classes == info.classes
    assert info.licence and info.citation and info.homepage and COCO(partial=True).info.sizes == {}
    ids = COCO.categories.ids
    assert len(ids) == 80 and set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    np.testing.assert_array_equal(COCO.categories.to_id(range(80)), ids)
    np.testing.assert_array_equal(COCO.categories.from_id(ids), range(80))
    assert COCO.categories.names[COCO.categories.from_id([62])[0]] == "chair"


def test_samples():
    pytest.importorskip("pycocotools")
    source = pickle.loads(pickle.dumps(opened(PLACE.name)))
    assert [source[i]["image_id"] for i in range(len(source))] == [1, 2, 3]
    assert source.left_out == {"a box without area": 1}
    one, two, three = (source[i] for i in range(3))
    np.testing.assert_array_equal(one["boxes"], np.float32([[2.5, 3, 12, 11]]))
    assert three["box_labels"].tolist() == [79, 11] and three["labels"].tolist() == [11, 79]
    assert three["crowd"].tolist() == [False, True] and three["box_ids"].tolist() == [1, 3]
    assert one["captions"] == ("caption 0\n", "caption 3\n", "caption 6\n")
    assert one["instance_masks"].sum() > 20 and three["instance_masks"][1].sum() == 40
    assert two["boxes"].shape == (0, 4) and two["instance_masks"].shape == (0, 16, 24) and two["labels"].shape == (0,)
    shown = one["image"].decode().astype(int) - smooth(16, 24, 1)
    assert np.abs(shown).mean() < 6


def test_only_images_with_a_box():
    source = opened(PLACE.name, features=("image_id",), annotated_only=True)
    assert [source[i]["image_id"] for i in range(len(source))] == [1, 3]
    refuses(lambda: opened(PLACE.name, "test", ("image",), annotated_only=True), "no split 'test'")


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_not_asked_for_is_not_read(tmp_path, split):
    root = build(tmp_path)
    instances, captions = (root / f"annotations/{kind}_{split}2017.json" for kind in ("instances", "captions"))
    kept = instances.read_bytes()
    instances.unlink()
    for features in (("image", "captions"), ("image", "image_id")):
        assert len(opened(root, split, features)) == 3
    refuses(lambda: opened(root, split, ("boxes",)), f"instances_{split}2017.json cannot be read")
    refuses(lambda: opened(root, split, ("image",), annotated_only=True), "instances_")
    instances.write_bytes(kept)
    captions.unlink()
    for features in (("image", "boxes"), ("image", "image_id")):
        assert len(opened(root, split, features)) == 3
    refuses(lambda: opened(root, split, ("captions",)), f"captions_{split}2017.json cannot be read")
    instances.unlink()
    refuses(lambda: opened(root, split, ("image",)), f"instances_{split}2017.json cannot be read")


def test_test_images_have_no_annotations(tmp_path):
    source = opened(PLACE.name, "test", ("image", "image_id"))
    assert [source[i]["image_id"] for i in range(3)] == [201, 202, 203] and source[0]["image"].size == (16, 24)
    refuses(lambda: opened(PLACE.name, "test", ("image", "boxes")), "test has no 'boxes'", error=ConfigError)
    root = build(tmp_path)
    (root / "annotations/image_info_test2017.json").unlink()
    listed = opened(root, "test", ("image", "image_id"))
    assert [listed[i]["image_id"] for i in range(3)] == [201, 202, 203]


def test_other_places_and_years(tmp_path):
    assert len(opened(build(tmp_path / "a", images="images"), features=("image", "boxes"))) == 3
    assert len(opened(build(tmp_path / "b", year=2014), year=2014, features=("image", "boxes"))) == 3
    refuses(lambda: opened(tmp_path / "b", features=("image",)), "no folder train2017", "unpack train2017.zip")
    refuses(lambda: COCO(year=2015), "no year 2015", error=ConfigError)


def test_counts_are_checked():
    for annotated_only, published in ((False, "118,287"), (True, "117,266")):
        options = {"partial": False, "annotated_only": annotated_only}
        refuses(lambda options=options: opened(PLACE.name, features=("image",), **options), published, "partial=True")


def test_policy(tmp_path):
    root = build(tmp_path)
    path = root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"category_id": 90', '"category_id": 91'))
    refuses(lambda: opened(root, features=("boxes",)), "annotation 1 has a category_id", "invalid='drop'")
    source = opened(root, features=("boxes",), invalid="drop")
    assert source.left_out["a category_id that is not in the file"] == 1
    refuses(lambda: COCO(invalid="skip"), "unknown invalid 'skip'", error=ConfigError)
    path.write_text(path.read_text().replace('"id": 90, "name": "toothbrush"', '"id": 91, "name": "banner"'))
    refuses(lambda: opened(root, features=("boxes",)), "category 91 'banner'", "another data set")


@pytest.mark.skipif("SPENDFLOPS_TEST_DATA" not in os.environ, reason="SPENDFLOPS_TEST_DATA names no folder of data")
def test_real_images(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    real = Path(os.environ["SPENDFLOPS_TEST_DATA"]) / "coco_tiny"
    (tmp_path / "images").symlink_to(real / "images")
    (tmp_path / "annotations").mkdir()  # a copy: an index is stored beside it
    features = tuple(name for name in ALL if name != "captions")
    for split, images, boxes in (("train", 32, 288), ("val", 6, 136)):
        file = tmp_path / f"annotations/instances_{split}2017.json"
        file.write_bytes((real / "annotations" / file.name).read_bytes())
        source, theirs = opened(tmp_path, split, features), coco.COCO(str(file))
        assert len(source) == images and source.missing() == () and source.left_out == {}
        samples = [source[i] for i in range(images)]
        assert sum(len(sample["boxes"]) for sample in samples) == boxes
        for sample in samples:
            assert sample["image"].decode().shape[:2] == sample["image"].size
            for key, label, mask in zip(sample["box_ids"], sample["box_labels"], sample["instance_masks"], strict=True):
                row = theirs.anns[int(key)]
                assert COCO.categories.to_id([label])[0] == row["category_id"]
                np.testing.assert_array_equal(mask, theirs.annToMask(row))
