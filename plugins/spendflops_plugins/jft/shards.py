"""What img2dataset leaves of COYO-Labeled: tars of images, each with a table of keys and labels beside it."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources.parquet import list_column, read_columns
from spendflops.parts.sources.shard_paths import find_shards
from spendflops.parts.sources.tar import FILES, open_index
from spendflops_plugins.jft.limits import Limits

SHARDS = 128
"""Shards whose joined tables a process keeps, about half a megabyte for 10,000 images."""
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
COLUMNS = ("key", "status", "labels", "label_probs")
_AGAIN = "fetch both files of the shard again"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Shard:
    """A tar with its table, joined: what is needed to give a sample.

    Attributes:
        names: Members that are images, as bytes.
        places: int64 [images 2], offset and size.
        labels: int32, of all images, one after the other.
        probs: float32, likewise.
        ends: int64 [images], where those of each image end.
    """

    stamp: tuple[int, int]
    names: np.ndarray
    places: Int64[np.ndarray, "images 2"]
    labels: Int32[np.ndarray, " labels"]
    probs: Float32[np.ndarray, " labels"]
    ends: Int64[np.ndarray, " images"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """A tar, its table with the time and size of both, and the images that the table says were downloaded."""

    tar: str
    table: str
    stamps: tuple[tuple[int, int], tuple[int, int]]
    images: int


class ShardLabels:
    """Images of img2dataset's tars with the labels in the tables beside them: thread-safe, picklable.

    Args:
        root: The folder.
        shards: What is in it.
        limits: Chooses labels.
        features: What samples hold.
        published: How many there should be, for ``repr``.
    """

    def __init__(self, root: str, shards: Sequence[_Found], limits: Limits, features: Sequence[str], published: int):
        self._root, self._shards, self._limits = root, tuple(shards), limits
        self._features, self._published = tuple(features), published
        self._ends = np.cumsum([shard.images for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        at = int(np.searchsorted(self._ends, index, side="right"))
        found = self._shards[at]
        labelled = set(self._features) != {"image"}
        shard = JOINED.get(found, self._limits if labelled else None)
        row = int(index) - (int(self._ends[at]) - found.images)
        sample: dict[str, Any] = {}
        if "image" in self._features:
            offset, size = (int(n) for n in shard.places[row])
            place = f"{found.tar}:{shard.names[row].decode()} (offset {offset})"
            sample["image"] = EncodedImage(FILES.read(found.tar, shard.stamp, offset, size), name=place)
        if labelled:
            part = slice(int(shard.ends[row - 1]) if row else 0, int(shard.ends[row]))
            sample |= {"labels": shard.labels[part].copy(), "label_probs": shard.probs[part].copy()}
        return {name: sample[name] for name in self._features}

    def __repr__(self) -> str:
        count = f"{len(self):,} of {self._published:,} published images"
        return f"ShardLabels({self._root!r}, {len(self._shards)} shards, {count})"


def open_shards(root: str) -> list[_Found]:
    """The shards in a folder; of each table the column ``status`` is read.

    Raises:
        DataError: No tars, one without its table, an unreadable table.
    """
    tars = find_shards(root)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(_found, tars))


def _found(tar: str) -> _Found:
    table = tar.removesuffix(".tar") + ".parquet"
    if not os.path.isfile(table):
        raise DataError(
            f"shard {tar} has no table {os.path.basename(table)} beside it",
            why="the labels are in it",
            fix="copy the .parquet files that img2dataset writes, too",
        )
    stamps = _stamp(tar), _stamp(table)
    status = read_columns(table, ["status"]).column("status").to_pylist()
    return _Found(tar=tar, table=table, stamps=stamps, images=status.count("success"))


def _join(found: _Found, limits: Limits | None) -> _Shard:
    """Reads the index of a tar and its table; the labels where they are asked for.

    Raises:
        DataError: One has a key that the other has not, or twice; labels that cannot be; either has changed.
    """
    if (_stamp(found.tar), _stamp(found.table)) != found.stamps:
        raise DataError(
            f"shard {found.tar} or its table has changed since it was opened",
            fix="leave shards alone while a run reads them; start again",
        )
    index = open_index(found.tar)
    members: dict[str, int] = {}
    for member, name in enumerate(index.names):
        key, extension = os.path.splitext(name)
        if extension.lower() in IMAGES and members.setdefault(key, member) != member:
            raise DataError(f"{found.tar} has two images for the key {key!r}", fix="write the tar again")
    table = read_columns(found.table, COLUMNS if limits else COLUMNS[:2])
    keys, status = table.column("key").to_pylist(), table.column("status").to_pylist()
    rows: dict[str, int] = {}
    for row, (key, state) in enumerate(zip(keys, status, strict=True)):
        if state == "success" and rows.setdefault(key, row) != row:
            raise DataError(f"{found.table} row {row} has the key {key!r} of row {rows[key]}", fix="write it again")
    for lost, where, there in (
        (rows.keys() - members.keys(), found.tar, f"it is in row {{}} of {found.table}"),
        (members.keys() - rows.keys(), found.table, f"its image is in {found.tar}"),
    ):
        if lost:
            key = min(lost, key=str)
            raise DataError(
                f"{where} lacks the key {key!r}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else ""),
                why=there.format(rows.get(key)),
                fix=_AGAIN + ": they are of different downloads",
            )
    # In the order of the tar: whoever reads one sample after the other reads forwards.
    order = np.asarray([rows[key] for key in members], np.int64)
    chosen = np.asarray(list(members.values()), np.int64)
    labels, probs, counts = _labels(found.table, table.take(order), order, limits) if limits else _NO_LABELS
    return _Shard(
        stamp=index.stamp,
        names=np.asarray([index.names[member].encode() for member in chosen]),
        places=np.stack([index.offsets[chosen], index.sizes[chosen]], axis=1).reshape(-1, 2),
        labels=labels,
        probs=probs,
        ends=np.cumsum(counts),
    )


_NO_LABELS = np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int64)


def _labels(path: str, table: Any, order: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is kept of the labels of a table whose rows are ``order`` of the file ``path``."""
    try:
        labels, counts = list_column(table, "labels", whole=True)
        probs, others = list_column(table, "label_probs", whole=False)
        if (counts != others).any():
            row = int(np.argmax(counts != others))
            raise ValueError(f"{counts[row]} labels with {others[row]} probabilities", row)
        return limits(labels, probs, counts)
    except ValueError as error:
        raise DataError(f"{path} row {order[error.args[1]]}: {error.args[0]}", fix=_AGAIN) from error


class _Joined:
    """The shards that were used last, of all sources of a process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Empty, with a fresh lock: one that another thread held while the process forked would stay closed."""
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[tuple[_Found, Limits | None], _Shard] = collections.OrderedDict()

    def get(self, found: _Found, limits: Limits | None) -> _Shard:
        """A shard, joined now or before; without labels where ``limits`` is None."""
        with self._lock:
            if (found, limits) in self._kept:
                self._kept.move_to_end((found, limits))
                return self._kept[found, limits]
        shard = _join(found, limits)
        with self._lock:
            self._kept[found, limits] = shard
            while len(self._kept) > SHARDS:
                self._kept.popitem(last=False)
        return shard


JOINED = _Joined()
os.register_at_fork(after_in_child=JOINED.reset)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix=_AGAIN) from error
    return status.st_size, status.st_mtime_ns
