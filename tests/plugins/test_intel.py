"""Intel's landscapes: both layouts, unlabelled images, and what it refuses."""

import dataclasses
import tempfile

import pytest
from imagenetlib import below, picture, write
from spendflops_plugins import intel
from spendflops_plugins.intel import Intel

import spendflops.testing
from spendflops.contracts.errors import DataError

# Created unsorted.
TRAIN = {f"{name}/{seed}.jpg": picture(500 + seed) for seed, name in enumerate(["street", "forest", "sea", "forest"])}
TEST = {f"{name}/{seed}.jpg": picture(520 + seed) for seed, name in enumerate(["sea", "buildings"])}
PRED = {f"{number}.jpg": picture(540 + number) for number in (24, 3, 10)}
PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(Intel, splits=("train", "test", "pred"), path=PLACE.name, partial=True)


def files(double):
    return {
        name: content
        for folder, inside in (("seg_train", TRAIN), ("seg_test", TEST), ("seg_pred", PRED))
        for name, content in below(f"{folder}/{folder}" if double else folder, inside).items()
    }


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, files(True))


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, split, **options):
    return Intel(path=str(root), **{"partial": True, **options}).source(split, features=("image", "label"))


def test_information_without_a_disk():
    info = Intel().info
    assert info.classes == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    assert info.sizes == {"train": 14_034, "test": 3_000, "pred": 7_301}
    assert info.licence and info.citation and info.homepage
    refuses(lambda: Intel().source("train"), "no path")
    refuses(lambda: Intel().source("val"), "no split 'val'")


@pytest.mark.parametrize("double", [True, False])
def test_both_layouts(tmp_path, double):
    write(tmp_path, files(double))
    for split, inside, labels in (("train", TRAIN, [1, 1, 4, 5]), ("test", TEST, [0, 4]), ("pred", PRED, [-1] * 3)):
        source = opened(tmp_path, split)
        assert source.labels.tolist() == labels
        assert [source[i]["image"].read() for i in range(len(source))] == [inside[name] for name in sorted(inside)]


def test_wrong_layouts(tmp_path):
    write(tmp_path / "a", {"photos/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "a", "train"), "no folder seg_train", "it holds photos")
    for name in ("seg_train/sea/1.jpg", "seg_train/1.jpg"):
        root = tmp_path / f"b{len(name)}"
        write(root, files(True) | {name: b"x"})
        refuses(lambda root=root: opened(root, "train"), "beside its folder seg_train")
    write(tmp_path / "c", files(True) | {"seg_train/seg_train/desert/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "c", "train"), "unknown", "'desert'")
    write(tmp_path / "d", {"seg_pred/notes.txt": b"x"})
    refuses(lambda: opened(tmp_path / "d", "pred"), "has no images")
    # Class folders among images without labels would be read as such.
    write(tmp_path / "e", {"seg_pred/sea/1.jpg": b"x"})
    refuses(lambda: opened(tmp_path / "e", "pred"), "has no images")


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, files(True))
    refuses(lambda: opened(tmp_path, "train", partial=False), "3 class(es) missing", "'buildings'")
    refuses(lambda: opened(tmp_path, "pred", partial=False), "3 samples, published are 7,301")
    for name in intel.INFO.classes:
        write(tmp_path, {f"seg_train/seg_train/{name}/x.jpg": b"x"})
    monkeypatch.setattr(intel, "INFO", dataclasses.replace(intel.INFO, sizes={"train": 10}))
    assert len(opened(tmp_path, "train", partial=False)) == 10
    write(tmp_path, {"seg_train/seg_train/sea/y.jpg": b"x"})
    refuses(lambda: opened(tmp_path, "train", partial=False), "11 samples, published are 10")
