"""JFT-300M and its stand-in: what is said of them without a disk, both formats, and which labels are kept."""

import io
import json
import pickle
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins import jft
from spendflops_plugins.jft import JFT
from spendflops_plugins.jft import shards as jft_shards
from spendflops_plugins.jft.limits import Limits
from spendflops_plugins.supervised import SupervisedViews

import spendflops.testing
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo, InputSpec
from spendflops.data.prepare import prepare
from spendflops.parts.images import EncodedImage

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COYO = {"copy": "coyo_labeled300m"}
ALL = ("image", "labels", "label_probs")


def jpeg(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def scores(seed, count=50):
    """As the stand-in has them: the 50 likeliest classes, the likeliest first."""
    rng = np.random.default_rng(seed)
    probs = np.sort(rng.random(count).astype(np.float32) ** 6)[::-1]
    return rng.permutation(21_841)[:count].astype(np.int64), probs


def shard(root, number, count=8, change=lambda rows, members: None):
    """A tar and its table as img2dataset leaves them: samples as they came in, a row for every address.

    ``change`` may edit the rows and the images before they are written.
    """
    rows, members = [], {}
    for i in np.random.default_rng(number).permutation(count):
        key, good = f"{number:05d}{i:04d}", i % 4 != 3
        labels, probs = scores(100 * number + i)
        status = "success" if good else "failed_to_download"
        rows.append({"url": f"http://x/{key}", "labels": labels.tolist(), "label_probs": probs.tolist(), "key": key,
                     "status": status, "error_message": None if good else "HTTP Error 404"})  # fmt: skip
        if good:
            members[f"{key}.jpg"] = jpeg(100 * number + i)
    change(rows, members)
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"{number:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            key = name.split(".")[0]
            notes = [(f"{key}.json", json.dumps({"key": key}).encode())] if name.endswith(".jpg") else []
            for member, data in ((name, content), *notes):
                info = tarfile.TarInfo(member)
                info.size, info.mtime = len(data), 1_700_000_000.5
                archive.addfile(info, io.BytesIO(data))
    table = pa.table({column: [row[column] for row in rows] for column in rows[0]})
    kinds = {"labels": pa.list_(pa.int32()), "label_probs": pa.list_(pa.float32())}
    table = table.cast(pa.schema([(f.name, kinds.get(f.name, f.type)) for f in table.schema]))
    pq.write_table(table, root / f"{number:05d}.parquet", row_group_size=3)
    (root / f"{number:05d}_stats.json").write_text("{}")


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def expected(seed, most=8, least=0.05):
    """Written again, slowly: above the limit, sorted, cut."""
    pairs = sorted(zip(*scores(seed), strict=True), key=lambda pair: -pair[1])
    pairs = [(label, prob) for label, prob in pairs if prob >= least][:most]
    return [int(label) for label, _ in pairs], [float(prob) for _, prob in pairs]


PLACE = tempfile.TemporaryDirectory()
test_kit = spendflops.testing.dataset_tests(JFT, path=PLACE.name, splits=("train",), **COYO)


@pytest.fixture(scope="module", autouse=True)
def place():
    for number in range(3):
        shard(Path(PLACE.name), number)
    yield Path(PLACE.name)
    PLACE.cleanup()


def test_it_plans_without_a_disk():
    one, two = JFT(), JFT(**COYO)
    assert (one.info.name, len(one.info.classes), one.info.sizes) == ("jft300m", 18_291, {"train": 302_000_000})
    assert (two.info.name, len(two.info.classes), two.info.sizes) == (
        "coyo_labeled300m",
        21_841,
        {"train": 300_000_000},
    )
    assert one.info.classes[0] == "class 0" and "private" in one.info.licence and "CC-BY-4.0" in two.info.licence
    assert "jft" not in f"{two.info.name} {two.info.homepage}".lower()
    for data in (one, two):
        assert set(data.info.features) == set(ALL) and data.info.citation
        refuses(lambda data=data: data.source("train"), "has no path", "--dataset jft:")
        refuses(lambda data=data: data.source("test"), "no split 'test'")
    refuses(lambda: JFT(path="/no/such/folder").source("train"), "/no/such/folder is not there")


def test_options_are_checked(tmp_path):
    refuses(lambda: JFT(copy="jft"), "unknown copy 'jft'", "jft300m", error=ConfigError)
    for options in ({"max_labels": 0}, {"min_prob": 1.5}, {"min_prob": float("nan")}):
        refuses(lambda options=options: JFT(**options), "max_labels is", error=ConfigError)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"n{i:08d}\n" for i in range(21_841)))
    assert JFT(class_file=str(names), **COYO).info.classes[7] == "n00000007"
    refuses(lambda: JFT(class_file=str(names)), "21,841 classes, jft300m has 18,291")
    refuses(lambda: JFT(class_file=str(tmp_path / "no.txt")), "no.txt cannot be read")


@pytest.mark.parametrize(("most", "least"), [(8, 0.05), (3, 0.2), (50, 0.0), (8, 1.0)])
def test_shards_of_the_stand_in(place, most, least):
    data = JFT(path=str(place), max_labels=most, min_prob=least, **COYO)
    source = data.source("train", features=ALL)
    assert len(source) == 18 and data.info.sizes == {}
    assert "18 of 300,000,000 published images" in repr(source) and "jft" not in data.info.name
    seen = set()
    for i in range(18):
        sample = source[i]
        name = sample["image"].name.split(":")[1].split(".")[0]
        seed = 100 * int(name[:5]) + int(name[5:])
        assert sample["image"].read() == jpeg(seed)
        labels, probs = expected(seed, most, least)
        assert sample["labels"].dtype == np.int32 and sample["label_probs"].dtype == np.float32
        assert sample["labels"].tolist() == labels and sample["label_probs"].tolist() == probs
        seen.add(seed)
    assert len(seen) == 18
    for index in (-1, 18):
        refuses(lambda index=index: source[index], "18 images", error=IndexError)


def test_labels_are_read_only_where_they_are_asked_for(tmp_path):
    def change(rows, members):
        rows[0]["labels"][0] = 50_000

    shard(tmp_path, 0, count=1, change=change)
    assert JFT(path=str(tmp_path), **COYO).source("train")[0]["image"].size == (16, 20)
    source = JFT(path=str(tmp_path), **COYO).source("train", features=("labels",))
    refuses(lambda: source[0], "00000.parquet row 0", "label 50000 is not one of the 21,841 classes")


def test_threads_copies_and_a_small_cache(place, monkeypatch):
    monkeypatch.setattr(jft_shards, "SHARDS", 1)
    jft_shards.JOINED.reset()
    source = JFT(path=str(place), **COYO).source("train", features=ALL)
    copy = pickle.loads(pickle.dumps(source))
    order = np.random.default_rng(0).integers(0, 18, 100)
    with ThreadPoolExecutor(4) as pool:
        for i, sample in zip(order, pool.map(copy.__getitem__, order), strict=True):
            assert sample["image"].read() == source[i]["image"].read()
    assert len(jft_shards.JOINED._kept) == 1


def test_the_views_of_the_supervised_method_take_it(place):
    source = JFT(path=str(place), **COYO).source("train", features=("image", "labels"))
    spec = InputSpec(size=(8, 8), stride=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)
    made = SupervisedViews(labels="labels")(source[0], np.random.default_rng(0), spec)
    found = made["labels"][made["labels"] >= 0]
    assert made["labels"].shape == (8,) and found.tolist() == source[0]["labels"].tolist()


def drop_image(rows, members):
    members.pop(next(iter(members)))


def drop_row(rows, members):
    rows.remove(next(row for row in rows if row["status"] == "success"))


def fail_row(rows, members):
    next(row for row in rows if row["status"] == "success")["status"] = "failed_to_resize"


def twice_in_table(rows, members):
    rows.append(next(row for row in rows if row["status"] == "success"))


def twice_in_tar(rows, members):
    members[next(iter(members)).replace(".jpg", ".png")] = b"x"


def of(column, value):
    def change(rows, members):
        next(row for row in rows if row["status"] == "success")[column] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_image, ("00000.tar lacks the key", "00000.parquet")),
        (drop_row, ("00000.parquet lacks the key", "00000.tar")),
        (fail_row, ("00000.parquet lacks the key", "00000.tar")),
        (twice_in_table, ("00000.parquet row 8 has the key", "of row")),
        (twice_in_tar, ("00000.tar has two images for the key",)),
        (of("labels", None), ("labels is null", "00000.parquet row")),
        (of("labels", [3]), ("1 labels with 50 probabilities", "00000.parquet row")),
        (of("labels", [None] * 50), ("labels has a null", "00000.parquet row")),
        (of("labels", [-1] * 50), ("label -1 is not one of the 21,841",)),
        (of("labels", [21_841] * 50), ("label 21841 is not one of the 21,841",)),
        (of("label_probs", [float("nan")] * 50), ("nan is not a probability",)),
        (of("label_probs", [1.5] * 50), ("1.5 is not a probability",)),
    ],
)
def test_a_tar_and_a_table_that_do_not_fit(tmp_path, change, said):
    shard(tmp_path, 0, change=change)
    source = JFT(path=str(tmp_path), **COYO).source("train", features=("labels",))
    refuses(lambda: source[0], *said)


def test_tables_that_are_missing_or_of_another_kind(tmp_path):
    shard(tmp_path, 0)
    table = tmp_path / "00000.parquet"
    whole = pq.read_table(table)
    data = JFT(path=str(tmp_path), **COYO)
    pq.write_table(whole.drop_columns(["labels"]), table)
    refuses(lambda: data.source("train", features=("labels",))[0], "00000.parquet has no column 'labels'")
    pq.write_table(whole.drop_columns(["status"]), table)
    refuses(lambda: data.source("train"), "00000.parquet has no column 'status'")
    for column, wrong, said in (
        ("labels", ["[1, 2]"] * 8, "labels is string, not a list"),
        ("labels", [[0.5]] * 8, "labels is a list of double"),
        ("label_probs", [[1]] * 8, "label_probs is a list of int64"),
    ):
        pq.write_table(whole.set_column(whole.schema.names.index(column), column, [wrong]), table)
        refuses(lambda: data.source("train", features=("labels",))[0], said)
    table.unlink()
    refuses(lambda: data.source("train"), "00000.tar has no table 00000.parquet")
    (tmp_path / "00000.tar").unlink()
    refuses(lambda: data.source("train"), "has no tar shards")


@pytest.mark.parametrize("name", ["00000.tar", "00000.parquet"])
def test_a_shard_that_changes_while_it_is_read(tmp_path, name):
    shard(tmp_path, 0)
    source = JFT(path=str(tmp_path), **COYO).source("train")
    with open(tmp_path / name, "ab") as file:
        file.write(b"\0" * 512)
    refuses(lambda: source[0], "00000.tar", "has changed")
    (tmp_path / name).unlink()
    refuses(lambda: source[0], name, "No such file")


def test_a_prepared_copy_gives_the_same(place, tmp_path):
    source = JFT(path=str(place), **COYO)
    prepare(source, tmp_path / "out", splits=("train",), examples_per_shard=7)
    copy = JFT(path=str(tmp_path / "out"), **COYO)
    ours, theirs = (d.source("train", features=ALL) for d in (copy, source))
    assert len(ours) == 18 and "18 of 300,000,000 published" in repr(ours)
    for i in range(18):
        assert ours[i]["image"].read() == theirs[i]["image"].read()
        assert ours[i]["labels"].tolist() == theirs[i]["labels"].tolist()
        assert ours[i]["label_probs"].tolist() == theirs[i]["label_probs"].tolist()
    fewer = JFT(path=str(tmp_path / "out"), max_labels=1, **COYO).source("train", features=("labels",))
    assert [fewer[i]["labels"].tolist() for i in range(18)] == [ours[i]["labels"].tolist()[:1] for i in range(18)]
    # The stand-in is never taken for JFT, and labels that were dropped do not come back.
    refuses(lambda: JFT(path=str(tmp_path / "out")).source("train"), "copy of coyo_labeled300m, not of jft300m")
    for options in ({"min_prob": 0.01}, {"max_labels": 9}):
        refuses(lambda o=options: JFT(path=str(tmp_path / "out"), **COYO, **o).source("train"), "was prepared with")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"n{i}\n" for i in range(21_841)))
    refuses(
        lambda: JFT(path=str(tmp_path / "out"), class_file=str(names), **COYO).source("train"), "with other classes"
    )


class Owned(Dataset):
    """What an owner of JFT-300M may have: labels in some order, more than 8 of them, no probabilities."""

    def __init__(self, *, name: str = "jft300m", probs: bool = False, wrong: int = 0):
        features = {"image": "uint8 H W C", "labels": "int32 M"} | ({"label_probs": "float32 M"} if probs else {})
        classes = jft.COPIES["jft300m"].classes
        self.info = DatasetInfo(name=name, features=features, classes=classes, sizes={"train": 4})
        self.wrong = wrong

    def source(self, split, *, features):
        return self

    def __len__(self):
        return 4

    def __getitem__(self, index):
        labels = np.arange(18_290, 18_290 - 5 * index, -1).astype(np.int32) + np.int32(self.wrong)
        probs = np.linspace(0, 1, len(labels) + self.wrong, dtype=np.float32)
        return {"image": EncodedImage(jpeg(index), name=f"{index}"), "labels": labels, "label_probs": probs}


def test_the_records_of_an_owner(tmp_path):
    prepare(Owned(), tmp_path / "out")
    data = JFT(path=str(tmp_path / "out"), partial=True)
    source = data.source("train", features=("image", "labels"))
    assert data.info.name == "jft300m" and "4 of 302,000,000 published" in repr(source)
    assert [source[i]["labels"].tolist() for i in range(4)] == [
        list(range(18_290, 18_290 - min(8, 5 * i), -1)) for i in range(4)
    ]
    assert source[2]["image"].read() == jpeg(2)
    refuses(lambda: data.source("train", features=("label_probs",)), "has no feature 'label_probs'", error=ConfigError)
    refuses(lambda: JFT(path=str(tmp_path / "out")).source("train"), "4 images, jft300m has about 302,000,000")
    prepare(Owned(name="mine"), tmp_path / "mine")
    refuses(lambda: JFT(path=str(tmp_path / "mine"), partial=True).source("train"), "copy of mine", "arrayrecord:")


def test_a_whole_copy_may_differ_by_what_was_rounded(tmp_path, monkeypatch):
    published = jft.COPIES["jft300m"]
    prepare(Owned(), tmp_path / "out")
    for count, good in ((4, True), (396, False)):
        info = {**vars(published), "sizes": {"train": count}}
        monkeypatch.setitem(jft.COPIES, "jft300m", DatasetInfo(**info))
        monkeypatch.setattr(jft, "ROUNDED", 0.25)
        if good:
            assert len(JFT(path=str(tmp_path / "out")).source("train")) == 4
        else:
            refuses(lambda: JFT(path=str(tmp_path / "out")).source("train"), "about 396")


def test_records_with_labels_that_cannot_be(tmp_path):
    for wrong, said in ((1, "6 probabilities"), (0, None)):
        prepare(Owned(probs=True, wrong=wrong), tmp_path / f"{wrong}")
        source = JFT(path=str(tmp_path / f"{wrong}"), partial=True).source("train", features=("labels",))
        if said:
            refuses(lambda source=source: source[1], "train-00000-of-00001.arrayrecord record 1", said)
        else:
            assert source[2]["labels"].tolist() == list(range(18_281, 18_289))
    prepare(Owned(wrong=1), tmp_path / "range")
    source = JFT(path=str(tmp_path / "range"), partial=True).source("train", features=("labels",))
    refuses(lambda: source[1], "record 1", "label 18291 is not one of the 18,291 classes")


def test_an_unfinished_copy(tmp_path):
    prepare(Owned(), tmp_path / "out")
    (tmp_path / "out/dataset_info.json").rename(tmp_path / "out/dataset_info.unfinished.json")
    refuses(lambda: JFT(path=str(tmp_path / "out"), partial=True).source("train"), "not finished")


def test_equal_probabilities_stay_in_order():
    limits = Limits(max_labels=3, min_prob=0.5, classes=9)
    labels, probs, counts = limits(
        np.array([8, 3, 1, 2, 4, 5]), np.array([0.4, 0.5, 0.5, 0.5, 0.9, 0.1], np.float32), np.array([4, 0, 2])
    )
    assert labels.tolist() == [3, 1, 2, 4] and probs.tolist() == [0.5, 0.5, 0.5, np.float32(0.9)]
    assert counts.tolist() == [3, 0, 1]
