"""ArrayRecord files: random access, in threads and other processes, and what may happen to a file."""

import itertools
import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from spendflops.contracts.errors import DataError
from spendflops.parts.sources import arrayrecord
from spendflops.parts.sources.arrayrecord import (
    WRITER_OPTIONS,
    ArrayRecordSource,
    count_records,
    list_files,
    open_records,
)
from spendflops.parts.sources.records import encode


def write(path, contents, options=WRITER_OPTIONS):
    writer = ArrayRecordWriter(str(path), options)
    for content in contents:
        writer.write(content)
    writer.close()
    return str(path)


def contents(seed=0, count=20):
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(n)) for n in rng.integers(0, 4000, count)]


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("options", [WRITER_OPTIONS, "group_size:4"])
def test_files_in_the_order_of_their_names(tmp_path, options):
    # An empty file and an empty record among them; what is hidden or something else does not belong to them.
    parts = [contents(1, 7), [], [b"", b"x"], contents(2, 5)]
    for i, name in enumerate(["b.arrayrecord", "c.arrayrecord-0", "d.arrayrecord-1", "e.arrayrecord"]):
        write(tmp_path / name, parts[i], options)
    write(tmp_path / ".a.arrayrecord.tmp", [b"no"])
    (tmp_path / "dataset_info.json").write_text("{}")
    records = open_records(list_files(str(tmp_path)))
    expected = list(itertools.chain(*parts))
    assert records.counts == (7, 0, 2, 5) and [records[i] for i in range(len(records))] == expected
    assert records[np.int64(8)] == b"x"
    assert records.place(8) == f"{tmp_path}/d.arrayrecord-1 record 1"
    for index in (-1, 14):
        refuses(lambda index=index: records[index], "14 records", error=IndexError)


def test_threads_share_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(arrayrecord, "OPEN_FILES", 2)
    parts = [contents(k, 30) for k in range(5)]
    records = open_records([write(tmp_path / f"{k}.arrayrecord", part) for k, part in enumerate(parts)])
    expected, wrong = list(itertools.chain(*parts)), []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, len(records), 300):
            if records[i] != expected[i]:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and len(arrayrecord.READERS._open) <= 2
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert sum(str(tmp_path) in path for path in held) <= 2


def test_a_pickled_copy_and_a_forked_process(tmp_path):
    expected = contents()
    records = open_records([write(tmp_path / "a.arrayrecord", expected)])
    assert records[3] == expected[3]
    copy = pickle.loads(pickle.dumps(records))
    assert [copy[i] for i in range(20)] == expected
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send((len(arrayrecord.READERS._open), [records[i] for i in range(20)]))
    )
    child.start()
    assert receiver.poll(20) and receiver.recv() == (0, expected)
    child.join()


@pytest.mark.parametrize("change", ["shorter", "other", "gone"])
@pytest.mark.parametrize("opened", [False, True])
def test_a_file_that_changes_while_it_is_read(tmp_path, change, opened):
    path = write(tmp_path / "a.arrayrecord", contents())
    records = open_records([path])
    if opened:
        assert records[0] == contents()[0]
    if change == "shorter":
        os.truncate(path, 1000)
    elif change == "other":
        write(path, contents(5))
        os.utime(path, ns=(1, 1))
    else:
        os.unlink(path)
    refuses(lambda: records[1], path, "No such file" if change == "gone" else "has changed since")
    refuses(lambda: pickle.loads(pickle.dumps(records))[1], path)


def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path):
    expected = contents()
    path = write(tmp_path / "a.arrayrecord", expected)
    data = bytearray((tmp_path / "a.arrayrecord").read_bytes())
    data[bytes(data).find(expected[5][:50]) + 7] ^= 1
    (tmp_path / "a.arrayrecord").write_bytes(data)
    records = open_records([path])
    refuses(lambda: records[5], f"{path} record 5", "hash mismatch")
    assert records[6] == expected[6]


def test_what_is_no_arrayrecord_file(tmp_path):
    path = write(tmp_path / "a.arrayrecord", contents(count=100))
    whole = (tmp_path / "a.arrayrecord").read_bytes()
    for length in (0, 1, 1000, 2**16, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.arrayrecord").write_bytes(whole[:length])
        refuses(lambda: count_records(str(tmp_path / "cut.arrayrecord")), "cut.arrayrecord cannot be read")
    (tmp_path / "text.arrayrecord").write_text("hello " * 20_000)
    refuses(lambda: open_records([path, str(tmp_path / "text.arrayrecord")]), "text.arrayrecord cannot be read")
    refuses(lambda: open_records([str(tmp_path / "b.arrayrecord")]), "b.arrayrecord", "No such file")
    refuses(lambda: count_records(str(tmp_path)), "cannot be read")
    (tmp_path / "empty").mkdir()
    refuses(lambda: list_files(str(tmp_path / "empty")), "no ArrayRecord files")
    refuses(lambda: list_files(str(tmp_path / "nothing")), "nothing cannot be read")


def test_samples(tmp_path):
    features = {"label": "int32", "caption": "str"}
    made = [encode({"label": i, "caption": f"nr {i}"}, features, name="s") for i in range(5)]
    records = open_records([write(tmp_path / "a.arrayrecord", [*made, b"other bytes"])])
    source = pickle.loads(pickle.dumps(ArrayRecordSource(records, {"caption": "str"})))
    assert len(source) == 6 and [source[i] for i in range(5)] == [{"caption": f"nr {i}"} for i in range(5)]
    refuses(lambda: source[5], f"{tmp_path}/a.arrayrecord record 5", "not a record")
    assert "a.arrayrecord" in repr(source) and "6 records" in repr(source)
