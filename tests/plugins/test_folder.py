"""The folder data set: splits, classes, and what it refuses."""

import pickle

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.folder import Folder

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
