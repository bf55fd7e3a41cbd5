"""Listing of folders: what is taken, what is left out, and what is an error that names a file."""

import os
import pickle

import numpy as np
import PIL.Image
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources import folder as sources
from spendflops.parts.sources.folder import FolderSource, list_images, subfolders, verify


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate(["cat/2.png", "cat/10.png", "ant/deep/er/1.JPG", "bee/1.jpeg"]):
        picture(tmp_path / name, 20 * i)
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / "._2.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    picture(tmp_path / ".cache" / "x.png")
    return tmp_path


def refuses(root, *words, error=DataError, **options):
    with pytest.raises(error) as caught:
        list_images(root, **options)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def test_class_folders(tree):
    listing = list_images(tree)
    assert listing.classes == ("ant", "bee", "cat")
    assert listing.files == ("ant/deep/er/1.JPG", "bee/1.jpeg", "cat/10.png", "cat/2.png")
    assert listing.labels.tolist() == [0, 1, 2, 2] and listing.labels.dtype == np.int32
    source = pickle.loads(pickle.dumps(FolderSource(listing)))
    assert len(source) == 4
    sample = source[3]
    assert sample["label"] == 2 and sample["image"].size == (4, 5) and (sample["image"].decode() == 0).all()
    for index in (-1, 4):
        with pytest.raises(IndexError):
            source[index]


def test_images_without_labels(tree):
    flat = list_images(tree / "cat")
    assert flat.files == ("10.png", "2.png") and flat.labels is None and flat.classes == ()
    assert set(FolderSource(flat)[0]) == {"image"}
    deep = list_images(tree, labels="none")
    assert len(deep.files) == 4 and deep.labels is None


def test_images_beside_folders_need_a_decision(tree):
    picture(tree / "loose.png")
    refuses(tree, "beside folders", "labels='folders'")
    assert len(list_images(tree, labels="folders").files) == 4
    assert len(list_images(tree, labels="none").files) == 5
    refuses(tree, "did you mean 'folders'", error=ConfigError, labels="folder")


def test_numbers_sort_as_numbers(tmp_path):
    for name in ("10", "9", "0", "100"):
        picture(tmp_path / name / "a.png")
    assert list_images(tmp_path).classes == ("0", "9", "10", "100")
    picture(tmp_path / "x" / "a.png")
    assert subfolders(str(tmp_path)) == ("0", "10", "100", "9", "x")


def test_given_classes(tree):
    listing = list_images(tree, classes=("cat", "dog", "ant", "bee"))
    assert listing.labels.tolist() == [0, 0, 2, 3] and listing.classes[1] == "dog"
    refuses(tree, "class folder", "bee", "not among the 2 classes", classes=("ant", "cat"))


def test_an_empty_class_folder_is_named(tree):
    (tree / "dog").mkdir()
    refuses(tree, "dog has no images", "it is empty", "allow_empty")
    (tree / "dog" / "a.heic").write_bytes(b"")
    refuses(tree, "dog has no images", "a.heic")
    listing = list_images(tree, allow_empty=True)
    assert listing.classes == ("ant", "bee", "cat", "dog") and 3 not in listing.labels


def test_nothing_there(tmp_path):
    (tmp_path / "photos").mkdir()
    refuses(tmp_path / "photos", "has no images")
    refuses(tmp_path / "fotos", "not there", "did you mean 'photos'")
    refuses(tmp_path / "no" / "where", "not there")
    refuses(tmp_path / "fotos", "not there", labels="none")
    refuses(picture(tmp_path / "a.png"), "cannot be read")


def test_an_unreadable_folder_is_named(tree, monkeypatch):
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "bee":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(sources.os, "scandir", scandir)
    refuses(tree, "bee cannot be read", "Permission denied")


def test_links_are_followed_but_not_in_circles(tree):
    os.symlink(tree / "cat", tree / "bee" / "more")
    assert "bee/more/2.png" in list_images(tree).files
    os.symlink(tree / "bee", tree / "bee" / "again")
    refuses(tree, "again", "link")


def test_skip(tree):
    assert list_images(tree, skip=("cat/2.png",)).files == ("ant/deep/er/1.JPG", "bee/1.jpeg", "cat/10.png")
    assert list_images(tree, skip=("cat/2.png",)).labels.tolist() == [0, 1, 2]
    refuses(tree, "cat/3.png", "did you mean 'cat/2.png'", skip=("cat/3.png",))


def test_broken_images_raise_when_used_or_all_at_once(tree):
    (tree / "cat" / "bad.jpg").write_bytes(b"not a picture")
    (tree / "bee" / "none.jpg").write_bytes(b"")
    listing = list_images(tree)
    source = FolderSource(listing)
    with pytest.raises(DataError, match=r"none\.jpg"):
        source[listing.files.index("bee/none.jpg")]["image"].decode()
    with pytest.raises(DataError) as caught:
        verify(listing)
    message = str(caught.value)
    assert "2 of 6" in message and "skip=('bee/none.jpg', 'cat/bad.jpg')" in message
    verify(list_images(tree, skip=("bee/none.jpg", "cat/bad.jpg")))
