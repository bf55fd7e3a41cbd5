"""Which members of a shard form which sample: grouped once, stored beside the shard.

The convention is webdataset's: members with the same key, the path up to the first dot of the base name, are one
sample. The table of ``X.tar`` is written beside it as ``X.tar.samples.npz``, or, where that folder cannot be written,
into the user's cache, and holds the size and the time of the tar like its index does. A process keeps the tables that
it used last, up to :data:`TABLE_BYTES`: a sample takes 88 bytes and its key. Shards that are folders
(``00000/KEY.jpg``) are listed instead, and nothing is stored.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.stored import places, store
from spendflops.parts.sources.tar import FILES, open_index

VERSION = 2
FIELDS = ("image", "caption", "json", "label", "mask")
EXTENSIONS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 1, "json": 2, "cls": 3, "mask.png": 4, "seg.png": 4}
"""Extension in lower case -> number of the field. Members with others belong to no field and are never read."""
TABLE_BYTES = 128 << 20
"""What the tables that a process keeps in memory may take: 1.2 million samples of img2dataset."""

Stamp = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The samples of one shard.

    Attributes:
        path: The tar, or the folder.
        stamp: Size in bytes (of a folder: entries) and time of change in nanoseconds.
        rows: int64 [samples fields 2], offset and size of each member; -1 where there is none. In a folder the first
            number is the place in ``names``.
        letters: The keys, UTF-8, one after the other.
        ends: int64 [samples], where each key ends in ``letters``.
        names: Files of a folder, None for a tar.
    """

    path: str
    stamp: Stamp
    rows: Int64[np.ndarray, "samples 5 2"]
    letters: UInt8[np.ndarray, " letters"]
    ends: Int64[np.ndarray, " samples"]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of memory; a name of a folder's file is counted as 100."""
        return self.rows.nbytes + self.letters.nbytes + self.ends.nbytes + 100 * len(self.names or ())

    def key(self, row: int) -> str:
        """The key of a sample."""
        begin = int(self.ends[row - 1]) if row else 0
        return self.letters[begin : int(self.ends[row])].tobytes().decode(errors="surrogateescape")

    def has(self, row: int, field: int) -> bool:
        """Whether a sample has a member for ``FIELDS[field]``."""
        return bool(self.rows[row, field, 0] >= 0)

    def file(self, row: int, field: int) -> str | None:
        """The path of a member that is a file of its own; None in a tar."""
        return None if self.names is None else os.path.join(self.path, self.names[self.rows[row, field, 0]])

    def read(self, row: int, field: int) -> bytes:
        """The content of a member.

        Raises:
            DataError: It cannot be read, or the shard has changed.
        """
        path = self.file(row, field)
        if path is None:
            offset, size = self.rows[row, field].tolist()
            return FILES.read(self.path, (self.stamp[0], self.stamp[1]), offset, size)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise _unreadable(path, error) from error

    def place(self, row: int, field: int) -> str:
        """Where a member is, for messages: shard, key, offset; or its file."""
        offset = int(self.rows[row, field, 0])
        return self.file(row, field) or f"{self.path}:{self.key(row)} ({FIELDS[field]} at offset {offset})"

    def where(self, row: int) -> str:
        """Where a sample is, for messages: shard, key, offset of its first member."""
        if self.names is not None:
            return os.path.join(self.path, self.key(row))
        offsets = self.rows[row, :, 0]
        known = offsets[offsets >= 0]
        # Without a member that is read, only the index knows where the others are.
        offset = int(known.min()) if len(known) else _first_offset(self.path, self.key(row))
        return f"{self.path}:{self.key(row)} (offset {offset})"

    def counts(self) -> Int64[np.ndarray, " 32"]:
        """How many samples have which fields: bit ``f`` of the position says that ``FIELDS[f]`` is there."""
        present = (self.rows[:, :, 0] >= 0) @ (1 << np.arange(len(FIELDS)))
        return np.bincount(present, minlength=1 << len(FIELDS)).astype(np.int64)

    def complete(self, needed: int) -> np.ndarray:
        """int32 numbers of the samples that have all fields of the bits ``needed``."""
        wanted = [f for f in range(len(FIELDS)) if needed >> f & 1]
        return np.flatnonzero((self.rows[:, wanted, 0] >= 0).all(axis=1)).astype(np.int32)


def group(path: str, names: Sequence[str]) -> tuple[list[str], Int64[np.ndarray, "samples 5"]]:
    """Keys in the order in which they first appear, and the member of each field, -1 where there is none.

    Members of a sample need not be adjacent. Hidden files and names without a dot belong to no sample.

    Raises:
        DataError: Two members of one sample for the same field.
    """
    samples: dict[str, int] = {}
    members: list[list[int]] = []
    for number, name in enumerate(names):
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            continue
        row = samples.setdefault(folder + slash + stem, len(members))
        if row == len(members):
            members.append([-1] * len(FIELDS))
        field = EXTENSIONS.get(extension.lower())
        if field is None:
            continue
        if (other := members[row][field]) >= 0:
            raise DataError(
                f"{path} has {names[other]!r} and {name!r} in one sample",
                why=f"it is not clear which of them is the {FIELDS[field]}",
                fix="write the shard again with one of them",
            )
        members[row][field] = number
    return list(samples), np.asarray(members, np.int64).reshape(-1, len(FIELDS))


def stamp_of(path: str) -> Stamp:
    """What changes when a shard changes.

    Raises:
        DataError: Missing or unreadable.
    """
    try:
        status = os.stat(path)
        size = len(os.listdir(path)) if os.path.isdir(path) else status.st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    return size, status.st_mtime_ns


def counts_of(path: str, stamp: Stamp) -> Int64[np.ndarray, " 16"]:
    """:meth:`Table.counts` of a shard, from its stored table where there is one. Errors as :func:`open_table`."""
    stored = None if os.path.isdir(path) else _load(path, ".samples.npz", stamp, only=("counts",))
    return open_table(path, stamp).counts() if stored is None else stored["counts"]


def open_table(path: str, stamp: Stamp) -> Table:
    """The table of a shard that has the given stamp, from memory, else from where it was stored, else made.

    Raises:
        DataError: The shard is unreadable, has changed, or has two members for one field of a sample.
    """
    return MEMORY.get((path, stamp), lambda: (_folder_table if os.path.isdir(path) else _tar_table)(path, stamp))


def remembered(
    path: str, suffix: str, stamp: Stamp, make: Callable[[], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays that belong to a shard: read where they were stored for this stamp, else made and stored.

    Args:
        path: The shard.
        suffix: What the name of the stored file adds to it.
        stamp: What they depend on.
        make: Gives them.

    Returns:
        The arrays, and whether they are stored.
    """
    stored = _load(path, suffix, stamp)
    if stored is not None:
        return stored, True
    arrays = make()
    return arrays, any(_store(place, path, stamp, arrays) for place in places(path, suffix))


def changed(path: str) -> DataError:
    """The error of a shard that is not the one that was opened."""
    return DataError(
        f"shard {path} has changed since it was opened",
        why="its size or its time of change is another: its samples may be others",
        fix="leave shards alone while a run reads them, and start again",
    )


class _Memory:
    """What was used last, up to a number of bytes; what could be stored nowhere stays."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[Any, tuple[Any, int]] = collections.OrderedDict()
        self._pinned: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self.used = 0

    def get(self, key: Any, make: Callable[[], tuple[Any, bool]]) -> Any:
        """What ``key`` stands for; ``make`` gives it, and whether it can be had again at little cost."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            if key in self._pinned:
                return self._pinned[key]
        value, cheap = make()
        with self._lock:
            if not cheap:
                self._pinned[key] = value
            elif key not in self._kept:
                self._kept[key] = value, value.nbytes
                self.used += value.nbytes
                while self.used > TABLE_BYTES and len(self._kept) > 1:
                    self.used -= self._kept.popitem(last=False)[1][1]
        return value


MEMORY = _Memory()


def _tar_table(path: str, stamp: Stamp) -> tuple[Table, bool]:
    def make() -> dict[str, np.ndarray]:
        index = open_index(path)
        if index.stamp != stamp:
            raise changed(path)
        keys, members = group(path, index.names)
        places = np.stack([index.offsets, index.sizes], axis=1) if len(index) else np.empty((1, 2), np.int64)
        rows = np.where(members[..., None] >= 0, places[members], -1)
        table = Table(path=path, stamp=stamp, rows=rows, **_written(keys))
        return {"counts": table.counts(), "rows": rows, **_written(keys)}

    arrays, stored = remembered(path, ".samples.npz", stamp, make)
    return Table(path=path, stamp=stamp, **{k: arrays[k] for k in ("rows", "letters", "ends")}), stored


def _folder_table(path: str, stamp: Stamp) -> tuple[Table, bool]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    if stamp_of(path) != stamp:
        raise changed(path)
    keys, members = group(path, names)
    rows = np.stack([members, np.where(members >= 0, 0, -1)], axis=-1)
    return Table(path=path, stamp=stamp, rows=rows, names=tuple(names), **_written(keys)), True


def _written(keys: Sequence[str]) -> dict[str, np.ndarray]:
    texts = [key.encode(errors="surrogateescape") for key in keys]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"letters": np.frombuffer(b"".join(texts), np.uint8), "ends": ends}


def _first_offset(path: str, key: str) -> int:
    index = open_index(path)
    return next(int(o) for n, o in zip(index.names, index.offsets, strict=True) if n.startswith(key + "."))


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read", why=error.strerror or str(error), fix="check the path and its permissions"
    )


def _load(path: str, suffix: str, stamp: Stamp, only: Sequence[str] = ()) -> dict[str, np.ndarray] | None:
    for place in places(path, suffix):
        # A file that is not there, is of another shard or cannot be read is made again, whatever is wrong with it.
        with contextlib.suppress(Exception), np.load(place, allow_pickle=False) as stored:
            if stored["stamp"].tolist() == [VERSION, *stamp]:
                return {name: stored[name] for name in only or stored.files}
    return None


def _store(place: Path, path: str, stamp: Stamp, arrays: Mapping[str, np.ndarray]) -> bool:
    return store(place, {"stamp": np.asarray([VERSION, *stamp]), **arrays}, like=path)
