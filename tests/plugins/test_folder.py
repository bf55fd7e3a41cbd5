"""The folder data set: splits, classes, masks, captions, and what it refuses."""

import json
import pathlib
import pickle
import tempfile

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.folder import Folder

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.splits import overlap, select


def pictures(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((4, 5, 3), 10 * i, np.uint8)).save(root / name)
    return root


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def labels(source):
    return [source[i]["label"] for i in range(len(source))]


def test_class_folders_are_one_split(tmp_path):
    data = Folder(path=str(pictures(tmp_path / "pets", "dog/1.png", "cat/1.png", "cat/2.png")))
    assert Folder(path=str(pictures(tmp_path / "cars/test", "bus/1.png"))).info.name == "cars/test"
    assert data.info.name == "pets" and data.info.classes == ("cat", "dog")
    assert set(data.info.features) == {"image", "label"}
    source = pickle.loads(pickle.dumps(data.source("all", features=("image", "label"))))
    assert labels(source) == [0, 0, 1] and source[0]["image"].size == (4, 5)
    assert len(select(source, "all[:2]")) == 2
    assert len(data.source("train")) == len(data.source("all"))
    refuses(lambda: data.source("test"), "no split 'test'", "all")


def test_split_folders(tmp_path):
    pictures(tmp_path, "train/b/1.png", "train/a/1.png", "train/c/1.png", "test/c/2.png", "test/a/1.png", "val/b/9.png")
    data = Folder(path=str(tmp_path))
    assert data.info.classes == ("a", "b", "c")
    assert labels(data.source("train")) == [0, 1, 2]
    # A class that is missing in a split does not shift the labels of the others.
    assert labels(data.source("test")) == [0, 2] and labels(data.source("val")) == [1]
    (tmp_path / "test/a/copy.png").write_bytes((tmp_path / "train/b/1.png").read_bytes())
    assert overlap({s: data.source(s) for s in ("train", "test")})[("train", "test")] == 1
    refuses(lambda: data.source("trian"), "did you mean 'train'")
    pictures(tmp_path, "test/zebra/1.png")
    refuses(lambda: data.source("test"), "zebra", "not among the 3 classes")


def test_images_without_labels(tmp_path):
    data = Folder(path=str(pictures(tmp_path, "2.png", "1.jpg")))
    assert set(data.info.features) == {"image"} and data.info.classes == ()
    source = data.source("all", features=("image",))
    assert len(source) == 2 and set(source[0]) == {"image"}
    refuses(
        lambda: data.source("all", features=("image", "label")),
        "no feature 'label'",
        "class folders",
        error=ConfigError,
    )
    refuses(lambda: data.source("all", features=("mask",)), "no feature 'mask'", error=ConfigError)


def test_splits_without_labels_are_not_classes(tmp_path):
    data = Folder(path=str(pictures(tmp_path, "train/1.png", "train/2.png", "test/1.png")))
    assert set(data.info.features) == {"image"}
    assert len(data.source("train")) == 2 and len(data.source("test")) == 1
    # Labelled training images, an unlabelled test split.
    mixed = Folder(path=str(pictures(tmp_path / "m", "train/a/1.png", "train/b/1.png", "test/1.png")))
    assert "label" in mixed.info.features
    refuses(lambda: mixed.source("test", features=("label",)), "no feature 'label'", error=ConfigError)
    assert len(mixed.source("test")) == 1


def test_what_cannot_be_guessed_is_asked(tmp_path):
    root = pictures(tmp_path, "car/1.png", "bus/1.png", "train/1.png")
    refuses(lambda: Folder(path=str(root)).source("all"), "splits or classes", "splits=()")
    assert Folder(path=str(root), splits=()).info.classes == ("bus", "car", "train")
    assert len(Folder(path=str(root), splits=("train",)).source("train")) == 1
    refuses(lambda: Folder(path=str(root), splits=("trains",)).info, "did you mean 'train'")
    loose = pictures(tmp_path / "loose", "a/1.png", "1.png")
    refuses(lambda: Folder(path=str(loose)).info, "beside folders", "labels=")
    assert len(Folder(path=str(loose), labels="none").source("all")) == 2
    assert len(Folder(path=str(loose), labels="folders").source("all")) == 1


def test_a_missing_path_is_an_error_only_when_used(tmp_path):
    pictures(tmp_path / "photos", "a/1.png")
    data = Folder(path=str(tmp_path / "fotos"))
    refuses(lambda: data.info, "fotos is not there", "did you mean 'photos'")
    refuses(lambda: data.source("all"), "fotos is not there")


def test_empty_class_folders(tmp_path):
    pictures(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    refuses(lambda: Folder(path=str(tmp_path)).source("all"), "b has no images", "allow_empty")
    data = Folder(path=str(tmp_path), allow_empty=True)
    assert data.info.classes == ("a", "b", "c") and labels(data.source("all")) == [0, 2]


def test_broken_images_and_skip(tmp_path):
    pictures(tmp_path, "train/a/1.png", "train/a/2.png", "test/a/1.png")
    (tmp_path / "train/a/bad.jpg").write_bytes(b"oops")
    source = Folder(path=str(tmp_path)).source("train")
    refuses(lambda: source[2]["image"].decode(), "bad.jpg", "skip")
    checked = Folder(path=str(tmp_path), check=True)
    refuses(lambda: checked.source("train"), "1 of 3", "a/bad.jpg")
    assert len(checked.source("test")) == 1
    assert len(Folder(path=str(tmp_path), check=True, skip=("train/a/bad.jpg",)).source("train")) == 2
    refuses(lambda: Folder(path=str(tmp_path), skip=("a/bad.jpg",)).source("train"), "in no split")
    refuses(lambda: Folder(path=str(tmp_path), skip=("train/a/bda.jpg",)).source("train"), "did you mean")


def test_options(tmp_path):
    pictures(tmp_path, "a/1.png", "b/1.png")
    data = Folder(path=str(tmp_path), classes=["b", "a"], name="letters", licence="CC0-1.0")
    assert data.info.classes == ("b", "a") and data.info.name == "letters" and data.info.licence == "CC0-1.0"
    assert labels(data.source("all")) == [0, 1]
    refuses(lambda: Folder(path=str(tmp_path), labels="folder"), "did you mean 'folders'", error=ConfigError)
    refuses(lambda: Folder(path=str(tmp_path), classes="ab"), "lists", error=ConfigError)


def street(root, *names, size=(4, 5), value=1):
    """``images/<name>.png``, all different, with ``annotations/<name>.png`` of one value."""
    for name in names:
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
        for kind, array in (("images", pixels), ("annotations", np.full(size, value, np.uint8))):
            path = root / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(path)
    return root


SCENES = {"images": "images", "masks": "annotations", "mask_classes": ("sky", "road")}


def test_masks_beside_the_images(tmp_path):
    street(tmp_path, "train/aachen/1", "train/bonn/1", "val/1", value=0)
    mask = np.array([[0, 1, 7], [255, 1, 0]], np.uint8)
    street(tmp_path, "train/aachen/1", size=(2, 3))
    PIL.Image.fromarray(mask).save(tmp_path / "annotations/train/aachen/1.png")
    data = Folder(path=str(tmp_path), ignore_label=7, **SCENES)
    # Folders in a split are cities, not classes.
    assert set(data.info.features) == {"image", "mask"} and data.info.mask_classes == ("sky", "road")
    assert data.info.classes == ()
    source = pickle.loads(pickle.dumps(data.source("train", features=("image", "mask"))))
    assert len(source) == 2 and len(data.source("val", features=("image", "mask"))) == 1
    np.testing.assert_array_equal(source[0]["mask"].decode_mask(), np.where(mask == 7, 255, mask))
    assert set(data.source("train")[0]) == {"image"}
    classed = Folder(path=str(tmp_path), labels="folders", **SCENES)
    assert classed.info.classes == ("aachen", "bonn")
    assert set(classed.source("train", features=("image", "label", "mask"))[0]) == {"image", "label", "mask"}


def test_zero_may_be_ignored_and_classes_may_stand_in_a_file(tmp_path):
    street(tmp_path, "all/1")
    mask = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    street(tmp_path, "all/1", size=(2, 3))
    PIL.Image.fromarray(mask).save(tmp_path / "annotations/all/1.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\n\n")
    options = SCENES | {"mask_classes": "classes.txt", "splits": ("all",)}
    data = Folder(path=str(tmp_path), zero_is_ignored=True, **options)
    assert data.info.mask_classes == ("sky", "road")
    found = data.source("all", features=("mask",))[0]["mask"].decode_mask()
    np.testing.assert_array_equal(found, [[255, 0, 1], [1, 0, 255]])
    refuses(lambda: Folder(path=str(tmp_path), **options | {"mask_classes": "names.txt"}).info, "names.txt")


def test_masks_that_are_wrong_are_named(tmp_path):
    def mask(folder, split="train"):
        return Folder(path=str(folder), **SCENES).source(split, features=("image", "mask"))[0]["mask"].decode_mask()

    street(tmp_path / "a", "train/1", "train/2")
    (tmp_path / "a/annotations/train/1.png").unlink()
    refuses(lambda: mask(tmp_path / "a"), "a/images/train/1.png has no mask", "1 of 2")
    street(tmp_path / "b", "train/1")
    PIL.Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "b/annotations/train/1.png")
    refuses(lambda: mask(tmp_path / "b"), "b/annotations/train/1.png", "3 x 3", "5 x 4")
    street(tmp_path / "c", "train/1", value=2)
    refuses(lambda: mask(tmp_path / "c"), "c/annotations/train/1.png", "the value 2")
    checked = Folder(path=str(tmp_path / "c"), check=True, **SCENES)
    refuses(lambda: checked.source("train", features=("image", "mask")), "the value 2")
    street(tmp_path / "d", "train/1")
    pictures(tmp_path / "d", "annotations/train/1.jpg")
    refuses(lambda: mask(tmp_path / "d"), "1.jpg", "1.png", "both")
    street(tmp_path / "e", "train/1")
    (tmp_path / "e/annotations").rename(tmp_path / "e/annotation")
    refuses(lambda: mask(tmp_path / "e"), "is not there")
    plain = Folder(path=str(tmp_path / "e/images"))
    refuses(lambda: plain.source("train", features=("mask",)), "masks='annotations'", error=ConfigError)


def test_options_of_masks_that_do_not_fit():
    for options, word in (
        ({"masks": "annotations", "mask_classes": ("a",)}, "without images"),
        ({"masks": "annotations", "images": "images"}, "without mask_classes"),
        ({"ignore_label": 3}, "ignore_label without masks"),
        (SCENES | {"ignore_label": 1}, "the value 1 is to be ignored"),
        (SCENES | {"ignore_label": 256}, "the value 256"),
        (SCENES | {"mask_classes": tuple(map(str, range(256)))}, "the value 255"),
        (SCENES | {"mask_classes": ("sky", "sky")}, "one name"),
    ):
        refuses(lambda options=options: Folder(path="nowhere", **options), word, error=ConfigError)


@pytest.mark.parametrize("name", ["captions.tsv", "captions.jsonl", "metadata.jsonl", ".txt"])
def test_captions(tmp_path, name):
    pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    texts = {"train/a/1.png": "one ä", "train/b/1.png": "two\twords", "val/a/1.png": "three"}
    keys = ("file_name", "text") if name == "metadata.jsonl" else ("path", "caption")
    for path, text in texts.items():
        if name == ".txt":
            (tmp_path / path).with_suffix(".txt").write_text(text + "\n")
            continue
        with open(tmp_path / name, "a") as file:
            line = f"{path}\t{text}" if name.endswith("tsv") else json.dumps(dict(zip(keys, (path, text), strict=True)))
            file.write(line + "\n")
    data = Folder(path=str(tmp_path), captions=name)
    assert set(data.info.features) == {"image", "label", "caption"}
    source = pickle.loads(pickle.dumps(data.source("train", features=("image", "caption"))))
    assert [source[i]["caption"] for i in range(2)] == ["one ä", "two\twords"]
    assert "caption" not in data.source("train")[0]
    # A file of captions speaks of other images, too; all of a split must have one.
    pictures(tmp_path, "val/a/2.png")
    refuses(lambda: data.source("val", features=("caption",)), "a/2.png has no caption", "1 of 2")


def test_captions_that_are_wrong_are_named(tmp_path):
    pictures(tmp_path, "1.png")
    for text, line in (("1.png\tx\n1.png\ty", 2), ("1.png x", 1), ("1.png\t ", 1)):
        (tmp_path / "c.tsv").write_text(text)
        refuses(
            lambda: Folder(path=str(tmp_path), captions="c.tsv").source("all", features=("caption",)), f"line {line}"
        )
    for text in ('{"path": "1.png"}', "[1]", "{", '{"path": 1, "caption": "x"}'):
        (tmp_path / "c.jsonl").write_text(text)
        refuses(lambda: Folder(path=str(tmp_path), captions="c.jsonl").source("all", features=("caption",)), "line 1")
    refuses(lambda: Folder(path=str(tmp_path), captions="no.tsv").source("all", features=("caption",)), "no.tsv")
    (tmp_path / "1.txt").write_text(" \n")
    source = Folder(path=str(tmp_path), captions=".txt").source("all", features=("caption",))
    refuses(lambda: source[0], "1.txt is empty")
    refuses(lambda: Folder(path=str(tmp_path)).source("all", features=("caption",)), "captions=", error=ConfigError)


PLACE = tempfile.TemporaryDirectory()
street(pathlib.Path(PLACE.name), *(f"{split}/{i}" for split in ("train", "val") for i in range(3)))
(pathlib.Path(PLACE.name) / "captions.tsv").write_text(
    "".join(f"{split}/{i}.png\tnumber {i}\n" for split in ("train", "val") for i in range(3))
)
test_kit = spendflops.testing.dataset_tests(
    "folder", splits=("train", "val"), path=PLACE.name, captions="captions.tsv", **SCENES
)
