"""Copies that are what was published, and copies that are not."""

import hashlib

import numpy as np
import pytest

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.data.verify import verify
from spendflops.parts.faults import faults_of
from spendflops.parts.images import ArrayImage, EncodedImage
from spendflops.parts.sources.published import PublishedDataset, check_classes

INFO = DatasetInfo(
    name="made",
    features={"image": "uint8 H W C", "label": "int32"},
    classes=("a", "b"),
    sizes={"train": 6, "test": 2},
)


class Samples:
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class Made(PublishedDataset):
    """Six training images, or as many as the name of the folder says; one may be broken."""

    def __init__(self, *, path: str | None = None, partial: bool = False, broken: int = -1, label: int = 1):
        super().__init__(INFO, path=path, partial=partial)
        self.broken, self.label = broken, label

    def open(self, root, split, features):
        if root.endswith("unreadable"):
            raise DataError("the list cannot be read")
        count = int(root.rpartition("-")[2]) if split == "train" else 2
        image = ArrayImage(np.zeros((4, 5, 3), np.uint8))
        bad = EncodedImage(b"no", name="bad.jpg")
        return Samples([{"image": bad if i == self.broken else image, "label": self.label} for i in range(count)])


def folder(tmp_path, count=6):
    path = tmp_path / f"made-{count}"
    path.mkdir()
    return str(path)


def test_a_sound_copy(tmp_path):
    calls = []
    report = verify(Made, path=folder(tmp_path), progress=lambda done, total: calls.append((done, total)))
    assert report.sound and report.classes[0] == report.classes[1] == hashlib.sha256(b"a\nb").hexdigest()[:16]
    assert [(r.split, r.published, r.found, r.read) for r in report.splits] == [("train", 6, 6, 6), ("test", 2, 2, 2)]
    assert calls == [(i + 1, 6) for i in range(6)] + [(1, 2), (2, 2)]


def test_too_few_examples(tmp_path):
    report = verify(Made, path=folder(tmp_path, 5))
    assert report.splits[0].faults == ("5 examples, published are 6",) and not report.sound


def test_a_broken_image_is_found_where_all_are_read(tmp_path):
    path = folder(tmp_path)
    report = verify(Made, path=path, options={"broken": 4}, samples=None)
    assert len(report.splits[0].faults) == 1 and "bad.jpg" in report.splits[0].faults[0]
    assert verify(Made, path=path, options={"broken": 4}, samples=2).sound  # the first and the last alone


def test_a_label_that_is_no_class(tmp_path):
    report = verify(Made, path=folder(tmp_path), options={"label": 2}, splits=["test"])
    assert [r.split for r in report.splits] == ["test"]
    assert report.splits[0].faults == tuple(f"example {i}: label [2] of 2 classes" for i in range(2))


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "unreadable").mkdir()
    report = verify(Made, path=str(tmp_path / "unreadable"))
    assert [r.found for r in report.splits] == [None, None] and "the list cannot be read" in report.splits[0].faults[0]
    assert "is not there" in verify(Made, path=str(tmp_path / "absent")).splits[0].faults[0]
    assert "has no path" in verify(Made).splits[0].faults[0]


class Renamed(Made):
    def __init__(self, *, path: str | None = None, partial: bool = False):
        super().__init__(path=path, partial=partial)
        if path:
            self.info = DatasetInfo(**{**vars(self.info), "classes": ("a", "c")})


def test_another_list_of_classes(tmp_path):
    report = verify(Renamed, path=folder(tmp_path))
    assert not report.sound and "list of classes" in report.faults[0]


class Free(Dataset):
    """Without published counts."""

    info = DatasetInfo(name="free", features={"image": "uint8 H W C"})

    def source(self, split, *, features):
        if split != "val":
            raise DataError(f"no split {split!r}")
        made = Samples([{"image": ArrayImage(np.zeros((4, 5, 3), np.uint8))}])
        made.left_out = {"a box without area": 3}
        return made


def test_a_set_without_published_counts():
    report = verify(Free)
    assert report.sound and [(r.split, r.published, r.found) for r in report.splits] == [("val", None, 1)]
    assert report.splits[0].left_out == {"a box without area": 3}


MASKS = DatasetInfo(
    name="m",
    features={},
    classes=("a", "b"),
    label_names=("a", "b", "x"),
    mask_classes=("p", "q"),
    box_classes=("car",),
)
IMAGE = ArrayImage(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"mask": np.zeros((4, 5), np.uint8)}, ""),
        ({"mask": np.full((4, 5), 255, np.uint8)}, ""),
        ({"mask": np.full((4, 5), 2, np.uint8)}, "mask value 2 of 2"),
        ({"mask": np.zeros((5, 4), np.uint8)}, "a mask of 5 x 4"),
        ({"label": -1}, ""),
        ({"label": -2}, "label"),
        ({"labels": np.array([2])}, ""),
        ({"labels": np.array([3])}, "labels"),
        ({"box_labels": np.array([0, 0])}, ""),
        ({"box_labels": np.array([1])}, "box_labels [1] of 1 classes"),
        ({"boxes": np.array([[0, 0, 5, 4.5]], np.float32)}, ""),
        ({"boxes": np.zeros((0, 4), np.float32)}, ""),
        ({"boxes": np.array([[0, 0, 7, 4]], np.float32)}, "outside"),
        ({"boxes": np.array([[-2, 0, 3, 4]], np.float32)}, "outside"),
        ({"boxes": np.array([[1, 1, 1, 4]], np.float32)}, "without area"),
        ({"boxes": np.array([[1, 1, np.nan, 4]], np.float32)}, "without area"),
    ],
)
def test_faults_of_a_sample(sample, said):
    found = faults_of({"image": IMAGE, **sample}, MASKS)
    assert (said in found[0] and len(found) == 1) if said else not found


class Lies(ArrayImage):
    size = (9, 9)


def test_an_image_that_is_not_as_large_as_it_says():
    assert "its header says 9 x 9" in faults_of({"image": Lies(np.zeros((4, 5, 3), np.uint8))}, MASKS)[0]


def test_published_sets_check_what_they_are_given(tmp_path):
    path = folder(tmp_path, 5)
    with pytest.raises(DataError, match="train has 5 samples, published are 6"):
        Made(path=path).source("train")
    part = Made(path=path, partial=True)
    assert len(part.source("train")) == 5 and part.info.sizes == {}
    with pytest.raises(DataError, match=r"no split 'tarin' \(did you mean 'train'"):
        part.source("tarin")
    with pytest.raises(ConfigError, match=r"no feature 'lable' \(did you mean 'label'"):
        part.source("train", features=("lable",))
    with pytest.raises(DataError, match="has no path"):
        Made().source("train")
    with pytest.raises(DataError, match=r"did you mean 'made-5'"):
        Made(path=path[:-1]).source("train")


@pytest.mark.parametrize(
    ("found", "partial", "said"),
    [
        (("a", "b"), False, ""),
        (("a",), True, ""),
        (("a",), False, "1 class.* missing.* 'b'"),
        (("a", "c"), True, "unknown.* 'c'"),
    ],
)
def test_classes_on_the_disk(found, partial, said):
    if not said:
        check_classes("made", found, ("a", "b"), partial=partial)
        return
    with pytest.raises(DataError, match=said):
        check_classes("made", found, ("a", "b"), partial=partial)
