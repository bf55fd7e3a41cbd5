"""Samples in tar shards: how members are grouped, what they give, and what is refused."""

import concurrent.futures
import pickle
import random
import tarfile
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spendflops.contracts.errors import ConfigError
from spendflops.parts.sources import shard_tables
from spendflops.parts.sources.shard_paths import find_shards
from spendflops.parts.sources.shard_tables import FIELDS, group
from spendflops.parts.sources.shards import ShardSource
from tests.parts.pictures import encode, smooth
from tests.parts.shardlib import Short, fill, keys, pack, pair, refuses, source, without


def jpeg(seed):
    return encode(smooth(16, 20, seed))


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def test_samples_come_in_the_order_of_the_shards_and_of_their_keys(folder):
    data = source(folder, "image", "caption", "label", "json")
    assert keys(data) == [f"{shard:05d}{i:04d}" for shard in range(3) for i in (3, 0, 2)]
    sample = data[4]
    assert sample["image"].read() == b"000010000" and sample["caption"] == "caption of 000010000"
    assert sample["label"] == 0 and sample["json"]["key"] == "000010000"
    assert "00001.tar:000010000 (image at offset" in sample["image"].name
    assert set(source(folder, "caption")[0]) == {"caption"}
    for index in (-1, 9):
        with pytest.raises(IndexError):
            data[index]
    assert (data.found, data.dropped, len(data)) == (9, 0, 9)
    assert repr(data) == "ShardSource('shards', 9 samples: 9 samples found in 3 shards)"


def test_images_are_decoded_where_they_lie(tmp_path):
    pack(tmp_path / "a.tar", [*pair("a", image=jpeg(1)), ("b.PNG", encode(smooth(16, 20, 2), "PNG"))])
    data = source(tmp_path)
    assert data[0]["image"].size == (16, 20)
    np.testing.assert_array_equal(data[1]["image"].decode(), smooth(16, 20, 2))


def test_only_members_that_are_asked_for_are_read(folder, monkeypatch):
    data, read = source(folder, "caption"), []
    real = shard_tables.FILES.read
    monkeypatch.setattr(shard_tables.FILES, "read", lambda *a: read.append(a[2:]) or real(*a))
    data[0]
    assert len(read) == 1


def slow_oracle(members):
    """Samples as webdataset defines them, one member at a time: key -> extension -> content."""
    samples = {}
    for name, content in members:
        cut = name.find(".", name.rfind("/") + 1)
        key, extension = name[:cut], name[cut + 1 :].lower()
        if cut <= name.rfind("/") + 1:
            continue
        samples.setdefault(key, {})[extension] = content
    return samples


NAMES = st.sampled_from(["a", "b", "0001", "x/a", "x.y/b", "ü", "with space", "x/y/z"])
ENDS = st.sampled_from(["jpg", "JPG", "jpeg", "png", "webp", "txt", "json", "cls", "mask.png", "seg.png", "txt.gz"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, ENDS), unique=True, max_size=24), st.randoms(use_true_random=False))
def test_grouping_agrees_with_a_dict(parts, order):
    members = [(f"{key}.{end}", str(i).encode()) for i, (key, end) in enumerate(parts)]
    members += [("README", b""), (".hidden.jpg", b""), ("x/._a.jpg", b"")]
    order.shuffle(members)
    expected = slow_oracle(members)
    kinds = {"image": ("jpg", "jpeg", "png", "webp"), "caption": ("txt",), "json": ("json",), "label": ("cls",)}
    kinds["mask"] = ("mask.png", "seg.png")
    names = [name for name, _ in members]
    chosen = {key: {f: [e for e in ends if e in kinds[f]] for f in FIELDS} for key, ends in expected.items()}
    lower = [name.lower() for name in names if not name.endswith("_a.jpg")]
    if any(len(ends) > 1 for fields in chosen.values() for ends in fields.values()) or len(set(lower)) < len(lower):
        refuses(lambda: group("s.tar", names), "in one sample")
        return
    found, table = group("s.tar", names)
    assert found == list(expected)
    for key, row in zip(found, table, strict=True):
        for field, number in zip(FIELDS, row, strict=True):
            ends = chosen[key][field]
            assert (members[number][1] if number >= 0 else None) == (expected[key][ends[0]] if ends else None)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_members_gives_the_same_samples(tmp_path, seed):
    rng, every = random.Random(seed), []
    for shard in range(3):
        members = [m for i in range(5) for m in pair(f"d{i % 2}/{i:04d}", label=i)]
        rng.shuffle(members)
        pack(tmp_path / f"{shard}.tar", members)
        every += list(slow_oracle(members).items())
    data = source(tmp_path, "image", "caption", "label")
    assert keys(data) == [key for key, _ in every]
    for i, (_, ends) in enumerate(every):
        sample = data[i]
        assert sample["image"].read() == ends["jpg"] and sample["caption"].encode() == ends["txt"]
        assert sample["label"] == int(ends["cls"])


def test_two_images_in_one_sample_are_refused(tmp_path):
    pack(tmp_path / "a.tar", [*pair("a"), ("a.png", b"")])
    refuses(lambda: source(tmp_path), "a.tar has 'a.jpg' and 'a.png' in one sample", "which of them is the image")


def test_a_name_twice_in_a_shard_is_refused_and_in_two_shards_is_fine(tmp_path):
    pack(tmp_path / "a.tar", pair("a"))
    pack(tmp_path / "b.tar", pair("a", text="other"))
    data = source(tmp_path, "caption")
    assert [data[i]["caption"] for i in range(2)] == ["caption of a", "other"]
    pack(tmp_path / "c.tar", [*pair("a"), *pair("a")])
    refuses(lambda: source(tmp_path), "c.tar", "twice")


@pytest.mark.parametrize(
    ("lacks", "features", "options"),
    [
        ("jpg", ("caption",), {}),
        ("txt", ("image", "caption"), {}),
        ("json", ("caption",), {"caption": "json:caption"}),
        ("json", ("json",), {}),
        ("cls", ("image", "label"), {}),
    ],
)
def test_an_incomplete_sample_is_an_error_or_dropped_and_counted(tmp_path, lacks, features, options):
    members = [*pair("a", label=1), *without(pair("b", label=1), lacks), *pair("c", label=1)]
    pack(tmp_path / "a.tar", members)
    data = source(tmp_path, *features, **options)
    field = {"jpg": "image", "txt": "caption", "cls": "label"}.get(lacks, lacks)
    assert len(data) == 3 and data[2]
    refuses(lambda: data[1], f"a.tar:b (offset {offset(tmp_path / 'a.tar', 'b.')}", f"has no {field}", "'drop'")
    dropped = source(tmp_path, *features, incomplete="drop", **options)
    assert keys(dropped) == ["a", "c"] and [bool(dropped[i]) for i in range(2)] == [True, True]
    assert (dropped.found, dropped.dropped) == (3, 1) and "1 incomplete" in repr(dropped)
    with pytest.raises(IndexError):
        dropped[2]


def offset(path, start):
    with tarfile.open(path) as archive:
        return next(m.offset_data for m in archive if m.name.startswith(start))


def test_what_is_not_asked_for_may_be_missing(tmp_path):
    pack(tmp_path / "a.tar", without(pair("a"), "txt", "json"))
    assert source(tmp_path, incomplete="drop").dropped == 0
    assert source(tmp_path)[0]["image"].read() == b"a"


def test_a_stray_file_is_a_sample_without_an_image(tmp_path):
    pack(tmp_path / "a.tar", [("dataset.yaml", b"x"), *pair("a")])
    data = source(tmp_path)
    refuses(lambda: data[0], f"dataset (offset {offset(tmp_path / 'a.tar', 'd')})", "has no image", "none of them")
    assert keys(source(tmp_path, incomplete="drop")) == ["a"]


def test_nothing_left_is_an_error_with_the_counts(tmp_path):
    pack(tmp_path / "a.tar", [("a.txt", b""), ("b.txt", b"")])
    refuses(lambda: source(tmp_path, incomplete="drop"), "no samples", "2 were found in 1 shards, 2 of them incomplete")
    pack(tmp_path / "a.tar", [])
    refuses(lambda: source(tmp_path), "no samples", "0 were found")
    refuses(lambda: ShardSource([]), "no samples", "0 shards")


@pytest.mark.parametrize(
    "text", ["", "一只猫在窗台上", "كلب", "🐕‍🦺 😀", "line\nline  two ", "x" * 100_000, "Ω" * 99_999, "\ufeffbom"]
)
def test_captions_in_any_script(tmp_path, text):
    pack(tmp_path / "a.tar", pair("a", text=text))
    assert source(tmp_path, "caption")[0]["caption"] == text
    assert source(tmp_path, "caption", caption="json:caption")[0]["caption"] == text


def test_a_caption_that_is_not_utf8_names_the_place(tmp_path):
    pack(tmp_path / "a.tar", [("a.jpg", b""), ("a.txt", "naïve".encode("latin-1"))])
    where = offset(tmp_path / "a.tar", "a.txt")
    refuses(lambda: source(tmp_path, "caption")[0], f"a.tar:a (caption at offset {where})", "byte 2 of 5 is 0xef")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"caption": "a"', "delimiter"),
        (b"", "Expecting value"),
        (b"[1]", "a list"),
        (b'{"caption": "\xff"}', "0xff"),
        (b"[" * 100_000, "a.tar:a"),
        (b'{"text": "a"}', "no field 'caption'"),
        (b'{"caption": 3}', "a int"),
        (b'{"caption": "\\ud83d"}', "surrogate"),
    ],
)
def test_broken_json(tmp_path, content, said):
    pack(tmp_path / "a.tar", [("a.jpg", b""), ("a.json", content)])
    refuses(lambda: source(tmp_path, "caption", caption="json:caption")[0], "a.tar:a (json at offset", said)


def test_a_caption_that_is_null_is_empty(tmp_path):
    pack(tmp_path / "a.tar", pair("a", meta={"caption": None}))
    assert source(tmp_path, "caption", caption="json:caption")[0]["caption"] == ""


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("7", "is 7"),
        ("-2", "is -2"),
        ("cat", "b'cat'"),
        ("1.5", "no integer"),
        ("1_0", "no integer"),
        ("", "no integer"),
    ],
)
def test_labels_are_integers_below_the_number_of_classes(tmp_path, label, said):
    pack(tmp_path / "a.tar", [*pair("a", label=label), *pair("b", label=" 6\n"), *pair("c", label=-1)])
    data = source(tmp_path, "label", classes=7)
    refuses(lambda: data[0], "label", "a.tar:a (label at offset", said)
    assert (data[1]["label"], data[2]["label"]) == (6, -1)


@pytest.mark.parametrize("value", [True, "3", 3.0, None, [3]])
def test_labels_in_json_are_integers(tmp_path, value):
    pack(tmp_path / "a.tar", [*pair("a", meta={"y": value}), *pair("b", meta={"y": 3})])
    data = source(tmp_path, "label", label="json:y")
    refuses(lambda: data[0], "a.tar:a (json at offset", "no integer")
    assert data[1]["label"] == 3


def test_wrong_options(folder):
    refuses(lambda: source(folder, incomplete="dorp"), "did you mean 'drop'", error=ConfigError)
    refuses(lambda: source(folder, "captions"), "did you mean 'caption'", error=ConfigError)
    for caption in ("text", "json:", "json", "cls"):
        refuses(lambda c=caption: source(folder, caption=c), "unknown caption", "json:FIELD", error=ConfigError)
    refuses(lambda: source(folder, label="txt"), "unknown label", error=ConfigError)


def test_threads_and_pickles_see_the_same_samples(folder, monkeypatch):
    data = source(folder, "image", "caption", "label", incomplete="drop")
    alone = [data[i] for i in range(9)]
    text = pickle.dumps(data)
    monkeypatch.setattr(shard_tables, "MEMORY", shard_tables._Memory())
    monkeypatch.setattr(shard_tables, "TABLE_BYTES", 1)
    again = pickle.loads(text)
    order = np.random.default_rng(0).integers(0, 9, 400)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(again.__getitem__, order), strict=True):
            assert (sample["caption"], sample["label"]) == (alone[i]["caption"], alone[i]["label"])
            assert sample["image"].read() == alone[i]["image"].read()


def test_progress_and_the_first_error(folder):
    seen = []
    source(folder, progress=lambda done, total: seen.append((done, total)), threads=2)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    (folder / "00001.tar").write_bytes(b"not a tar" * 200)
    refuses(lambda: source(folder), "00001.tar cannot be read")


def test_an_interrupt_does_not_wait_for_the_other_shards(folder, monkeypatch):
    opened, real = [], shard_tables.counts_of
    monkeypatch.setattr(shard_tables, "counts_of", lambda *a: opened.append(a) or time.sleep(0.01) or real(*a))

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ShardSource(find_shards(folder) * 50, threads=2, progress=interrupt)
    assert len(opened) < 20


def test_folders_of_files_are_shards(tmp_path):
    for shard in range(2):
        for name, content in [m for i in (1, 0) for m in pair(f"{shard:05d}{i:04d}", image=jpeg(i))]:
            (tmp_path / f"{shard:05d}").mkdir(exist_ok=True)
            (tmp_path / f"{shard:05d}" / name).write_bytes(content)
    (tmp_path / "00000/.nfs01").write_bytes(b"")
    folders = [str(tmp_path / f"{shard:05d}") for shard in range(2)]
    data = pickle.loads(pickle.dumps(ShardSource(folders, features=("image", "caption"), filter=Short(99))))
    assert keys(data) == ["000000000", "000000001", "000010000", "000010001"]
    assert data[3]["caption"] == "caption of 000010001" and data[3]["image"].size == (16, 20)
    assert data[3]["image"].name == f"{folders[1]}/000010001.jpg"
    (tmp_path / "00001/000010001.txt").write_bytes(b"\xff")
    refuses(lambda: data[3], "00001/000010001.txt is not UTF-8")
    (tmp_path / "00001/000010000.txt").unlink()
    shard_tables.MEMORY._kept.clear()
    refuses(lambda: data[2], "00001 has changed")
    refuses(lambda: ShardSource(folders, features=("caption",))[2], "00001/000010000 has no caption")
    refuses(lambda: ShardSource([str(tmp_path / "7")]), "7 cannot be read", "No such file")
