"""iNaturalist 2018: lists, category ids, names of species, and what it refuses."""

import dataclasses
import json
import tempfile

import pytest
from imagenetlib import picture, write
from spendflops_plugins import inaturalist18
from spendflops_plugins.inaturalist18 import INaturalist18

import spendflops.testing
from spendflops.contracts.errors import DataError

# (image id, category), in no order.
LISTS = {"train": [(31, 8141), (4, 12), (99, 0), (5, 12)], "val": [(437_514, 12), (437_513, 7)]}


def file_name(image, category):
    return f"train_val2018/Plantae/{category}/{image:032x}.jpg"


def content(split, count=8142):
    """A list as it is distributed: names of categories are hidden, annotations have an order of their own."""
    pairs = LISTS[split]
    return {
        "info": {"year": 2018},
        "licenses": [],
        "images": [{"id": i, "file_name": file_name(i, c), "width": 20, "height": 16, "license": 0} for i, c in pairs],
        "annotations": [{"id": i, "image_id": i, "category_id": c} for i, c in reversed(pairs)],
        "categories": [{"id": c, "name": str(c), "supercategory": "Plantae"} for c in reversed(range(count))],
    }


def lists(**changes):
    return {f"{split}2018.json": json.dumps(content(split) | changes).encode() for split in LISTS}


IMAGES = {file_name(i, c): picture(700 + i % 100) for pairs in LISTS.values() for i, c in pairs}
SPECIES = [{"id": c, "name": f"Species {c}", "kingdom": "Plantae"} for c in reversed(range(8142))]
PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(INaturalist18, splits=("train", "val"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, IMAGES | lists())


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, split="train", **options):
    return INaturalist18(path=str(root), **{"partial": True, **options}).source(split, features=("image", "label"))


def test_information_without_a_disk():
    info = INaturalist18().info
    assert len(info.classes) == 8_142 and info.classes[12] == "12" and info.class_names == ()
    assert info.sizes == {"train": 437_513, "val": 24_426}
    assert info.licence and info.citation and info.homepage
    refuses(lambda: INaturalist18().source("train"), "no path")
    refuses(lambda: INaturalist18().source("test"), "no split 'test'")


@pytest.mark.parametrize("split", LISTS)
def test_labels_are_category_ids(split):
    source = opened(PLACE.name, split)
    assert source.labels.tolist() == [category for _, category in LISTS[split]]
    expected = [IMAGES[file_name(*pair)] for pair in LISTS[split]]
    assert [source[i]["image"].read() for i in range(len(source))] == expected


def test_names_of_species(tmp_path):
    write(tmp_path, {"categories.json": json.dumps(SPECIES).encode()})
    info = INaturalist18(path=str(tmp_path)).info
    assert info.class_names[12] == "Species 12" and len(info.class_names) == 8_142
    assert INaturalist18(path="/nowhere/at/all").info.class_names == ()
    for number, (broken, said) in enumerate(
        [
            (json.dumps(SPECIES[1:]), "it has 8,141"),
            (json.dumps([*SPECIES[1:], {"id": 9000, "name": "x"}]), "9000 is one of them"),
            (json.dumps([*SPECIES, SPECIES[0]]), "entry 8142"),
            (json.dumps([{"id": 0}]), "entry 0 has no id and name"),
            (json.dumps({"a": 1}), "there is no list"),
            ("[", "cannot be read"),
        ]
    ):
        write(tmp_path / str(number), {"categories.json": broken.encode()})
        data = INaturalist18(path=str(tmp_path / str(number)))
        refuses(lambda data=data: data.info, "categories.json", said)


def test_wrong_layouts(tmp_path):
    write(tmp_path / "a", {"photos/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "a"), "train2018.json is not there")
    write(tmp_path / "b", IMAGES | lists())
    (tmp_path / "b" / file_name(4, 12)).unlink()
    refuses(lambda: opened(tmp_path / "b"), "1 of 4 images", "train2018.json", file_name(4, 12))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "images: there is no list"),
        ({"images": [{"id": 1}]}, "images, entry 0 has no id and file_name"),
        ({"images": [7]}, "images, entry 0"),
        ({"images": [{"id": True, "file_name": "a.jpg"}]}, "images, entry 0"),
        ({"images": content("train")["images"] * 2}, "images, entry 4"),
        ({"images": content("train")["images"][:3]}, "image 5 is not both in images and in annotations"),
        ({"images": [{"id": i, "file_name": "../x.jpg"} for i, _ in LISTS["train"]]}, "leads out"),
        ({"annotations": content("train")["annotations"][:3]}, "image 31 is not both in images and in annotations"),
        ({"annotations": content("train")["annotations"] * 2}, "annotations, entry 4"),
        ({"annotations": [{"image_id": 4, "category_id": "12"}]}, "annotations, entry 0"),
        ({"annotations": [{"image_id": i, "category_id": 8142} for i, _ in LISTS["train"]]}, "category 8142"),
        ({"categories": [{"id": 8142, "name": "x"}]}, "categories 0..8141"),
        ({"categories": [{"id": 12, "name": "x"}]}, "not among the categories"),
    ],
)
def test_lists_that_are_broken(tmp_path, changes, said):
    write(tmp_path, IMAGES | lists(**changes))
    refuses(lambda: opened(tmp_path), "train2018.json", said)


@pytest.mark.parametrize(("text", "said"), [(b"[1, 2]", "not an object"), (b"{", "cannot be read")])
def test_lists_that_are_no_lists(tmp_path, text, said):
    write(tmp_path, {"train2018.json": text})
    refuses(lambda: opened(tmp_path), said)


def test_a_folder_in_the_place_of_a_list(tmp_path):
    write(tmp_path, {"train2018.json/list": b"x"})
    refuses(lambda: opened(tmp_path), "train2018.json cannot be read")


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, IMAGES | lists())
    refuses(lambda: opened(tmp_path, partial=False), "4 samples, published are 437,513")
    monkeypatch.setattr(inaturalist18, "INFO", dataclasses.replace(inaturalist18.INFO, sizes={"train": 4}))
    assert len(opened(tmp_path, partial=False)) == 4
    write(tmp_path, lists(categories=content("train")["categories"][1:]))
    refuses(lambda: opened(tmp_path, partial=False), "8,141")
    write(tmp_path, lists(categories=content("train", 13)["categories"], images=[], annotations=[]))
    assert len(opened(tmp_path)) == 0
