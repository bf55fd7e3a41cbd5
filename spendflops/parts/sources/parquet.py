"""Parquet tables with an image in a column, by random access.

Two layouts are known by themselves: Hugging Face's (a struct of ``bytes`` and ``path``; the names of the classes in the
metadata of the schema) and img2dataset's with ``output_format=parquet`` (``jpg`` and ``txt``; a row for every address,
of which only those with ``status`` "success" have an image: the others are left out, and counted).

A table is read by row groups, as there is no way to a single row; only the columns that were asked for are read. The
groups used last are kept: of all tables of a process together :data:`CACHE_BYTES`, or one group that is larger. A
process holds at most that and one group a thread. Where the groups of a table are many megabytes, reading it at random
decodes each of them again and again: ``spendflops data prepare`` makes a copy that is fast.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import glob
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from spendflops.contracts.errors import DataError, suggest
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources.masks import VALUES, StoredMask
from spendflops.parts.sources.parquet_schema import AGAIN, Layout, check_columns, pyarrow, read_footer

if TYPE_CHECKING:
    import pyarrow as pa

CACHE_BYTES = 256 * 2**20
"""Decoded row groups that a process keeps."""
GROUP_BYTES = 2**31
"""A row group whose asked columns have more bytes than this is refused."""
Stamp = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """Row groups of tables, one file after the other.

    Attributes:
        files: Paths.
        stamps: Size in bytes and time of change in nanoseconds of each file.
        groups: int64 [groups 2], file and number of each row group.
        ends: int64 [groups], rows up to the end of each group, without those that are left out.
        rows: Rows in all.
    """

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    groups: Int64[np.ndarray, "groups 2"]
    ends: Int64[np.ndarray, " groups"]
    rows: int

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0


def find_tables(path: str) -> tuple[str, ...]:
    """Absolute paths of tables, sorted.

    Args:
        path: A table, a folder (every ``*.parquet`` in it, at any depth), or a pattern with ``*``, ``?`` or ``**``.

    Raises:
        DataError: Nothing there.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(path):
        return (path,)
    folder = os.path.isdir(path)
    pattern = os.path.join(glob.escape(path), "**", "*.parquet") if folder else path
    found = tuple(sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)))
    if not found:
        raise DataError(
            f"{path} has no tables" if folder else f"there is no table {path}",
            why="no file in it ends in .parquet" if folder else "",
            fix="check the path: a table, a folder, or a pattern as data/train-*.parquet",
        )
    return found


def open_tables(files: Sequence[str], layout: Layout, *, threads: int = 16) -> Tables:
    """Reads the footer of every table, and of downloads the column ``status``.

    Args:
        files: Paths, in the order of the rows.
        layout: Every table has its columns.
        threads: Tables that are opened at a time.

    Raises:
        DataError: Unreadable, without one of the columns, with other classes, with a row group that is too large.
    """
    files = tuple(os.path.abspath(file) for file in files)
    stamps = tuple(_stamp(file) for file in files)
    with concurrent.futures.ThreadPoolExecutor(max(1, min(threads, len(files)))) as pool:
        counts = list(pool.map(lambda file: _count(file, layout), files))
    places = [(file, group) for file, (kept, _) in enumerate(counts) for group in range(len(kept))]
    return Tables(
        files=files,
        stamps=stamps,
        groups=np.asarray(places, np.int64).reshape(-1, 2),
        ends=np.cumsum([n for kept, _ in counts for n in kept], dtype=np.int64),
        rows=sum(rows for _, rows in counts),
    )


def read_columns(path: str, columns: Sequence[str]) -> pa.Table:
    """Whole columns of a small table, as the sidecar of a tar shard.

    Raises:
        DataError: Unreadable, or without one of the columns.
    """
    footer, schema = read_footer(path)
    for column in columns:
        if column not in schema.names:
            raise DataError(
                f"table {path} has no column {column!r}{suggest(column, schema.names)}",
                why=f"it has {', '.join(schema.names)}",
                fix="write the table again with this column",
            )
    parts = [_read(path, group, columns) for group in range(footer.num_row_groups)]
    return pyarrow().concat_tables(parts) if parts else schema.empty_table().select(list(columns))


def list_column(table: pa.Table, column: str, *, whole: bool) -> tuple[np.ndarray, Int64[np.ndarray, " rows"]]:
    """A column of lists of numbers.

    Args:
        table: From :func:`read_columns`.
        column: Its name.
        whole: Whole numbers are meant, int64; otherwise float32.

    Returns:
        The numbers, one row after the other, and how many each row has.

    Raises:
        ValueError: Something else, or nothing; the arguments are the reason and the row.
    """
    pa, lists = pyarrow(), table.column(column)
    kinds = pa.types
    if not (kinds.is_list(lists.type) or kinds.is_large_list(lists.type) or kinds.is_fixed_size_list(lists.type)):
        raise ValueError(f"{column} is {lists.type}, not a list of numbers", 0)
    inner = lists.type.value_type
    if not (kinds.is_integer(inner) if whole else kinds.is_floating(inner)):
        raise ValueError(f"{column} is a list of {inner}", 0)
    if lists.null_count:
        raise ValueError(f"{column} is null", int(np.argmax(lists.is_null().to_numpy())))
    counts = pa.compute.list_value_length(lists).to_numpy().astype(np.int64)
    flat = pa.compute.list_flatten(lists)
    if flat.null_count:
        at = int(np.argmax(flat.is_null().to_numpy()))
        raise ValueError(f"{column} has a null in it", int(np.searchsorted(np.cumsum(counts), at, side="right")))
    return flat.to_numpy().astype(np.int64 if whole else np.float32), counts


class ParquetSource:
    """Samples with ``image``, ``label`` and ``caption``, as asked for: thread-safe, picklable.

    A label that is null is -1, a caption that is null is empty.

    Args:
        tables: From :func:`open_tables`.
        layout: The same.
        features: What to read; only these columns are.
        classes: Names of the classes, in label order.
        mask_values: What the values of label maps mean, from :func:`~spendflops.parts.sources.masks.label_table`.
    """

    def __init__(
        self,
        tables: Tables,
        layout: Layout,
        *,
        features: Sequence[str],
        classes: Sequence[str] = (),
        mask_values: np.ndarray = VALUES,
    ):
        self.tables, self.layout, self.features, self.classes = tables, layout, tuple(features), tuple(classes)
        self._mask_values = mask_values
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, index: int) -> Sample:
        tables = self.tables
        if not 0 <= index < len(tables):
            raise IndexError(f"index {index} of {len(tables)} rows")
        at = int(np.searchsorted(tables.ends, index, side="right"))
        file, number = (int(n) for n in tables.groups[at])
        path, stamp = tables.files[file], tables.stamps[file]
        columns = tuple(getattr(self.layout, feature) for feature in self.features)
        load = functools.partial(_load, path, stamp, number, columns, self.layout.downloads)
        group = GROUPS.get((path, stamp, number, columns, self.layout.downloads), load)
        first = int(tables.ends[at - 1]) if at else 0
        row = int(index) - first if group.kept is None else int(group.kept[int(index) - first])
        place = f"{path} row group {number} row {row}"
        sample = {}
        for feature, column in zip(self.features, columns, strict=True):
            try:
                value = group.table.column(column)[row].as_py()
            except (ValueError, IndexError) as error:
                raise DataError(f"{place}: column {column!r} cannot be read", why=str(error), fix=AGAIN) from error
            sample[feature] = getattr(self, f"_{feature}")(value, place)
        if "mask" in sample:
            sample["mask"] = StoredMask(sample["mask"], self._mask_values, image=sample.get("image"))
        return sample

    def __repr__(self) -> str:
        tables = self.tables
        lost = f", {tables.rows - len(self):,} of {tables.rows:,} not downloaded" if self.layout.downloads else ""
        return f"ParquetSource({tables.files[0]!r} ..., {len(tables.files)} tables, {len(self):,} rows{lost})"

    def _image(self, value: Any, place: str) -> EncodedImage:
        path = value.get("path") if isinstance(value, Mapping) else None
        data = value.get("bytes") if isinstance(value, Mapping) else value
        if data is None:
            raise DataError(
                f"{place} has no image",
                why=f"its bytes are null; its path is {path!r}" if path else "it is null",
                fix="write the table again with the images in it, and without rows that have none",
            )
        return EncodedImage(data, name=f"{place} ({path})" if path else place)

    def _mask(self, value: Any, place: str) -> EncodedImage:
        return self._image(value, f"{place} (mask)")

    def _label(self, value: Any, place: str) -> int:
        number = self._numbers.get(value, value) if isinstance(value, str) else -1 if value is None else value
        if isinstance(number, str) or not -1 <= number < len(self.classes):
            raise DataError(
                f"{place}: label {value!r} is not one of the {len(self.classes)} classes",
                why=suggest(value, self.classes).strip(" ()") if isinstance(value, str) else "",
                fix="give all classes, in label order",
            )
        return number

    def _caption(self, value: Any, place: str) -> str:
        return value or ""


@dataclasses.dataclass(frozen=True)
class _Group:
    """Columns of a row group, and the rows that are not left out."""

    table: pa.Table
    kept: np.ndarray | None


class _Groups:
    """The row groups that were used last, shared by the threads of a process; one thread reads a group."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Empty, with a fresh lock: one that another thread held while the process forked would stay closed."""
        self._lock = threading.Lock()
        self._loading: dict[Hashable, threading.Lock] = {}
        self._kept: collections.OrderedDict[Hashable, _Group] = collections.OrderedDict()
        self.used = 0

    def get(self, key: Hashable, load: Callable[[], _Group]) -> _Group:
        """The group ``key``."""
        with self._lock:
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            group = load()
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = group
                    self.used += group.table.nbytes
                while self.used > CACHE_BYTES and len(self._kept) > 1:
                    old, dropped = self._kept.popitem(last=False)
                    self._loading.pop(old, None)
                    self.used -= dropped.table.nbytes
        return group


GROUPS = _Groups()
os.register_at_fork(after_in_child=GROUPS.reset)


def _load(path: str, stamp: Stamp, number: int, columns: tuple[str, ...], downloads: bool) -> _Group:
    _check_unchanged(path, stamp)
    names = sorted({*columns, *(("status",) if downloads else ())})
    table = _read(path, number, names)
    _check_unchanged(path, stamp)
    kept = np.flatnonzero(_succeeded(table)) if downloads else None
    return _Group(table.select(sorted(set(columns))), kept)


def _read(path: str, number: int, columns: Sequence[str]) -> pa.Table:
    pa = pyarrow()
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read_row_group(number, columns=list(columns), use_threads=False)
        table.validate(full=True)  # texts are UTF-8
    except (pa.ArrowException, OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        raise DataError(f"{path} row group {number} cannot be read", why=str(error), fix=AGAIN) from error
    return table


def _succeeded(table: pa.Table) -> np.ndarray:
    return np.asarray([status == "success" for status in table.column("status").to_pylist()], bool)


def _count(path: str, layout: Layout) -> tuple[list[int], int]:
    """Rows of each row group without those that are left out, and all rows."""
    footer, schema = read_footer(path)
    check_columns(path, schema, layout)
    wanted = {layout.image, layout.label, layout.caption}
    for group in range(footer.num_row_groups):
        parts = (footer.row_group(group).column(i) for i in range(footer.num_columns))
        size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in wanted)
        if size > GROUP_BYTES:
            raise DataError(
                f"{path} row group {group} has {size:,} bytes",
                why=f"a row group is read as a whole, the limit is {GROUP_BYTES:,}",
                fix="write the table again with smaller row groups (100 rows are usual)",
            )
    rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if not layout.downloads:
        return rows, sum(rows)
    return [int(_succeeded(_read(path, group, ["status"])).sum()) for group in range(len(rows))], sum(rows)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"table {path} cannot be read", why=error.strerror or str(error), fix=AGAIN) from error
    return status.st_size, status.st_mtime_ns


def _check_unchanged(path: str, stamp: Stamp) -> None:
    if _stamp(path) != stamp:
        raise DataError(
            f"table {path} has changed since it was opened",
            why="its size or its time of change is another",
            fix="leave tables alone while a run reads them; start again",
        )
