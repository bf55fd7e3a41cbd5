"""ArrayRecord files by random access, and the folder that ``spendflops data prepare`` makes of them.

A folder holds ``SPLIT-00000-of-00012.arrayrecord`` and so on, and ``dataset_info.json``, which is written last: without
it the folder is not finished. Files are written with a group for every record (:data:`WRITER_OPTIONS`): with 64 records
a group, reading them at random is some 30 times slower. Every record has a checksum, which the format verifies.
"""

from __future__ import annotations

import bisect
import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from spendflops.contracts.errors import DataError, suggest
from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts.sources.published import check_features
from spendflops.parts.sources.records import decode

WRITER_OPTIONS = "group_size:1,uncompressed"
"""JPEG does not get smaller by compressing it again."""
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""No read-ahead, no threads of its own: for random access."""
OPEN_FILES = 256
"""Files that a process holds open; the one unused for longest is let go first."""
MANIFEST = "dataset_info.json"
UNFINISHED = "dataset_info.unfinished.json"
"""What the manifest is going to say, while shards are being written."""
FORMAT = "spendflops prepared data set"
VERSION = 1
NAME_LISTS = ("classes", "class_names", "label_names", "mask_classes", "box_classes")
"""Fields of the information of a data set that are lists of names."""
LATER = ("box_classes", "box_counts")
"""Fields of a manifest that the first ones did not have."""
SPLIT_NAME = re.compile(r"[A-Za-z0-9_.\-]+")

Stamp = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """The records of ArrayRecord files, one file after the other: thread-safe, picklable.

    Attributes:
        files: Paths.
        stamps: Size in bytes and time of change in nanoseconds of each file.
        counts: Records of each file.
    """

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    counts: tuple[int, ...]
    _ends: tuple[int, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_ends", tuple(itertools.accumulate(self.counts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """The bytes of a record.

        Raises:
            IndexError: Outside 0 .. len - 1.
            DataError: The file has vanished, has changed since it was opened, or is damaged at this record.
        """
        file, position = self._where(index)
        return READERS.read(self.files[file], self.stamps[file], position)

    def place(self, index: int) -> str:
        """File and number of a record, for messages."""
        file, position = self._where(index)
        return f"{self.files[file]} record {position}"

    def _where(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} records")
        file = bisect.bisect_right(self._ends, index)
        return file, int(index) - (self._ends[file] - self.counts[file])


def list_files(folder: str) -> tuple[str, ...]:
    """The visible ``*.arrayrecord*`` files in a folder, sorted by name.

    Raises:
        DataError: Missing, unreadable, or without such files.
    """
    try:
        names = sorted(n for n in os.listdir(folder) if ".arrayrecord" in n and not n.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error.strerror or str(error)) from error
    if not names:
        raise DataError(f"{folder} has no ArrayRecord files", fix="check the path; *.arrayrecord is looked for")
    return tuple(os.path.join(folder, name) for name in names)


def open_records(files: Sequence[str], *, threads: int = 16) -> Records:
    """Opens every file once to count its records.

    Args:
        files: Paths, in the order of the records.
        threads: Files that are opened at a time.

    Raises:
        DataError: A file is missing, is no ArrayRecord file or was cut short.
    """
    files = tuple(os.path.abspath(file) for file in files)
    stamps = tuple(_stamp(file) for file in files)
    with concurrent.futures.ThreadPoolExecutor(max(1, min(threads, len(files)))) as pool:
        counts = tuple(pool.map(count_records, files))
    return Records(files=files, stamps=stamps, counts=counts)


def count_records(file: str) -> int:
    """Records of a file, from its footer.

    Raises:
        DataError: Missing, no ArrayRecord file, or cut short.
    """
    _stamp(file)
    return int(_reader(file).num_records())


class ArrayRecordSource:
    """Samples of the records that ``spendflops data prepare`` writes.

    Args:
        records: Where they are.
        features: Name -> specification of what to read.
    """

    def __init__(self, records: Records, features: Mapping[str, str]):
        self.records, self.features = records, dict(features)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return decode(self.records[index], self.features, name=self.records.place(index))

    def __repr__(self) -> str:
        files = self.records.files
        return f"ArrayRecordSource({files[0] if files else 'nothing'!r} ..., {len(files)} files, {len(self)} records)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What ``dataset_info.json`` says of a folder.

    Attributes:
        root: The folder.
        info: As of the data set that was prepared, ``sizes`` of the splits that are here.
        shards: Split -> records of each shard.
        source: Description of the data set that was prepared, with its options.
    """

    root: str
    info: DatasetInfo
    shards: Mapping[str, tuple[int, ...]]
    source: Mapping[str, Any]

    def open(self, split: str, features: Sequence[str]) -> ArrayRecordSource:
        """Samples of a split.

        Raises:
            ConfigError: A feature that is not there.
            DataError: An unknown split, a missing shard, one that does not belong to the others, other counts than the
                manifest's.
        """
        if split not in self.shards:
            known = list(self.shards)
            raise DataError(f"{self.root} has no split {split!r}{suggest(split, known)}", fix=f"use one of {known}")
        check_features(f"{self.info.name} in {self.root}", features, list(self.info.features))
        counts = self.shards[split]
        names = [shard_name(split, shard, len(counts)) for shard in range(len(counts))]
        present = {os.path.basename(p) for p in list_files(self.root) if _split(p) == split} if counts else set()
        for odd, what in ((set(names) - present, "is missing"), (present - set(names), "does not belong to it")):
            if odd:
                raise DataError(
                    f"{self.root}: shard {min(odd)} {what}",
                    why=f"{MANIFEST} says {len(counts)} shards of {split}, {len(present)} are there",
                    fix="copy the folder again, or run the same `spendflops data prepare` again",
                )
        records = open_records([os.path.join(self.root, name) for name in names])
        for file, found, said in zip(records.files, records.counts, counts, strict=True):
            if found != said:
                raise DataError(
                    f"{file} has {found:,} records, {MANIFEST} says {said:,}",
                    why="it is another file than the one that was written here",
                    fix="copy it again, or run the same `spendflops data prepare` again",
                )
        return ArrayRecordSource(records, {name: self.info.features[name] for name in features})


def shard_name(split: str, shard: int, shards: int) -> str:
    """The file of a shard."""
    return f"{split}-{shard:05d}-of-{shards:05d}.arrayrecord"


def is_prepared(root: str) -> bool:
    """Whether ``root`` is a folder that ``spendflops data prepare`` made, finished or not."""
    return any(os.path.exists(os.path.join(root, name)) for name in (MANIFEST, UNFINISHED))


def class_digest(classes: Sequence[str]) -> str:
    """Hex SHA-256 of a class list: its names in label order, joined by newlines."""
    return hashlib.sha256("\n".join(classes).encode("utf-8", "surrogatepass")).hexdigest()


def load_manifest(path: str) -> dict[str, Any]:
    """The JSON of a manifest.

    Raises:
        DataError: Unreadable, not a manifest, or one of a newer version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _unreadable(path, f"it does not say that it is a {FORMAT}")
    if manifest.get("version") != VERSION:
        raise _unreadable(path, f"it is of version {manifest.get('version')}, this spendflops reads {VERSION}")
    return manifest


def read_prepared(root: str) -> Prepared:
    """Reads the manifest of a folder.

    Raises:
        DataError: No manifest, an unfinished folder, a manifest that is damaged or was edited.
    """
    root = os.path.abspath(root)
    path = os.path.join(root, MANIFEST)
    if os.path.isdir(root) and not os.path.exists(path):
        unfinished = os.path.exists(os.path.join(root, UNFINISHED))
        raise DataError(
            f"{root} is {'not finished' if unfinished else 'no prepared data set'}",
            why=f"it has no {MANIFEST}, which is written last",
            fix="run the same `spendflops data prepare` again: it goes on where it stopped"
            if unfinished
            else "make one with `spendflops data prepare NAME PATH OUT`",
        )
    manifest = load_manifest(path)
    try:
        text = {key: str(manifest[key]) for key in ("name", "licence", "citation", "homepage")}
        manifest = {**{key: [] for key in LATER}, **manifest}
        lists = {key: _texts(manifest[key]) for key in NAME_LISTS}
        counts = tuple(int(count) for count in manifest["box_counts"])
        features = {str(name): str(spec) for name, spec in manifest["features"].items()}
        shards = {str(split): tuple(int(n) for n in counts) for split, counts in manifest["shards"].items()}
        digest, source = manifest["classes_sha256"], manifest["source"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(path, f"it has no sound {error}") from error
    if digest != class_digest(lists["classes"]):
        raise DataError(
            f"{path}: the class list is not the one that was written",
            why="its SHA-256 is another: labels may mean other classes",
            fix="copy the file again, or prepare the data set again",
        )
    sizes = {split: sum(counts) for split, counts in shards.items()}
    info = DatasetInfo(features=features, sizes=sizes, box_counts=counts, **text, **lists)
    return Prepared(root=root, info=info, shards=shards, source=source)


class _Readers:
    """Open files, shared by the threads of a process; none is inherited by a forked one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._open: collections.OrderedDict[tuple[str, Stamp], ArrayRecordReader] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, stamp: Stamp, position: int) -> bytes:
        reader = self._take(path, stamp)
        try:
            data, why = reader.read([position])[0], ""
        except (RuntimeError, IndexError) as error:
            data, why = b"", str(error)
        # After the read: a file that changes under an open reader gives other bytes without a word.
        if _stamp(path) != stamp:
            raise _changed(path)
        if why:
            raise DataError(
                f"{path} record {position} cannot be read", why=why, fix="copy the file again, or prepare it again"
            )
        return data

    def _take(self, path: str, stamp: Stamp) -> ArrayRecordReader:
        key = (path, stamp)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        if _stamp(path) != stamp:
            raise _changed(path)
        reader = _reader(path)
        with self._lock:
            # Closed when the last thread that reads from it lets it go.
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
            return self._open.setdefault(key, reader)


READERS = _Readers()
os.register_at_fork(after_in_child=READERS.reset)


def _reader(path: str) -> ArrayRecordReader:
    reader = ArrayRecordReader(path, options=READER_OPTIONS, file_reader_buffer_size=2**15)
    if not reader.ok():
        try:
            reader.read([0])
            why = "it is no ArrayRecord file"
        except (RuntimeError, IndexError) as error:
            why = str(error)
        raise _unreadable(path, why)
    return reader


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    return status.st_size, status.st_mtime_ns


def _split(path: str) -> str:
    return re.sub(r"-\d+-of-\d+\.arrayrecord$", "", os.path.basename(path))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("list of names")
    return tuple(value)


def _unreadable(path: str, why: str) -> DataError:
    return DataError(f"{path} cannot be read", why=why, fix="check the path; copy the file again if it is damaged")


def _changed(path: str) -> DataError:
    return DataError(
        f"{path} has changed since it was opened",
        why="its size or its time of change is another",
        fix="leave shards alone while a run reads them; start again",
    )
