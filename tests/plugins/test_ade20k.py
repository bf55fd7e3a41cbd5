"""SceneParse150 as distributed, in miniature: label 0 is ignored once, and what is refused."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.ade20k import ADE20K

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.images import decode_mask

STORED = np.arange(160, dtype=np.uint8).reshape(10, 16) % 151


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


def build(root):
    root = Path(root)
    for i, (folder, name, count) in enumerate((("training", "train", 3), ("validation", "val", 2))):
        for k in range(count, 0, -1):
            stem = f"{folder}/ADE_{name}_{k:08d}"
            png(root / f"images/{stem}.jpg", np.full((10, 16, 3), 40 * k + 100 * i, np.uint8))
            png(root / f"annotations/{stem}.png", np.roll(STORED, k))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    return root


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ADE20K, splits=("train", "val"), path=PLACE.name, partial=True)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    build(PLACE.name)


def opened(root, split="train", features=("image", "mask"), **options):
    return ADE20K(path=str(root), **{"partial": True, **options}).source(split, features=features)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_what_is_known_without_a_disk():
    info = ADE20K().info
    assert info.sizes == {"train": 20_210, "val": 2_000} and info.classes == ()
    assert len(info.mask_classes) == len(set(info.mask_classes)) == 150
    # Stored values 1, 13, 21, 90, 126, 150.
    named = {0: "wall", 12: "person", 20: "car", 89: "television", 125: "pot", 149: "flag"}
    assert {label: info.mask_classes[label] for label in named} == named
    assert info.licence and info.citation and info.homepage


def test_zero_is_ignored_once():
    source = pickle.loads(pickle.dumps(opened(PLACE.name)))
    for index in range(3):
        stored = np.roll(STORED, index + 1)  # in the order of the names
        expected = np.array([[255 if value == 0 else value - 1 for value in row] for row in stored], np.uint8)
        for _ in range(2):
            np.testing.assert_array_equal(decode_mask(source[index]["mask"]), expected)
    assert set(np.unique(expected)) == {*range(150), 255}
    assert [len(opened(PLACE.name, split)) for split in ("train", "val")] == [3, 2]


def test_the_uint8_rule_is_the_same():
    values = np.arange(151, dtype=np.uint8)
    from spendflops_plugins.ade20k import LABELS

    np.testing.assert_array_equal(LABELS[values].astype(np.uint8), values - np.uint8(1))
    assert (LABELS[151:] == -1).all()


def test_masks_that_are_wrong(tmp_path):
    root = build(tmp_path)
    for number, array in enumerate((np.full((10, 16), 151), np.ones((16, 10)), np.ones((10, 16, 3))), 1):
        png(root / f"annotations/training/ADE_train_{number:08d}.png", array.astype(np.uint8))
    source = opened(root)
    refuses(source[0]["mask"].decode_mask, "ADE_train_00000001.png has the value 151")
    refuses(source[1]["mask"].decode_mask, "ADE_train_00000002.png is 10 x 16 pixels, its image 16 x 10")
    refuses(source[2]["mask"].decode_mask, "ADE_train_00000003.png does not hold one 8-bit index a pixel", "RGB")


def test_files_that_are_missing(tmp_path):
    root = build(tmp_path)
    mask = root / "annotations/training/ADE_train_00000002.png"
    kept = mask.read_bytes()
    mask.unlink()
    for partial in (True, False):
        refuses(lambda partial=partial: opened(root, partial=partial), "ADE_train_00000002.jpg has no mask")
    assert len(opened(root, features=("image",))) == 3  # masks are not looked at
    mask.write_bytes(kept)
    (root / "images/training/ADE_train_00000001.jpg").unlink()
    refuses(lambda: opened(root, partial=False), "ADE_train_00000001.png has no image", "partial=True")
    source = opened(root)
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["mask"].decode_mask() == 255, np.roll(STORED, 2) == 0)
    refuses(lambda: opened(PLACE.name, partial=False), "3 samples, published are 20,210")
    refuses(lambda: opened(PLACE.name, "test"), "no split 'test'")
    refuses(lambda: opened(PLACE.name, features=("label",)), "no feature 'label'", error=ConfigError)


def test_the_full_release_is_refused(tmp_path):
    grey = np.zeros((4, 4, 3), np.uint8)
    old, new = tmp_path / "ADE20K_2016_07_26", tmp_path / "ADE20K_2021_17_01"
    for name in ("ADE_train_00000970.jpg", "ADE_train_00000970_seg.png"):
        png(old / "images/training/a/abbey" / name, grey)
        png(new / "images/ADE/training/cultural/abbey" / name, grey)
    refuses(lambda: opened(old), "full ADE20K", "ADE_train_00000970_seg.png", "ADEChallengeData2016.zip")
    refuses(lambda: opened(new), "full ADE20K", "images/ADE", "ADEChallengeData2016.zip")
    build(tmp_path / "ADEChallengeData2016")
    refuses(lambda: opened(tmp_path), "ADEChallengeData2016", "give the path")
