"""Any tar shards: splits, what samples are found to hold, and what is refused."""

import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from spendflops_plugins.webdataset import WebDataset

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from tests.parts.pictures import encode, smooth
from tests.parts.shardlib import pack, refuses


def labelled(start, count, classes=3):
    """Members as in timm's copies of ImageNet: jpg, cls and json."""
    for i in range(start, start + count):
        key = f"n{i % classes:08d}_{i}"
        yield f"{key}.cls", str(i % classes).encode()
        yield f"{key}.jpg", encode(smooth(16, 20, i))
        yield f"{key}.json", json.dumps({"label": i % classes, "class_name": f"n{i % classes:08d}"}).encode()


def captioned(start, count):
    for i in range(start, start + count):
        yield f"{i:06d}.jpg", encode(smooth(16, 20, i))
        yield f"{i:06d}.json", json.dumps({"caption": f"a picture, {i}", "url": None}).encode()
        yield f"{i:06d}.txt", f"picture {i}".encode()


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(WebDataset, splits=("train", "test"), path=PLACE.name, classes=3)


@pytest.fixture(scope="module", autouse=True)
def fixture():
    members = [m for i in range(6) for m in (*labelled(i, 1), (f"n{i % 3:08d}_{i}.txt", b"words"))]
    pack(Path(PLACE.name) / "x-train-0.tar", members[:16])
    pack(Path(PLACE.name) / "x-test-0.tar", members[16:])


@pytest.fixture(scope="module")
def timm(tmp_path_factory):
    root = tmp_path_factory.mktemp("wds") / "imagenet"
    for shard in range(3):
        pack(root / f"imagenet1k-train-{shard:04d}.tar", labelled(100 * shard, 4))
    for shard in range(2):
        pack(root / f"imagenet1k-validation-{shard:04d}.tar", labelled(1000 + 100 * shard, 3))
    (root / "_info.json").write_text("{}")
    return root


@pytest.fixture
def pairs(tmp_path):
    for shard in range(2):
        pack(tmp_path / f"pairs/{shard:05d}.tar", captioned(10 * shard, 3))
    return tmp_path / "pairs"


def test_splits_in_names(timm):
    data = WebDataset(path=str(timm), classes=3)
    assert data.info.name == "imagenet" and data.info.classes == ("0", "1", "2") and data.info.sizes == {}
    assert set(data.info.features) == {"image", "label"}
    source = pickle.loads(pickle.dumps(data.source("train", features=("image", "label"))))
    assert [source[i]["label"] for i in range(12)] == [(100 * s + i) % 3 for s in range(3) for i in range(4)]
    assert source[11]["image"].size == (16, 20) and len(data.source("validation")) == 6
    refuses(lambda: data.source("val"), "no split 'val'", "train, validation")
    refuses(lambda: data.source("all"), "no split 'all'")
    half = WebDataset(path=f"{timm}/imagenet1k-train-{{0000..0001}}.tar", classes=("a", "b", "c"))
    assert len(half.source("train")) == 8 and half.info.classes == ("a", "b", "c") and half.info.name == "imagenet"
    refuses(lambda: half.source("validation"), "its splits are train")
    refuses(lambda: WebDataset(path=f"{timm}/imagenet1k-train-{{0000..1023}}.tar").info, "1,021 of 1,024 shards")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("a-train-0", "a-val-0", "a-test-0"), ["train", "val", "test"]),
        (("train_0", "train_1", "valid.0"), ["train", "valid"]),
        (("trainer-0", "observal-1", "contest-2"), ["all"]),
        (("imagenet_train-0-train",), ["train"]),
    ],
)
def test_words_in_names(tmp_path, names, splits):
    for name in names:
        pack(tmp_path / f"{name}.tar", captioned(0, 1))
    data = WebDataset(path=str(tmp_path))
    refuses(lambda: data.source("x"), f"its splits are {', '.join(splits)}")
    assert len(data.source(splits[0]))


def test_names_that_do_not_say_the_split(tmp_path):
    for name in ("a-train-0", "a-0"):
        pack(tmp_path / f"{name}.tar", captioned(0, 1))
    refuses(lambda: WebDataset(path=str(tmp_path)).info, "a-0.tar has no split in its name", "train", "splits=")
    (tmp_path / "a-0.tar").rename(tmp_path / "train-val-0.tar")
    refuses(lambda: WebDataset(path=str(tmp_path)).info, "has train and val in it")


def test_split_folders(pairs):
    for split in ("train", "test"):
        pack(pairs.parent / f"both/{split}/0.tar", captioned(0 if split == "train" else 50, 2))
    data = WebDataset(path=str(pairs.parent / "both"))
    assert len(data.source("train")) == len(data.source("test")) == 2 and data.info.name == "both"
    assert WebDataset(path=str(pairs.parent / "both/test")).info.name == "both/test"
    pack(pairs.parent / "both/0.tar", captioned(90, 1))
    refuses(lambda: data.__class__(path=str(pairs.parent / "both")).info, "shards beside the folder train", "splits=")


def test_no_splits(pairs):
    data = WebDataset(path=str(pairs))
    assert data.info.name == "pairs" and set(data.info.features) == {"image", "caption"} and data.info.classes == ()
    assert len(data.source("train")) == len(data.source("all")) == 6
    assert [data.source("train", features=("caption",))[i]["caption"] for i in (0, 5)] == ["picture 0", "picture 12"]
    assert len(WebDataset(path=[str(pairs / "00001.tar"), str(pairs / "00000.tar")]).source("train")) == 6
    named = WebDataset(path=str(pairs / "00001.tar"), name="one", licence="CC0-1.0")
    assert (named.info.name, named.info.licence, len(named.source("all"))) == ("one", "CC0-1.0", 3)


def test_given_splits(pairs):
    data = WebDataset(path=str(pairs), splits={"train": "00000.tar", "odd": ["{00001..00001}.tar"]})
    assert len(data.source("train")) == len(data.source("odd")) == 3
    refuses(lambda: data.source("all"), "its splits are train, odd")
    both = WebDataset(path=str(pairs), splits={"train": "*.tar", "val": "00001.tar"})
    refuses(lambda: both.info, "00001.tar is in the splits train and val")


def test_captions_and_labels_from_json(pairs, timm):
    data = WebDataset(path=str(pairs), caption="json:caption")
    assert data.source("train", features=("caption",))[1]["caption"] == "a picture, 1"
    labels = WebDataset(path=str(timm), label="json:label", classes=3).source("train", features=("label",))
    assert [labels[i]["label"] for i in range(4)] == [0, 1, 2, 0]
    # Declared, though the first sample has none: an error when it is read.
    absent = WebDataset(path=str(timm), caption="txt", classes=3)
    assert set(absent.info.features) == {"image", "caption", "label"}
    refuses(lambda: absent.source("train", features=("caption",))[0], "n00000000_0 (offset", "no caption")
    refuses(lambda: WebDataset(path=str(pairs), classes=9).source("train", features=("label",))[0], "no label")


def test_labels_need_classes(timm):
    data = WebDataset(path=str(timm))
    assert set(data.info.features) == {"image"} and data.info.classes == ()
    ask = {"features": ("label",), "split": "train"}
    refuses(lambda: data.source(**ask), "how many classes there are is not known", "classes=1000", error=ConfigError)
    few = WebDataset(path=str(timm), classes=2).source(**ask)
    refuses(lambda: few[2], "is 2", "2 classes", "n00000002_2 (label at offset")


def test_classes_in_a_file(timm, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Katze\nHund\nMäuschen\n\n", encoding="utf-8")
    assert WebDataset(path=str(timm), classes=str(names)).info.classes == ("Katze", "Hund", "Mäuschen")
    names.write_text("a\n\nb\n")
    refuses(lambda: WebDataset(path=str(timm), classes=str(names)).info, "line 2 of", "it is empty")
    names.write_text("a\nb\na\n")
    refuses(lambda: WebDataset(path=str(timm), classes=str(names)).info, "line 3 of", "'a' stands in line 1, too")
    names.write_bytes(b"\xff")
    refuses(lambda: WebDataset(path=str(timm), classes=str(names)).info, "names.txt cannot be read")
    refuses(lambda: WebDataset(path=str(timm), classes="/no/such").info, "/no/such cannot be read")


def test_incomplete_samples_are_dropped_and_counted(pairs):
    pack(pairs / "00001.tar", [("x.jpg", b""), *captioned(0, 1), ("README.md", b"")])
    data = WebDataset(path=str(pairs), incomplete="drop").source("train", features=("image", "caption"))
    assert (len(data), data.dropped) == (4, 2)
    strict = WebDataset(path=str(pairs)).source("train", features=("image", "caption"))
    assert len(strict) == 6
    refuses(lambda: strict[3], "00001.tar:x (offset", "no caption")


def test_what_samples_hold_is_found_after_stray_files(tmp_path):
    pack(tmp_path / "0.tar", [])
    pack(tmp_path / "1.tar", [("dataset.yaml", b""), *captioned(0, 1)])
    assert set(WebDataset(path=str(tmp_path)).info.features) == {"image", "caption"}
    pack(tmp_path / "1.tar", [("a.npy", b"")])
    refuses(lambda: WebDataset(path=str(tmp_path)).info, "no sample with an image", "0.tar")


def test_a_missing_path_is_an_error_only_when_used(tmp_path):
    data = WebDataset(path=str(tmp_path / "nothing"))
    refuses(lambda: data.info, "there is no shard", "nothing")
    refuses(lambda: data.source("train"), "there is no shard")
    refuses(lambda: WebDataset(path=str(tmp_path)).info, "no tar shards", "it is empty")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"caption": "text"}, "unknown caption"),
        ({"label": "json:", "classes": 2}, "unknown label"),
        ({"label": "cls"}, "without classes"),
        ({"classes": 0}, "0 classes"),
        ({"classes": ("a", "b", "a")}, "one name"),
        ({"splits": {}}, "no splits"),
        ({"path": [], "splits": None}, "empty list"),
        ({"path": ["a", "b"], "splits": {"train": "*"}}, "list of paths"),
    ],
)
def test_wrong_options(options, said):
    refuses(lambda: WebDataset(**{"path": "x", **options}), said, error=ConfigError)


def test_unknown_features_and_policies(pairs):
    data = WebDataset(path=str(pairs))
    refuses(lambda: data.source("train", features=("captions",)), "did you mean 'caption'", error=ConfigError)
    refuses(lambda: data.source("train", features=("label",)), "no feature 'label'", error=ConfigError)
    odd = WebDataset(path=str(pairs), incomplete="skip")
    refuses(lambda: odd.source("train"), "unknown incomplete", error=ConfigError)


def mapped(count, ending="mask.png", size=(16, 20)):
    for i in range(count):
        values = np.full(size, i % 3, np.uint8)
        values[0, 0] = 11
        yield f"{i:06d}.jpg", encode(smooth(16, 20, i))
        yield f"{i:06d}.{ending}", encode(values, "PNG", "L")


@pytest.mark.parametrize("ending", ["mask.png", "seg.png"])
def test_masks(tmp_path, ending):
    pack(tmp_path / "0.tar", mapped(4, ending))
    data = WebDataset(path=str(tmp_path), mask_classes=("sky", "road", "car"), ignore_label=11)
    assert data.info.mask_classes == ("sky", "road", "car") and "mask" in data.info.features
    source = data.source("train", features=("mask", "image"))
    mask = source[2]["mask"].decode_mask()
    assert mask[0, 0] == 255 and (np.delete(mask.ravel(), 0) == 2).all()
    shifted = WebDataset(path=str(tmp_path), mask_classes=("road", "car"), zero_is_ignored=True, ignore_label=11)
    assert shifted.source("train", features=("mask",))[0]["mask"].decode_mask()[1, 1] == 255
    # Without names they are no feature, and what is asked for must be there.
    assert "mask" not in WebDataset(path=str(tmp_path)).info.features
    with pytest.raises(ConfigError, match="no mask_classes"):
        WebDataset(path=str(tmp_path), ignore_label=11)
    with pytest.raises(ConfigError, match="one name"):
        WebDataset(path=str(tmp_path), mask_classes=("sky", "sky"))
    few = WebDataset(path=str(tmp_path), mask_classes=("sky", "road"), ignore_label=11)
    with pytest.raises(DataError, match="has the value 2"):
        few.source("train", features=("mask",))[2]["mask"].decode_mask()


def test_a_mask_of_another_size_and_a_sample_without_one(tmp_path):
    pack(tmp_path / "0.tar", [*mapped(1, size=(8, 8)), ("x.jpg", encode(smooth(16, 20, 9)))])
    source = WebDataset(path=str(tmp_path), mask_classes=("a",) * 1, ignore_label=11).source(
        "train", features=("mask",)
    )
    with pytest.raises(DataError, match="8 x 8"):
        source[0]["mask"].decode_mask()
    with pytest.raises(DataError, match="has no mask"):
        source[1]
    left = WebDataset(path=str(tmp_path), mask_classes=("a",), ignore_label=11, incomplete="drop")
    assert len(left.source("train", features=("image", "mask"))) == 1 and len(left.source("train")) == 2
