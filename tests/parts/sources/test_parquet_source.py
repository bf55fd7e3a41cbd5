"""Parquet tables: rows at random, the memory that they take, and tables that are damaged or strange."""

import multiprocessing
import os
import pickle
import random
import sys
import threading

import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts.sources import parquet
from spendflops.parts.sources.parquet import (
    GROUPS,
    ParquetSource,
    find_tables,
    open_tables,
    read_columns,
)
from spendflops.parts.sources.parquet_schema import find_layout

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def content(i, size=400):
    return np.random.default_rng(i).bytes(size)


def write(path, rows=20, first=0, group=6, size=400, **columns):
    table = {
        "image": pa.array(
            [{"bytes": content(first + i, size), "path": f"{first + i}.jpg"} for i in range(rows)], IMAGE
        ),
        "label": pa.array([(first + i) % 3 for i in range(rows)], pa.int64()),
        "caption": pa.array([f"número {first + i}" for i in range(rows)]),
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=group)
    return str(path)


def downloads(path, statuses, group=5):
    """As img2dataset leaves it with output_format=parquet: a row for every address, null where nothing came."""
    good = [status == "success" for status in statuses]
    table = {
        "url": [f"http://x/{i}" for i in range(len(good))],
        "key": [f"{i:09d}" for i in range(len(good))],
        "status": statuses,
        "error_message": [None if g else "gone" for g in good],
        "txt": [f"nr {i}" if g else None for i, g in enumerate(good)],
        "jpg": pa.array([content(i) if g else None for i, g in enumerate(good)], pa.binary()),
    }
    pq.write_table(pa.table(table), path, row_group_size=group)
    return str(path)


def source(*files, features=("image", "label", "caption"), classes=("a", "b", "c"), **columns):
    layout = find_layout(files[0], **columns)
    return ParquetSource(open_tables(files, layout), layout, features=features, classes=classes)


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.fixture(autouse=True)
def fresh():
    GROUPS.reset()


def test_rows_of_several_tables(tmp_path):
    rows = source(*(write(tmp_path / f"{k}.parquet", first=20 * k) for k in range(3)))
    assert len(rows) == 60
    for i in np.random.default_rng(0).permutation(60):
        sample = rows[i]
        assert sample["image"].read() == content(i) and sample["label"] == i % 3 and type(sample["label"]) is int
        assert sample["caption"] == f"número {i}"
    assert rows[np.int64(27)]["image"].name == f"{tmp_path}/1.parquet row group 1 row 1 (27.jpg)"
    for index in (-1, 60):
        refuses(lambda index=index: rows[index], "60 rows", error=IndexError)
    assert "0.parquet" in repr(rows) and "3 tables, 60 rows" in repr(rows)


def test_only_the_columns_that_were_asked_for_are_read(tmp_path):
    rows = source(write(tmp_path / "a.parquet", secret=pa.array([b"x" * 1000] * 20)), features=("label",))
    assert rows[3] == {"label": 0}
    (group,) = GROUPS._kept.values()
    assert group.table.column_names == ["label"] and group.table.num_rows == 6


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 8000)
    rows = source(write(tmp_path / "a.parquet", rows=60), features=("image",))
    peak = 0
    for i in np.random.default_rng(0).integers(0, 60, 200):
        assert rows[i]["image"].read() == content(i)
        peak = max(peak, GROUPS.used)
        assert GROUPS.used == sum(g.table.nbytes for g in GROUPS._kept.values())
    assert 4000 < peak <= 8000 and len(GROUPS._loading) <= 4
    # A group that is larger than the limit stays for as long as it is the last.
    monkeypatch.setattr(parquet, "CACHE_BYTES", 10)
    reads = []
    monkeypatch.setattr(parquet, "_read", lambda *a, real=parquet._read: reads.append(a) or real(*a))
    for i in range(12):
        assert rows[i]["image"].read() == content(i)
    assert len(reads) <= 2 and len(GROUPS._kept) == 1


def test_threads_and_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 6000)
    rows, wrong = source(write(tmp_path / "a.parquet", rows=60)), []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 60, 200):
            if rows[i]["image"].read() != content(i):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[7]["image"].read() == content(7) and len(copy) == 60
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send((GROUPS.used, rows[7]["image"].read()))
    )
    child.start()
    assert receiver.poll(20) and receiver.recv() == (0, content(7))
    child.join()


def test_one_thread_reads_a_group_while_the_others_wait(tmp_path, monkeypatch):
    rows, reads, barrier = source(write(tmp_path / "a.parquet")), [], threading.Barrier(4)
    monkeypatch.setattr(parquet, "_read", lambda *a, real=parquet._read: reads.append(a) or real(*a))

    def work():
        barrier.wait(10)
        rows[2]

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(reads) == 1


def test_downloads_that_failed_are_left_out_and_counted(tmp_path):
    statuses = ["success", "failed_to_download", "success", "failed_to_resize"] * 5 + ["failed_to_download"] * 5
    rows = source(downloads(tmp_path / "00000.parquet", statuses), features=("image", "caption"))
    assert rows.layout.image == "jpg" and rows.layout.caption == "txt"
    assert len(rows) == 10 and [rows[i]["caption"] for i in range(10)] == [f"nr {i}" for i in range(0, 20, 2)]
    assert rows[4]["image"].read() == content(8)
    assert "10 rows, 15 of 25 not downloaded" in repr(rows)
    assert rows[9]["image"].name.endswith("row group 3 row 3")


def test_a_column_called_status_alone_says_nothing(tmp_path):
    rows = source(write(tmp_path / "a.parquet", status=pa.array(["married"] * 20)))
    assert len(rows) == 20


def test_null_values(tmp_path):
    images = pa.array([None, {"bytes": None, "path": "/far/away.jpg"}, {"bytes": b"x", "path": None}], IMAGE)
    labels, captions = pa.array([None, -1, 2], pa.int32()), pa.array([None, "", "c"])
    rows = source(write(tmp_path / "a.parquet", rows=3, image=images, label=labels, caption=captions, group=2))
    refuses(lambda: rows[0], "a.parquet row group 0 row 0 has no image", "it is null")
    refuses(lambda: rows[1], "row group 0 row 1 has no image", "its path is '/far/away.jpg'")
    assert rows[2]["image"].read() == b"x" and rows[2]["label"] == 2
    rows = source(*rows.tables.files, features=("label", "caption"))
    assert [rows[i] for i in range(2)] == [{"label": -1, "caption": ""}] * 2


def test_labels_by_name_and_labels_out_of_range(tmp_path):
    names = pa.array(["b", "a", "x", "c"]).dictionary_encode()
    rows = source(write(tmp_path / "a.parquet", rows=4, label=names), features=("label",))
    assert rows[0] == {"label": 1} and rows[3] == {"label": 2}
    refuses(lambda: rows[2], "a.parquet row group 0 row 2", "label 'x' is not one of the 3 classes")
    rows = source(write(tmp_path / "b.parquet", rows=2, label=pa.array([3, -2])), features=("label",))
    for i in range(2):
        refuses(lambda i=i: rows[i], f"row {i}: label", "3 classes")


def test_which_column_holds_what(tmp_path):
    two = pa.array([b"x"] * 20, pa.binary())
    path = write(tmp_path / "a.parquet", jpg=two)
    assert find_layout(path).image == "image"  # a struct goes before a name
    assert find_layout(path, image="jpg", label="none", caption="none").label is None
    refuses(lambda: find_layout(path, image="imgae"), "no column 'imgae'", "did you mean 'image'", path)
    refuses(lambda: find_layout(path, image="caption"), "column 'caption' is string, which holds no image")
    refuses(lambda: find_layout(path, image="none"), "no column 'none'")
    refuses(lambda: find_layout(path, label="image"), "holds no label")
    refuses(lambda: find_layout(path, caption="label"), "holds no caption")
    structs = pa.array([{"bytes": b"x", "path": ""}] * 20, IMAGE)
    refuses(
        lambda: find_layout(write(tmp_path / "b.parquet", depth=structs)), "image, depth", "image='", error=ConfigError
    )
    pq.write_table(pa.table({"url": ["x"], "bytes": [3]}), tmp_path / "c.parquet")
    refuses(lambda: find_layout(str(tmp_path / "c.parquet")), "no column of images", "url: string")


def test_tables_that_do_not_fit_together(tmp_path):
    one = write(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([b"x"]), "caption": ["c"]}), tmp_path / "b.parquet")
    refuses(lambda: source(one, str(tmp_path / "b.parquet")), "b.parquet has no column 'label'", "image, caption")
    other = write(tmp_path / "c.parquet", label=pa.array([1.5] * 20))
    refuses(lambda: source(one, other), "c.parquet: column 'label' is double")


@pytest.mark.parametrize("change", ["other", "cut", "gone"])
def test_a_table_that_changes_while_it_is_read(tmp_path, change):
    path = write(tmp_path / "a.parquet")
    rows = source(path)
    assert rows[0]["label"] == 0
    if change == "gone":
        os.unlink(path)
    elif change == "cut":
        os.truncate(path, 100)
    else:
        write(path, first=100)
        os.utime(path, ns=(1, 1))
    refuses(lambda: rows[19], path, "No such file" if change == "gone" else "has changed since")


def test_a_table_that_changes_within_a_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet")
    rows, real = source(path), parquet._read
    monkeypatch.setattr(parquet, "_read", lambda *a: (os.utime(path, ns=(1, 1)), real(*a))[1])
    refuses(lambda: rows[0], "has changed since")


def test_texts_that_are_not_utf8(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 20, pa.array([b"\xff"] * 20).buffers())
    rows = source(write(tmp_path / "a.parquet", caption=texts))
    refuses(lambda: rows[7], "a.parquet row group 1 cannot be read", "UTF8")
    path = downloads(tmp_path / "b.parquet", ["success"] * 20)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.names.index("status"), "status", texts), path)
    refuses(lambda: source(path, features=("image",)), "b.parquet row group 0 cannot be read")


def test_what_is_no_table(tmp_path):
    path = write(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for data in (b"", b"PAR1", b"hello", whole[:1000], whole[:-1]):
        (tmp_path / "b.parquet").write_bytes(data)
        refuses(lambda: find_layout(str(tmp_path / "b.parquet")), "b.parquet cannot be read")
        refuses(lambda: source(path, str(tmp_path / "b.parquet")), "b.parquet cannot be read")
    refuses(lambda: find_layout(str(tmp_path / "c.parquet")), "c.parquet cannot be read")


def test_a_damaged_row_group_is_named_and_the_others_are_read(tmp_path):
    path = write(tmp_path / "a.parquet", size=4000)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    page = pq.read_metadata(path).row_group(1).column(0)
    at = page.dictionary_page_offset or page.data_page_offset
    data[at : at + 40] = bytes(40)
    (tmp_path / "a.parquet").write_bytes(data)
    rows = source(path)
    refuses(lambda: rows[7], f"{path} row group 1 cannot be read")
    assert rows[0]["image"].read() == content(0, 4000) and rows[19]["label"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes_give_samples_or_data_errors(tmp_path, seed):
    """150 tables a seed, with damage in the footer or anywhere."""
    write(tmp_path / "a.parquet", rows=8, group=3, size=60)
    whole, rng, refused = (tmp_path / "a.parquet").read_bytes(), random.Random(seed), 0
    for case in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data)) if case % 2 else rng.randrange(len(data) - 2500, len(data))
            data[at : at + rng.randint(1, 3)] = rng.randbytes(rng.randint(1, 3))
        (tmp_path / "b.parquet").write_bytes(data)
        GROUPS.reset()
        try:
            rows = source(str(tmp_path / "b.parquet"))
            for i in range(min(len(rows), 100)):
                rows[i]
        except (DataError, ConfigError) as error:
            assert "b.parquet" in str(error)
            refused += 1
    assert refused > 50


def test_a_row_group_that_is_too_large_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet")
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1000)
    refuses(lambda: source(path), "row group 0 has", "1,000", "smaller row groups")


def test_paths(tmp_path):
    (tmp_path / "data [1]/deep").mkdir(parents=True)
    files = [write(tmp_path / "data [1]" / name, rows=1) for name in ("b.parquet", "deep/a.parquet", "other.txt")]
    assert find_tables(str(tmp_path / "data [1]")) == tuple(files[:2])
    assert find_tables(files[2]) == (files[2],)
    assert find_tables(str(tmp_path / "data*/*.parquet")) == (files[0],)
    refuses(lambda: find_tables(str(tmp_path / "data*/*.parq")), "there is no table")
    (tmp_path / "empty").mkdir()
    refuses(lambda: find_tables(str(tmp_path / "empty")), "has no tables", ".parquet")


def test_whole_columns(tmp_path):
    table = read_columns(write(tmp_path / "a.parquet"), ["label", "caption"])
    assert table.num_rows == 20 and table.column("label").to_pylist() == [i % 3 for i in range(20)]
    refuses(lambda: read_columns(str(tmp_path / "a.parquet"), ["lable"]), "no column 'lable'", "'label'")
    empty = read_columns(write(tmp_path / "b.parquet", rows=0), ["label"])
    assert empty.num_rows == 0 and empty.column_names == ["label"]


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuses(lambda: find_layout(str(tmp_path)), "pip install 'spendflops[parquet]'", error=ConfigError)
