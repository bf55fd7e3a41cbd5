"""Copies of data sets: equal, the same bytes for any number of workers, and what may happen half-way."""

import concurrent.futures
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spendflops_plugins.arrayrecord import ArrayRecord
from spendflops_plugins.folder import Folder
from spendflops_plugins.shapes import Shapes

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.data import shard_writer
from spendflops.data.prepare import prepare
from spendflops.testing.samples import differences

SMALL = {"size": 16, "length": 30, "validation": 4, "probe": 4, "test": 4}


def refuses(call, *words, error=DataError):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def content(folder):
    """Name -> hash of every file, hidden ones among them."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def photos(root, count=9):
    for i in range(count):
        path = root / ("cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8 + i, 12, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path, quality=80)
    return root


def test_a_folder_is_copied_bit_for_bit(tmp_path):
    source = Folder(path=str(photos(tmp_path / "photos")), licence="CC0-1.0")
    # Not an image at all, and empty: nothing is decoded, what is wrong with a file is said when it is used.
    (tmp_path / "photos/cat/bad.jpg").write_bytes(b"oops")
    (tmp_path / "photos/cat/empty.jpg").write_bytes(b"")
    summary = prepare(source, tmp_path / "out", splits=("train",), examples_per_shard=4)
    assert (summary.sizes, summary.written, summary.kept) == ({"train": 11}, 3, 0)
    assert summary.bytes == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.arrayrecord"))
    assert "11 examples" in "\n".join(summary) and "3 shards" in "\n".join(summary)
    copy = ArrayRecord(path=str(tmp_path / "out"))
    assert copy.info.classes == ("cat", "dog") and copy.info.licence == "CC0-1.0" and copy.info.sizes == {"train": 11}
    ours, theirs = (d.source("train", features=("image", "label")) for d in (copy, source))
    assert len(ours) == len(theirs) == 11
    for i in range(11):
        assert ours[i]["image"].read() == theirs[i]["image"].read() and ours[i]["label"] == theirs[i]["label"]
        assert ours[i]["image"].digest() == theirs[i]["image"].digest()
    # The place of the original is in the name, but not where the folder lay.
    bad = next(ours[i]["image"] for i in range(11) if ours[i]["image"].read() == b"oops")
    refuses(bad.decode, "train-00001-of-00003.arrayrecord record", "(cat/bad.jpg)")


def test_a_copy_of_a_copy_is_the_same(tmp_path):
    prepare(Shapes(**SMALL), tmp_path / "a", splits=("test",))
    prepare(ArrayRecord(path=str(tmp_path / "a")), tmp_path / "b")
    one, two = (ArrayRecord(path=str(tmp_path / name)) for name in "ab")
    assert one.info == two.info
    features = tuple(one.info.features)
    for i in range(4):
        a, b = (dict(d.source("test", features=features)[i]) for d in (one, two))
        assert not differences(a, b) and a["image"].digest() == b["image"].digest()


@pytest.mark.parametrize("size", [{"examples_per_shard": 4}, {"shard_bytes": 6000}])
def test_the_same_bytes_for_any_number_of_workers(tmp_path, size):
    made = []
    for workers in (1, 3, 8):
        prepare(Shapes(**SMALL), tmp_path / str(workers), workers=workers, **size)
        made.append(content(tmp_path / str(workers)))
    assert made[0] == made[1] == made[2] and len(made[0]) >= 10
    assert all(not name.startswith(".") for name in made[0])


def test_shards_are_as_large_as_asked_and_equal(tmp_path):
    prepare(Shapes(**SMALL), tmp_path / "a", splits=("train",), examples_per_shard=8)
    copy = ArrayRecord(path=str(tmp_path / "a"))
    assert copy.source("train").records.counts == (7, 8, 7, 8)
    prepare(Shapes(**SMALL), tmp_path / "b", splits=("train",), features=("label", "image"))
    assert ArrayRecord(path=str(tmp_path / "b")).source("train").records.counts == (30,)
    assert list(ArrayRecord(path=str(tmp_path / "b")).info.features) == ["image", "label"]


def test_the_same_command_again_writes_what_is_missing(tmp_path):
    out = tmp_path / "out"
    first = prepare(Shapes(**SMALL), out, examples_per_shard=5)
    before, times = content(out), {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = prepare(Shapes(**SMALL), out, examples_per_shard=5)
    assert (again.written, again.kept) == (0, first.written)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == times
    (out / "train-00001-of-00006.arrayrecord").unlink()
    (out / "train-00002-of-00006.arrayrecord").write_bytes(b"")
    (out / "train-00004-of-00006.arrayrecord").write_bytes((out / "test-00000-of-00001.arrayrecord").read_bytes())
    (out / ".train-00003-of-00006.arrayrecord.tmp").write_bytes(b"left by a killed process")
    assert prepare(Shapes(**SMALL), out, examples_per_shard=5).written == 3
    assert content(out) == before


def test_another_source_or_other_options_are_refused(tmp_path):
    out = tmp_path / "out"
    prepare(Shapes(**SMALL), out, examples_per_shard=5)
    before = content(out)
    refuses(lambda: prepare(Shapes(**SMALL | {"seed": 1}), out, examples_per_shard=5), "source.seed: 0 in OUT, 1 now")
    refuses(lambda: prepare(Shapes(**SMALL), out, examples_per_shard=6), "options.examples_per_shard: 5 in OUT, 6 now")
    refuses(lambda: prepare(Shapes(**SMALL), out, examples_per_shard=5, check=True), "options.check: false in OUT")
    refuses(lambda: prepare(Shapes(**SMALL), out, examples_per_shard=5, splits=("test",)), "sizes.train: 30 in OUT")
    refuses(lambda: prepare(Shapes(**SMALL), out, examples_per_shard=5, features=("image",)), "features.label")
    source = Folder(path=str(photos(tmp_path / "photos")))
    refuses(lambda: prepare(source, out, splits=("train",)), "something else", 'name: "shapes-quick" in OUT')
    assert content(out) == before
    refuses(lambda: prepare(source, tmp_path / "photos", splits=("train",)), "not empty", "cat")


def test_a_copy_from_before_boxes_had_classes_is_the_same_copy(tmp_path):
    out = tmp_path / "out"
    prepare(Shapes(**SMALL), out, examples_per_shard=5)
    path = out / "dataset_info.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in manifest.items() if k not in ("box_classes", "box_counts")}))
    assert prepare(Shapes(**SMALL), out, examples_per_shard=5).written == 0
    path.write_text(json.dumps(manifest | {"box_classes": ["a"]}))
    refuses(lambda: prepare(Shapes(**SMALL), out, examples_per_shard=5), "box_classes")


@pytest.mark.parametrize("shards", [{"train": [4, 5]}, {"train": "ten"}, [10], None])
def test_what_is_written_of_the_shards_is_not_trusted(tmp_path, shards):
    prepare(Counted(), tmp_path / "out")
    path = tmp_path / "out/dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shards": shards}))
    refuses(lambda: prepare(Counted(), tmp_path / "out"), "what it says of its shards is damaged")


def test_options_are_checked(tmp_path):
    data, out = Shapes(**SMALL), tmp_path / "out"
    for options, said in (
        ({"shard_bytes": 10, "examples_per_shard": 10}, "both"),
        ({"shard_bytes": 0}, "shard_bytes is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"splits": "train"}, "is a list"),
        ({"splits": ()}, "no splits"),
        ({"splits": ("train[:5]",)}, "plain name"),
        ({"features": "image"}, "is a list"),
        ({"features": ()}, "no features"),
        ({"features": ("labl",)}, "did you mean 'label'"),
    ):
        refuses(lambda options=options: prepare(data, out, **options), said, error=ConfigError)
    refuses(
        lambda: prepare(Folder(path=str(photos(tmp_path / "p"))), out), "does not state its splits", error=ConfigError
    )
    refuses(lambda: prepare(data, out, splits=("tset",)), "did you mean 'test'")
    assert not out.exists()
    (tmp_path / "file").write_text("")
    refuses(lambda: prepare(data, tmp_path / "file"), "file cannot be made")


def test_a_split_that_is_asked_for_twice_or_is_empty(tmp_path):
    summary = prepare(Shapes(**SMALL | {"probe": 0}), tmp_path / "out", splits=("test", "probe", "test"))
    assert summary.sizes == {"test": 4, "probe": 0}
    assert len(ArrayRecord(path=str(tmp_path / "out")).source("probe")) == 0


def test_progress_is_told_by_one_thread_at_a_time(tmp_path):
    seen, busy = [], threading.Lock()

    def progress(done, total):
        assert busy.acquire(blocking=False)
        seen.append((done, total))
        busy.release()

    prepare(Shapes(**SMALL), tmp_path / "out", examples_per_shard=3, workers=4, progress=progress)
    assert seen[0] == (0, 42) and [done for done, _ in seen] == list(range(43))
    seen.clear()
    prepare(Shapes(**SMALL), tmp_path / "out", examples_per_shard=3, progress=progress)
    assert seen == [(42, 42)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_half_way_leaves_whole_shards_and_the_rest_follows(tmp_path, error):
    def progress(done, total):
        if done == 17:
            raise error

    with pytest.raises(error):
        prepare(Shapes(**SMALL), tmp_path / "out", examples_per_shard=3, workers=3, progress=progress)
    left = content(tmp_path / "out")
    assert "dataset_info.json" not in left and "dataset_info.unfinished.json" in left
    assert not [name for name in left if name.endswith(".tmp")]
    refuses(lambda: ArrayRecord(path=str(tmp_path / "out")).info, "not finished")
    prepare(Shapes(**SMALL), tmp_path / "whole", examples_per_shard=3)
    whole = content(tmp_path / "whole")
    shards = {name: digest for name, digest in left.items() if name.endswith(".arrayrecord")}
    assert shards and shards.items() <= whole.items()
    summary = prepare(Shapes(**SMALL), tmp_path / "out", examples_per_shard=3)
    assert summary.kept == len(shards) and content(tmp_path / "out") == whole


class Counted(Dataset):
    """Ten numbered samples of which some cannot be read; remembers what was asked for."""

    def __init__(self, *, broken: tuple[int, ...] = ()):
        self.info = DatasetInfo(name="counted", features={"label": "int32"}, sizes={"train": 10})
        self.broken, self.asked = broken, []

    def source(self, split, *, features):
        return self

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.asked.append(index)
        if index in self.broken:
            raise DataError(f"sample {index} is gone", why="a test")
        return {"label": index}


def test_a_sample_that_cannot_be_read_stops_the_work(tmp_path):
    data = Counted(broken=(4,))
    refuses(lambda: prepare(data, tmp_path / "out", examples_per_shard=5, workers=1), "sample 4 is gone")
    assert set(content(tmp_path / "out")) <= {"dataset_info.unfinished.json", "train-00001-of-00002.arrayrecord"}


def test_the_other_shards_stop_at_once(tmp_path):
    failed = threading.Event()

    class Slow(Counted):
        def __getitem__(self, index):
            self.asked.append(index)
            if index == 0:
                failed.set()
                raise DataError("sample 0 is gone")
            assert failed.wait(20)
            time.sleep(0.1)
            return {"label": index}

    data = Slow()
    refuses(lambda: prepare(data, tmp_path / "out", examples_per_shard=5, workers=2), "sample 0 is gone")
    assert 9 not in data.asked


def test_what_is_broken_is_listed(tmp_path):
    root = photos(tmp_path / "photos", count=12)
    (root / "dog/1.jpg").write_bytes(b"oops")
    (root / "dog/11.jpg").write_bytes((root / "dog/11.jpg").read_bytes()[:200])
    source = Folder(path=str(root))
    go = {"splits": ("train",), "examples_per_shard": 3, "check": True}
    refuses(lambda: prepare(source, tmp_path / "out", **go), "2 sample(s)", "dog/1.jpg", "not an image", "dog/11.jpg")
    left = set(content(tmp_path / "out"))
    assert "dataset_info.json" not in left and len([n for n in left if n.endswith(".arrayrecord")]) == 3
    for name in ("1", "11"):
        (root / f"dog/{name}.jpg").write_bytes((root / "cat/0.jpg").read_bytes())
    summary = prepare(source, tmp_path / "out", **go)
    assert (summary.written, summary.kept) == (1, 3)
    refuses(lambda: prepare(Counted(broken=(1, 8)), tmp_path / "c", check=True), "2 sample(s)", "train[8]: sample 8")


def test_broken_masks_are_found(tmp_path):
    class Masked(Counted):
        def __init__(self):
            super().__init__()
            self.info = DatasetInfo(name="masked", features={"mask": "uint8 H W"}, sizes={"train": 10})

        def __getitem__(self, index):
            return {"mask": np.zeros((4, 4), np.uint8 if index != 3 else np.int64)}

    refuses(lambda: prepare(Masked(), tmp_path / "out", check=True), "1 sample(s)", "train[3]", "int64")


def test_a_shard_whose_records_cannot_be_counted_again_gets_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "count_records", lambda path: 3)
    refuses(lambda: prepare(Counted(), tmp_path / "out"), "cannot write", "3 of 10 records")
    assert set(content(tmp_path / "out")) == {"dataset_info.unfinished.json"}


def test_two_processes_do_not_write_one_folder(tmp_path):
    inside, go = threading.Event(), threading.Event()

    def progress(done, total):
        inside.set()
        assert go.wait(20)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(prepare, Counted(), tmp_path / "out", progress=progress)
        assert inside.wait(20)
        refuses(lambda: prepare(Counted(), tmp_path / "out"), "another process")
        go.set()
        first.result()


RUN = """
    import sys, time
    from spendflops_plugins.shapes import Shapes
    from spendflops.data.prepare import prepare

    options, slow = {small!r}, {slow}
    prepare(Shapes(**options), {out!r}, examples_per_shard=3, workers=2, progress=lambda *_: time.sleep(slow))
"""


def run(out, *, slow=0.0, **popen):
    script = textwrap.dedent(RUN).format(small=SMALL, slow=slow, out=str(out))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, **popen)


def test_a_killed_process_leaves_whole_shards_and_the_rest_follows(tmp_path):
    out = tmp_path / "out"
    process = run(out, slow=0.05)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.arrayrecord"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    left = content(out)
    assert "dataset_info.json" not in left and [name for name in left if name.endswith(".tmp")]
    prepare(Shapes(**SMALL), tmp_path / "whole", examples_per_shard=3)
    whole = content(tmp_path / "whole")
    shards = {name: digest for name, digest in left.items() if name.endswith(".arrayrecord")}
    assert len(shards) >= 3 and shards.items() <= whole.items()
    prepare(Shapes(**SMALL), out, examples_per_shard=3)
    assert content(out) == whole


def test_a_full_disk_is_an_error_and_leaves_no_half_shard(tmp_path):
    """A limit on the size of files does what a full disk does: the write comes back with an error."""
    data, out = Shapes(size=64, length=40, test=2), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, hard))  # 2 scenes take 128 KiB, 40 take more
    try:
        refuses(
            lambda: prepare(data, out, splits=("test", "train"), workers=1),
            f"cannot write {out}/train-00000-of-00001.arrayrecord",
            "File too large",
            "make room",
        )
        assert set(content(out)) == {"dataset_info.unfinished.json", "test-00000-of-00001.arrayrecord"}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        refuses(lambda: prepare(data, tmp_path / "b", splits=("test",)), "cannot write", "unfinished.json")
        assert not content(tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert prepare(data, out, splits=("test", "train")).kept == 1
