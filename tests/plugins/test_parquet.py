"""The parquet data set: splits, classes and columns of tables as the hub and img2dataset have them."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.parquet import Parquet

import spendflops.testing
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.splits import select

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "owl"]


def jpeg(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def hub(path, rows=5, first=0, names=NAMES, **columns):
    """As the hub's library writes it: the types of its features stand in the metadata of the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array([{"bytes": jpeg(first + i), "path": None} for i in range(rows)])
    table = {"image": image, "label": pa.array([(first + i) % 3 for i in range(rows)])} | columns
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    features |= {c: {"names": NAMES, "_type": "ClassLabel"} for c in columns if c.endswith("_label")}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(table).replace_schema_metadata(notes), path, row_group_size=2)


def plain(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(columns.values()), "abc"))
    pq.write_table(pa.table({"image": pa.array([jpeg(i) for i in range(rows)])} | columns), path)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(Parquet, path=PLACE.name)


@pytest.fixture(scope="module", autouse=True)
def made():
    for k in range(2):
        hub(Path(PLACE.name) / f"data/train-{k:05d}-of-00002-0123456789abcdef.parquet", first=5 * k)
    hub(Path(PLACE.name) / "data/test-00000-of-00001.parquet", first=50, rows=3)
    yield
    PLACE.cleanup()


def test_the_hubs_tables():
    data = Parquet(path=PLACE.name, licence="CC0-1.0")
    assert data.info.sizes == {"train": 10, "test": 3} and data.info.classes == tuple(NAMES)
    assert set(data.info.features) == {"image", "label"} and data.info.licence == "CC0-1.0"
    train = data.source("train", features=("image", "label"))
    assert [train[i]["label"] for i in range(10)] == [i % 3 for i in range(10)]
    assert train[7]["image"].read() == jpeg(7) and train[7]["image"].size == (16, 20)
    assert len(select(train, "train[:4]")) == 4
    own = Path(PLACE.name).name
    assert data.info.name == own and Parquet(path=f"{PLACE.name}/data").info.name == f"{own}/data"
    refuses(lambda: data.source("validation"), "no split 'validation'", "train, test")
    refuses(lambda: data.source("train", features=("caption",)), "no feature 'caption'", "caption=", error=ConfigError)
    refuses(lambda: data.source("train", features=("mask",)), "no feature 'mask'", error=ConfigError)


def test_tables_without_splits(tmp_path):
    for k in range(2):
        plain(tmp_path / f"set/{k:05d}.parquet", txt=["a", "b"])
    data = Parquet(path=str(tmp_path / "set"))
    assert data.info.sizes == {"all": 4} and data.info.features == {"image": "uint8 H W C", "caption": "str"}
    assert data.info.name == "set"
    source = data.source("train", features=("caption",))
    assert [source[i]["caption"] for i in range(4)] == ["a", "b", "a", "b"]
    assert Parquet(path=str(tmp_path / "set/00000.parquet")).info.sizes == {"all": 2}
    assert "caption" not in Parquet(path=str(tmp_path / "set"), caption="none").info.features
    refuses(lambda: data.source("test"), "no split 'test'")


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (["train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"], ("train", "validation", "test")),
        (["train_sft-00000-of-00001", "train-00000-of-00001"], ("train", "train_sft")),
        (["in1k-train-0000", "in1k-val-0000"], ("train", "val")),
        (["train", "test"], ("train", "test")),
        (["train/0000", "test/0000"], ("train", "test")),
        (["trainer", "attest"], ("all",)),
    ],
)
def test_splits_by_name(tmp_path, names, sizes):
    for name in names:
        plain(tmp_path / f"{name}.parquet", txt=["a"])
    assert tuple(Parquet(path=str(tmp_path)).info.sizes) == sizes


def test_splits_that_cannot_be_guessed(tmp_path):
    for name in ("train-00000-of-00001", "more", "other/x"):
        plain(tmp_path / f"{name}.parquet", txt=["a"])
    refuses(lambda: Parquet(path=str(tmp_path)).info, "more.parquet has no split", "splits=")
    data = Parquet(path=str(tmp_path), splits={"train": ["train-*.parquet", "more.parquet"], "probe": "other"})
    assert data.info.sizes == {"train": 2, "probe": 1}
    refuses(
        lambda: Parquet(path=str(tmp_path), splits={"train": "*.parquet", "test": "more.parquet"}).info,
        "more.parquet is in the splits train and test",
    )
    refuses(lambda: Parquet(path=str(tmp_path), splits={"train": "no*.parquet"}).info, "there is no table")
    plain(tmp_path / "b/train_of_test.parquet", txt=["a"])
    refuses(lambda: Parquet(path=str(tmp_path / "b")).info, "test and train in it")
    refuses(lambda: Parquet(path=str(tmp_path), splits={}), "no splits", error=ConfigError)


def test_classes_from_options(tmp_path):
    plain(tmp_path / "set/a.parquet", label=[0, 2, 1])
    path = str(tmp_path / "set")
    bare = Parquet(path=path)
    assert bare.info.classes == () and set(bare.info.features) == {"image"}
    refuses(
        lambda: bare.source("all", features=("label",)), "what their classes are", "classes=1000", error=ConfigError
    )
    (tmp_path / "names.txt").write_text("x\ny\nz\n\n")
    for given, classes in (
        (3, ("0", "1", "2")),
        (["x", "y", "z"], ("x", "y", "z")),
        (str(tmp_path / "names.txt"), ("x", "y", "z")),
    ):
        data = Parquet(path=path, classes=given)
        assert data.info.classes == classes
        source = data.source("all", features=("label",))
        assert [source[i]["label"] for i in range(3)] == [0, 2, 1]
    few = Parquet(path=path, classes=2).source("all", features=("label",))
    refuses(lambda: few[1], "a.parquet row group 0 row 1", "label 2", "2 classes")
    for text, said in (("x\n\nz\n", "line 2"), ("x\ny\nx\n", "line 3")):
        (tmp_path / "names.txt").write_text(text)
        refuses(lambda: Parquet(path=path, classes=str(tmp_path / "names.txt")).info, "names.txt", said)
    refuses(lambda: Parquet(path=path, classes=str(tmp_path / "none.txt")).info, "none.txt cannot be read")
    refuses(lambda: Parquet(path=path, classes=0), "0 classes", error=ConfigError)
    refuses(lambda: Parquet(path=path, classes=("a", "a")), "of one name", error=ConfigError)


def test_columns_from_options(tmp_path):
    hub(tmp_path / "a.parquet", coarse_label=pa.array([0] * 5), prompt=pa.array(["p"] * 5))
    refuses(lambda: Parquet(path=str(tmp_path)).info, "may be the label", "label, coarse_label", error=ConfigError)
    data = Parquet(path=str(tmp_path), label="coarse_label", caption="prompt")
    assert data.source("all", features=("label", "caption"))[2] == {"label": 0, "caption": "p"}
    assert "label" not in Parquet(path=str(tmp_path), label="none").info.features
    refuses(lambda: Parquet(path=str(tmp_path), label="lable").info, "no column 'lable'", "did you mean 'label'")


def test_splits_with_other_classes_are_refused(tmp_path):
    hub(tmp_path / "train-00000-of-00001.parquet")
    hub(tmp_path / "test-00000-of-00001.parquet", names=["cat", "owl", "dog"])
    refuses(lambda: Parquet(path=str(tmp_path)).info, "test-00000-of-00001.parquet has other classes")


@pytest.mark.parametrize("notes", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": []}}}', b"[" * 10**5])
def test_notes_of_other_writers_are_ignored(tmp_path, notes):
    table = pa.table({"image": pa.array([jpeg(0)]), "label": [0]}).replace_schema_metadata({"huggingface": notes})
    pq.write_table(table, tmp_path / "a.parquet")
    assert Parquet(path=str(tmp_path)).info.classes == ()


def test_a_missing_path(tmp_path):
    refuses(lambda: Parquet(path=str(tmp_path / "no")).info, "there is no table")
    refuses(lambda: Parquet(path=str(tmp_path)).info, "has no tables")


def test_masks(tmp_path):
    def png(i, size=(16, 20)):
        buffer = io.BytesIO()
        values = np.full(size, i, np.uint8)
        values[0, 0] = 11
        PIL.Image.fromarray(values).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    hub(tmp_path / "train-00000-of-00001.parquet", rows=3, annotation=pa.array([png(i) for i in range(3)]))
    names = ("sky", "road", "car")
    data = Parquet(path=str(tmp_path), mask="annotation", mask_classes=names, ignore_label=11)
    assert data.info.mask_classes == names and data.info.features["mask"] == "uint8 H W"
    mask = data.source("train", features=("image", "mask"))[2]["mask"].decode_mask()
    assert mask[0, 0] == 255 and (np.delete(mask.ravel(), 0) == 2).all()
    assert "mask" not in Parquet(path=str(tmp_path), image="image").info.features
    few = Parquet(path=str(tmp_path), mask="annotation", mask_classes=names[:2], ignore_label=11)
    with pytest.raises(DataError, match="has the value 2"):
        few.source("train", features=("mask",))[2]["mask"].decode_mask()
    for wrong in ({"mask": "annotation"}, {"mask_classes": names}):
        with pytest.raises(ConfigError, match="give both"):
            Parquet(path=str(tmp_path), **wrong)
    refuses(lambda: Parquet(path=str(tmp_path), mask="label", mask_classes=names).info, "label")
    other = tmp_path / "other"
    hub(other / "train-00000-of-00001.parquet", rows=1, annotation=pa.array([png(0, (8, 8))]))
    small = Parquet(path=str(other), mask="annotation", mask_classes=names, ignore_label=11)
    refuses(lambda: small.source("train", features=("image", "mask"))[0]["mask"].decode_mask(), "8 x 8")
