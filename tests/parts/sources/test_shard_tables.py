"""What is stored beside shards and kept in memory: tables, and the choices of filters."""

import numpy as np
import pytest

from spendflops.parts.sources import shard_tables
from tests.parts.shardlib import Short, fill, keys, pack, pair, refuses, source, without


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def test_a_second_opening_reads_no_headers(folder, monkeypatch):
    first = source(folder, "caption")
    monkeypatch.setattr(shard_tables, "open_index", None)
    monkeypatch.setattr(shard_tables, "MEMORY", shard_tables._Memory())
    monkeypatch.setattr(shard_tables, "group", None)
    again = source(folder, "caption")
    assert keys(again) == keys(first) and [again[i] for i in range(9)] == [first[i] for i in range(9)]


def test_opening_loads_no_table(folder, monkeypatch):
    source(folder)
    monkeypatch.setattr(shard_tables, "MEMORY", shard_tables._Memory())
    monkeypatch.setattr(shard_tables, "open_table", None)
    assert len(source(folder, incomplete="drop")) == 9


def test_a_stored_table_that_is_broken_or_of_another_shard_is_made_again(folder):
    source(folder)
    stored = folder / "00000.tar.samples.npz"
    stored.write_bytes(stored.read_bytes()[:100])
    shard_tables.MEMORY._kept.clear()
    assert len(source(folder)) == 9
    pack(folder / "00000.tar", pair("x"))
    assert keys(source(folder))[0] == "x"


def test_a_shard_that_changes_while_it_is_read(folder):
    data = source(folder, "caption")
    data[0]
    with open(folder / "00000.tar", "ab") as file:
        file.write(b"\0" * 512)
    refuses(lambda: data[0], "00000.tar has changed")
    pack(folder / "00001.tar", pair("x"))
    source(folder)  # stores the table of the new shard
    shard_tables.MEMORY._kept.clear()
    refuses(lambda: data[3], "00001.tar has changed since it was opened")
    (folder / "00002.tar").unlink()
    refuses(lambda: data[6], "00002.tar cannot be read")


def test_memory_is_bounded_and_forgets_the_oldest(folder, monkeypatch):
    data = source(folder, "caption")
    size = data.locate(0)[0].nbytes
    assert size == 3 * (88 + len("000000000"))
    memory = shard_tables._Memory()
    monkeypatch.setattr(shard_tables, "MEMORY", memory)
    monkeypatch.setattr(shard_tables, "TABLE_BYTES", 2 * size)
    first = [data[i]["caption"] for i in range(9)]
    rng = np.random.default_rng(0)
    for i in rng.integers(0, 9, 300):
        assert data[int(i)]["caption"] == first[i]
        assert memory.used <= 2 * size and memory.used == sum(cost for _, cost in memory._kept.values())
    assert len(memory._kept) == 2 and not memory._pinned


def test_what_was_used_last_stays(monkeypatch):
    monkeypatch.setattr(shard_tables, "TABLE_BYTES", 1000)
    memory, made = shard_tables._Memory(), []

    def get(key, size=400):
        return memory.get(key, lambda: (made.append(key) or np.zeros(size, np.uint8), True))

    for key in (0, 1, 0, 2, 0, 1, 3):
        get(key)
    assert made == [0, 1, 2, 1, 3] and memory.used == 800
    assert len(get(9, 5000)) == 5000 and list(memory._kept) == [9], "one table is held, however large"


def test_what_can_be_stored_nowhere_stays_in_memory(folder, monkeypatch):
    memory = shard_tables._Memory()
    monkeypatch.setattr(shard_tables, "MEMORY", memory)
    monkeypatch.setattr(shard_tables, "_store", lambda *a: False)
    monkeypatch.setattr(shard_tables, "TABLE_BYTES", 0)
    data = source(folder, "caption")
    monkeypatch.setattr(shard_tables, "open_index", None)
    assert data[8]["caption"] == "caption of 000020002" and len(memory._pinned) == 3


def test_a_folder_without_write_permission_uses_the_cache(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = shard_tables._store
    monkeypatch.setattr(shard_tables, "_store", lambda place, *a: place.parent != folder and real(place, *a))
    source(folder)
    assert not list(folder.glob("*.samples.npz")) and len(list((tmp_path / "cache/spendflops/indices").iterdir())) == 3
    monkeypatch.setattr(shard_tables, "MEMORY", shard_tables._Memory())
    monkeypatch.setattr(shard_tables, "open_index", None)
    assert source(folder, "caption")[0]["caption"] == "caption of 000000003"


def test_stored_tables_can_be_read_by_others(folder):
    source(folder)
    assert (folder / "00000.tar.samples.npz").stat().st_mode & 0o777 == 0o644


@pytest.fixture
def captioned(tmp_path):
    texts = [["", "aa", "aaaa"], ["aaaa", "aaaaa"], ["a", "", "aaa"]]
    for shard, row in enumerate(texts):
        pack(tmp_path / f"{shard}.tar", [m for i, text in enumerate(row) for m in pair(f"{shard}{i}", text=text)])
    return tmp_path


def test_a_filter_is_counted_by_reason_and_stored(captioned):
    short = Short(3)
    data = source(captioned, "caption", filter=short, published=99, name="texts")
    assert [data[i]["caption"] for i in range(len(data))] == ["aa", "a", "aaa"]
    assert (data.found, data.filtered) == (8, {"empty": 2, "long": 3})
    assert "'texts', 3 samples: 8 of 99 samples found in 3 shards, 2 left out by empty, 3 left out by long" in repr(
        data
    )
    assert sorted(short.calls) == ["0.tar", "1.tar", "2.tar"]
    again = Short(3)
    assert keys(source(captioned, "caption", filter=again)) == ["01", "20", "22"] and not again.calls
    other = Short(4)
    assert len(source(captioned, "caption", filter=other)) == 5 and len(other.calls) == 3
    pack(captioned / "1.tar", pair("x", text="b"))
    assert keys(source(captioned, "caption", filter=again)) == ["01", "x", "20", "22"] and again.calls == ["1.tar"]
    refuses(lambda: source(captioned, filter=Short(0)), "no samples", "2 left out by empty", "long")


def test_a_filter_whose_own_file_changes(captioned):
    short = Short(3)
    data = source(captioned, "caption", filter=short)
    short.beside = (1,)
    again = Short(3)
    again.beside = (1,)
    source(captioned, filter=again)
    assert len(again.calls) == 3
    shard_tables.MEMORY._kept.clear()
    for stored in captioned.glob("*.kept.npz"):
        stored.unlink()
    refuses(lambda: data[0], "0.tar has changed")


def test_a_filter_sees_complete_samples_only(captioned):
    pack(captioned / "1.tar", [*without(pair("x"), "txt"), *pair("y", text="b")])
    refuses(lambda: source(captioned, filter=Short(3)), "1 sample(s) of", "1.tar:x (offset", "caption", "'drop'")
    data = source(captioned, filter=Short(3), incomplete="drop")
    assert keys(data) == ["01", "y", "20", "22"] and (data.dropped, data.filtered) == (1, {"empty": 2, "long": 1})
    # Dropping is a choice of its own: it does not meet what was stored without it.
    refuses(lambda: source(captioned, filter=Short(3)), "1.tar")
