"""Reassessed labels: they go by the number in the file name, images without one are left out."""

import dataclasses
import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from imagenetlib import FORMS, VAL, write
from spendflops_plugins import imagenet_real
from spendflops_plugins.imagenet_real import ImageNetReal

import spendflops.testing
from spendflops.contracts.errors import DataError
from spendflops.parts.sources.imagenet import WNIDS

REAL = [[999, 3], [], [500], [7, 8, 2], [0]]
PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ImageNetReal, splits=("val",), path=PLACE.name, partial=True)


def text(real):
    return {"real.json": json.dumps(real).encode()}


@pytest.fixture(scope="module", autouse=True)
def fixture():
    write(PLACE.name, FORMS["kaggle"]() | text(REAL))


def refuses(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def opened(root, features=("image", "labels"), **options):
    return ImageNetReal(path=str(root), **{"partial": True, **options}).source("val", features=features)


def test_information_without_a_disk():
    info = ImageNetReal().info
    assert info.classes == WNIDS and info.sizes == {"val": 46_837} and set(info.features) == {"image", "labels"}
    assert info.licence and info.citation and info.homepage
    refuses(lambda: ImageNetReal().source("val"), "no path")
    refuses(lambda: ImageNetReal().source("test"), "no split 'test'")


@pytest.mark.parametrize("form", FORMS)
def test_labels_go_by_file_number(tmp_path, form):
    write(tmp_path, FORMS[form]() | text(REAL))
    source = pickle.loads(pickle.dumps(opened(tmp_path)))
    found = [source[i] for i in range(len(source))]
    assert [sample["labels"].tolist() for sample in found] == [[999, 3], [500], [7, 8, 2], [0]]
    kept = [content for name, content in sorted(VAL.items()) if "00000002" not in name]
    assert [sample["image"].read() for sample in found] == kept
    assert all(sample["labels"].dtype == np.int32 for sample in found)
    found[0]["labels"][:] = -5
    assert source[0]["labels"].tolist() == [999, 3]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            source[index]
    assert "RealSource(" in repr(source) and str(tmp_path) in repr(source)


def test_the_labels_of_imagenet_are_not_needed(tmp_path):
    write(tmp_path, {f"val/{name}": content for name, content in VAL.items()})
    write(tmp_path / "elsewhere", text(REAL))
    refuses(lambda: opened(tmp_path), "real.json is not there", "real_json")
    assert len(opened(tmp_path, real_json=str(tmp_path / "elsewhere/real.json"))) == 4


def test_a_part_keeps_its_labels(tmp_path):
    write(tmp_path, {f"val/{name}": content for name, content in VAL.items()} | text(REAL))
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").unlink()
    source = opened(tmp_path)
    assert [source[i]["labels"].tolist() for i in range(len(source))] == [[500], [7, 8, 2], [0]]


def test_counts_are_checked(tmp_path, monkeypatch):
    write(tmp_path, FORMS["extracted"]() | text(REAL))
    refuses(lambda: opened(tmp_path, partial=False), "996 class(es) missing")
    flat = tmp_path / "flat"
    write(flat, FORMS["flat"]() | text(REAL))
    refuses(lambda: opened(flat, partial=False), "5 validation images", "5 lists", "50,000 of both")
    monkeypatch.setattr(imagenet_real, "SIZES", {"val": 5})
    refuses(lambda: opened(flat, partial=False), "4 samples, published are 46,837")
    monkeypatch.setattr(imagenet_real, "INFO", dataclasses.replace(imagenet_real.INFO, sizes={"val": 4}))
    assert len(opened(flat, partial=False)) == 4
    write(flat, text([*REAL, [1]]))
    refuses(lambda: opened(flat, partial=False), "5 validation images", "6 lists")
    write(flat, text(REAL[:4]))
    refuses(lambda: opened(flat), "has 4 lists, none for validation image 5")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[[1], [2", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"1": [1]}', "not a list of lists"),
        (b"[[1], 2]", "list 2 has something else"),
        (b"[[1000]]", "list 1 has something else"),
        (b"[[-1]]", "labels 0..999"),
        (b"[[true]]", "True"),
        (b"[[1.5]]", "1.5"),
    ],
)
def test_lists_that_are_broken(tmp_path, content, said):
    write(tmp_path, FORMS["flat"]() | {"real.json": content})
    refuses(lambda: opened(tmp_path), "real.json", said)


def test_a_folder_in_the_place_of_the_list(tmp_path):
    write(tmp_path, FORMS["flat"]() | {"real.json/labels": b"x"})
    refuses(lambda: opened(tmp_path), "real.json cannot be read")


def test_other_names_have_no_number(tmp_path):
    write(tmp_path, text(REAL) | {"val/n01440764/fish.JPEG": b"x"})
    refuses(lambda: opened(tmp_path), "fish.JPEG is not named as a validation image")


@pytest.mark.skipif("SPENDFLOPS_TEST_DATA" not in os.environ, reason="SPENDFLOPS_TEST_DATA is not set")
def test_the_published_list():
    place = Path(os.environ["SPENDFLOPS_TEST_DATA"]) / "real.json"
    if not place.is_file():
        pytest.skip(f"{place} is not there")
    groups = imagenet_real._read(str(place))
    assert len(groups) == 50_000 and sum(map(bool, groups)) == 46_837 and sum(map(len, groups)) == 57_553
