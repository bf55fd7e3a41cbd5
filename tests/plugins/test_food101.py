"""Food-101: lists, labels by sorted name, and what it refuses."""

import dataclasses
import json
import tempfile

import pytest
from imagenetlib import below, picture, write
from spendflops_plugins import food101
from spendflops_plugins.food101 import CLASSES, Food101

import spendflops.testing
from spendflops.contracts.errors import DataError

# Neither classes nor images are sorted; the order of a class's images is that of the list.
LISTS = {
    "train": {"sushi": ["sushi/9", "sushi/10"], "cheesecake": ["cheesecake/5"], "apple_pie": ["apple_pie/2"]},
    "test": {"cheese_plate": ["cheese_plate/4"], "apple_pie": ["apple_pie/77"]},
}
NAMES = [image for lists in LISTS.values() for images in lists.values() for image in images]
IMAGES = {f"images/{name}.jpg": picture(600 + seed) for seed, name in enumerate(NAMES)}
STRAY = {"images/sushi/extra.jpg": b"in no list", "meta/classes.txt": b"cheesecake\ncheese_plate\n"}
PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(Food101, splits=("train", "test"), path=PLACE.name, partial=True)


def meta(lists=LISTS):
    return {f"meta/{split}.json": json.dumps(listed).encode() for split, listed in lists.items()}


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, below("food-101", IMAGES | STRAY | meta()))


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, split="train", **options):
    return Food101(path=str(root), **{"partial": True, **options}).source(split, features=("image", "label"))


def test_information_without_a_disk():
    info = Food101().info
    assert len(info.classes) == 101 and list(info.classes) == sorted(set(info.classes))
    assert info.classes[0] == "apple_pie" and info.classes[-1] == "waffles"
    assert info.class_names[1] == "baby back ribs" and info.sizes == {"train": 75_750, "test": 25_250}
    assert info.licence and info.citation and info.homepage
    refuses(lambda: Food101().source("train"), "no path")
    refuses(lambda: Food101().source("val"), "no split 'val'")


@pytest.mark.parametrize("folder", ["food-101", "."])
def test_labels_and_order(tmp_path, folder):
    write(tmp_path, below(folder, IMAGES | STRAY | meta()))
    source = opened(tmp_path)
    order = ["apple_pie/2", "cheesecake/5", "sushi/9", "sushi/10"]
    assert [source[i]["image"].read() for i in range(4)] == [IMAGES[f"images/{name}.jpg"] for name in order]
    assert [CLASSES[label] for label in source.labels] == ["apple_pie", "cheesecake", "sushi", "sushi"]
    assert opened(tmp_path, "test").labels.tolist() == [0, CLASSES.index("cheese_plate")]
    assert CLASSES.index("cheese_plate") == CLASSES.index("cheesecake") - 1 == 16


def test_wrong_layouts(tmp_path):
    write(tmp_path / "a", {"photos/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "a"), "train.json is not there", "images and meta")
    write(tmp_path / "b", IMAGES | meta())
    (tmp_path / "b/images/sushi/10.jpg").unlink()
    refuses(lambda: opened(tmp_path / "b"), "1 of 4 images", "train.json", "sushi/10.jpg")
    assert len(opened(tmp_path / "b", "test")) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"sushi": [', "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'["sushi/9"]', "not an object of lists"),
        (b'{"sushi": "sushi/9"}', "under 'sushi'"),
        (b'{"sushi": [9]}', "under 'sushi'"),
        (b'{"sushi": ["apple_pie/2"]}', "'apple_pie/2' is listed under 'sushi'"),
        (b'{"sushi": ["sushi/../../meta/train"]}', "leads out"),
        (b'{"sushy": ["sushy/9"]}', "'sushy'"),
    ],
)
def test_lists_that_are_broken(tmp_path, content, said):
    write(tmp_path, IMAGES | {"meta/train.json": content})
    refuses(lambda: opened(tmp_path), said)


def test_a_folder_in_the_place_of_a_list(tmp_path):
    write(tmp_path, {"meta/train.json/list": b"x"})
    refuses(lambda: opened(tmp_path), "train.json cannot be read")


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, IMAGES | meta())
    refuses(lambda: opened(tmp_path, partial=False), "98 class(es) missing")
    info = dataclasses.replace(food101.INFO, classes=tuple(sorted(LISTS["train"])), sizes={"train": 4})
    monkeypatch.setattr(food101, "INFO", info)
    assert len(opened(tmp_path, partial=False)) == 4
    fewer = {**LISTS["train"], "sushi": ["sushi/9"]}
    write(tmp_path, meta({"train": fewer}))
    refuses(lambda: opened(tmp_path, partial=False), "3 samples, published are 4")
