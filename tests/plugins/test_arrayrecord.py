"""A prepared copy as a data set: the same samples and information, and a folder that is not as it was written."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from spendflops_plugins.arrayrecord import ArrayRecord
from spendflops_plugins.shapes import Shapes

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.data.prepare import prepare
from spendflops.testing.samples import differences

SOURCE = {"size": 16, "length": 24, "validation": 0, "probe": 5, "test": 8}


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(ArrayRecord, splits=("train", "probe", "test"), path=PLACE.name)


@pytest.fixture(scope="module", autouse=True)
def made():
    prepare(Shapes(**SOURCE), PLACE.name, examples_per_shard=10)
    yield Path(PLACE.name)
    PLACE.cleanup()


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_it_is_the_data_set_that_was_prepared(made):
    shapes, data = Shapes(**SOURCE), ArrayRecord(path=str(made))
    assert data.info == shapes.info and data.info.label_names
    for split, size in shapes.info.sizes.items():
        ours, theirs = (d.source(split, features=tuple(shapes.info.features)) for d in (data, shapes))
        assert len(ours) == size
        for i in range(size):
            assert not differences(dict(ours[i]), dict(theirs[i])), (split, i)
            assert ours[i]["image"].digest() == theirs[i]["image"].digest()
    assert "train-00001-of-00003.arrayrecord record 2" in data.source("train")[10]["image"].name


def test_what_is_not_there(made, tmp_path):
    data = ArrayRecord(path=str(made))
    refuses(lambda: data.source("trian"), "no split 'trian'", "did you mean 'train'")
    refuses(lambda: data.source("train", features=("masks",)), "did you mean 'mask'", error=ConfigError)
    refuses(lambda: ArrayRecord(path=str(tmp_path / "nothing")).info, "nothing is not there")
    refuses(lambda: ArrayRecord(path=str(tmp_path)).info, "no prepared data set", "data prepare")


def test_an_unfinished_folder(copy):
    (copy / "dataset_info.json").rename(copy / "dataset_info.unfinished.json")
    refuses(lambda: ArrayRecord(path=str(copy)).info, "is not finished", "again")


def test_shards_that_are_missing_or_strange(copy):
    data = ArrayRecord(path=str(copy))
    shard = copy / "train-00001-of-00003.arrayrecord"
    shard.rename(copy / "train-00001-of-00004.arrayrecord")
    refuses(lambda: data.source("train"), "train-00001-of-00003.arrayrecord is missing", "3 shards of train")
    assert len(data.source("test")) == 8
    shutil.copy(copy / "train-00001-of-00004.arrayrecord", shard)
    refuses(lambda: data.source("train"), "train-00001-of-00004.arrayrecord does not belong")
    (copy / "train-00001-of-00004.arrayrecord").unlink()
    assert len(data.source("train")) == 24
    writer = ArrayRecordWriter(str(shard), "group_size:1,uncompressed")
    writer.write(b"one")
    writer.close()
    refuses(lambda: data.source("train"), str(shard), "1 records", "says 8")
    shard.write_bytes(b"")
    refuses(lambda: data.source("train"), str(shard), "cannot be read")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "does not say"),
        ({"version": 9}, "version 9"),
        ({"classes": ["a", "b"]}, "class list"),
        ({"classes": "ab"}, "list of names"),
        ({"features": []}, "items"),
        ({"shards": {"train": [1, "x"]}}, "invalid literal"),
        ({"licence": None, "name": None, "sizes": None, "shards": None}, "items"),
    ],
)
def test_a_manifest_that_is_damaged_or_edited(copy, change, said):
    path = copy / "dataset_info.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | change))
    refuses(lambda: ArrayRecord(path=str(copy)).info, str(path), said)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_not_one(copy, text):
    (copy / "dataset_info.json").write_text(text, encoding="latin-1")
    refuses(lambda: ArrayRecord(path=str(copy)).info, "dataset_info.json cannot be read")


def test_a_manifest_without_an_entry(copy):
    path = copy / "dataset_info.json"
    manifest = json.loads(path.read_text())
    for key in ("name", "features", "classes", "label_names", "shards", "classes_sha256", "source"):
        path.write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        refuses(lambda: ArrayRecord(path=str(copy)).info, str(path), key)


def test_a_manifest_from_before_boxes_had_classes(copy):
    path = copy / "dataset_info.json"
    manifest = json.loads(path.read_text())
    assert manifest["box_classes"] == list(Shapes(**SOURCE).info.box_classes) and manifest["box_counts"] == []
    path.write_text(json.dumps({k: v for k, v in manifest.items() if k not in ("box_classes", "box_counts")}))
    assert ArrayRecord(path=str(copy)).info.box_classes == ()
    path.write_text(json.dumps(manifest | {"box_counts": [3, 4]}))
    assert ArrayRecord(path=str(copy)).info.box_counts == (3, 4)


def test_records_of_another_declaration(copy):
    path = copy / "dataset_info.json"
    manifest = json.loads(path.read_text())
    manifest["features"]["label"] = "int32 M"
    path.write_text(json.dumps(manifest))
    source = ArrayRecord(path=str(copy)).source("train", features=("label",))
    refuses(lambda: source[3], "train-00000-of-00003.arrayrecord record 3", "'label' is stored as 'int'")
    assert np.size(ArrayRecord(path=str(copy)).source("train", features=("image",))[3]["image"].decode()) == 768
