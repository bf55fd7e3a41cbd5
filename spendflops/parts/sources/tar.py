"""Tar files by random access: one pass over the headers gives an index, then a member is one read at an offset.

The index of ``X.tar`` is written beside it as ``X.tar.index.npz``, or, where that folder cannot be written, into the
user's cache. It holds the size and the time of the tar: one that has changed is indexed again before a run, and is an
error during one. Compressed archives have no random access and must be unpacked first.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import os
import tarfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.stored import places, store

VERSION = 1
OPEN_FILES = 64
"""Tar files that a process holds open; the one unused for longest is closed first."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TarIndex:
    """The regular files in a tar, in the order in which they lie.

    Attributes:
        path: The tar.
        stamp: Its size in bytes and its time of change in nanoseconds.
        names: Members; of a nested tar ``inner.tar/member``.
        offsets: int64 [members], where the content begins.
        sizes: int64 [members], bytes of content.
    """

    path: str
    stamp: tuple[int, int]
    names: tuple[str, ...]
    offsets: Int64[np.ndarray, " members"]
    sizes: Int64[np.ndarray, " members"]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, member: int) -> bytes:
        """The content of a member.

        Raises:
            DataError: The tar has vanished, has changed since it was indexed, or ends early.
        """
        return FILES.read(self.path, self.stamp, int(self.offsets[member]), int(self.sizes[member]))

    def place(self, member: int) -> str:
        """Where a member is, for messages: tar, member, offset."""
        return f"{self.path}:{self.names[member]} (offset {int(self.offsets[member])})"


def open_index(path: str | os.PathLike, *, nested: bool = False) -> TarIndex:
    """The index of a tar, read where it was stored, else made and stored.

    Args:
        path: An uncompressed tar.
        nested: Members that are tars themselves are replaced by what they hold (ImageNet's training archive).

    Raises:
        DataError: Missing, unreadable, compressed, cut short, or with members that a data set never has: links,
            devices, absolute paths, ``..``, a name twice.
    """
    path = os.path.abspath(os.fspath(path))
    stamp = _stamp(path)
    found = places(path, ".nested.index.npz" if nested else ".index.npz")
    for place in found:
        if (stored := _load(place, path, stamp)) is not None:
            return stored
    index = make_index(path, nested=nested)
    for place in found:
        if _store(place, index):
            break
    return index


def make_index(path: str, *, nested: bool = False) -> TarIndex:
    """The index of a tar from its headers; nothing is stored. Arguments and errors as :func:`open_index`."""
    stamp = _stamp(path)
    names: list[str] = []
    places: list[tuple[int, int]] = []
    try:
        with open(path, "rb") as file:
            _scan(path, file, 0, "", nested, names, places)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(
                f"{path} has the member {name!r} twice",
                why="it is not clear which of them is meant",
                fix="write the tar again without the copy",
            )
        seen.add(name)
    table = np.asarray(places, np.int64).reshape(-1, 2)
    return TarIndex(path=path, stamp=stamp, names=tuple(names), offsets=table[:, 0], sizes=table[:, 1])


def _scan(
    path: str, file: BinaryIO, start: int, prefix: str, nested: bool, names: list[str], places: list[tuple[int, int]]
) -> None:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # or it keeps every header: 0.6 KB a member
                name = prefix + member.name
                _check_member(path, name, member)
                if not member.isreg():
                    continue
                where = start + member.offset_data
                if nested and member.name.endswith(".tar"):
                    section = _Section(path, where, member.size)
                    _scan(path, io.BufferedReader(section), where, name + "/", False, names, places)
                    section.close()
                else:
                    names.append(name)
                    places.append((where, member.size))
            end = archive.offset
    except tarfile.TarError as error:
        with open(path, "rb") as again:
            compressed = again.read(6)
        if compressed[:2] == b"\x1f\x8b" or compressed == b"\xfd7zXZ\x00" or compressed[:3] == b"BZh":
            raise DataError(
                f"{path} is compressed", why="a compressed archive has no random access", fix="unpack it first"
            ) from error
        raise _unreadable(path, f"{prefix or 'the archive'}: {error}") from error
    # Headers of a tar that was cut within the content of its last member are whole: the length tells.
    file.seek(0, os.SEEK_END)
    if (places and places[-1][0] + places[-1][1] > start + file.tell()) or end > file.tell() + tarfile.RECORDSIZE:
        raise _unreadable(path, f"it ends within {names[-1]}")
    # Damage to a later header looks like the end to tarfile; behind a true end there are zeros alone, a block or more.
    file.seek(end)
    rest = 0
    while block := file.read(1 << 16):
        if block.strip(b"\0"):
            why = "is no header: it is damaged, or other bytes follow its end"
            raise _unreadable(path, f"{prefix or 'the archive'}: what lies at offset {start + end} {why}")
        rest += len(block)
    if rest < tarfile.BLOCKSIZE:
        raise _unreadable(path, f"{prefix or 'the archive'}: it stops at offset {start + end} without an end mark")


def _check_member(path: str, name: str, member: tarfile.TarInfo) -> None:
    parts = member.name.split("/")
    odd = ""
    if member.islnk() or member.issym():
        odd = f"a link to {member.linkname!r}"
    elif not member.isreg() and not member.isdir():
        odd = "neither a file nor a folder"
    elif member.issparse():
        odd = "a sparse file, whose bytes are not stored as they are read"
    elif member.name.startswith("/") or ".." in parts:
        odd = "a path that leads out of the archive"
    if odd:
        raise DataError(
            f"{path}: member {name!r} is {odd}",
            why="no data set has such members, and none is followed",
            fix="write the tar again from plain files",
        )


def _unreadable(path: str, why: str) -> DataError:
    return DataError(f"tar {path} cannot be read", why=why, fix="fetch it again, or take it out of the data set")


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    return status.st_size, status.st_mtime_ns


class _Section(io.RawIOBase):
    """Bytes [start, start + size) of a file as a file."""

    def __init__(self, path: str, start: int, size: int):
        self._file, self._start, self._size, self._at = open(path, "rb"), start, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        found = os.pread(self._file.fileno(), count, self._start + self._at)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Files:
    """Open tars, shared by the threads of a process; ``pread`` needs no position."""

    def __init__(self) -> None:
        self._open: collections.OrderedDict[tuple[str, tuple[int, int]], BinaryIO] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, stamp: tuple[int, int], offset: int, size: int) -> bytes:
        with self._lock:
            file = self._take(path, stamp)
            # A descriptor of our own: the file may be closed by another thread while this one reads.
            descriptor = os.dup(file.fileno())
        try:
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) != stamp:
                raise _changed(path)
            found = os.pread(descriptor, size, offset)
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        finally:
            os.close(descriptor)
        if len(found) != size:
            raise _unreadable(path, f"{len(found)} of {size} bytes at offset {offset}")
        return found

    def _take(self, path: str, stamp: tuple[int, int]) -> BinaryIO:
        key = (path, stamp)
        if key not in self._open:
            if _stamp(path) != stamp:
                raise _changed(path)
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            try:
                self._open[key] = open(path, "rb")  # noqa: SIM115
            except OSError as error:
                raise _unreadable(path, error.strerror or str(error)) from error
        self._open.move_to_end(key)
        return self._open[key]


FILES = _Files()


def _changed(path: str) -> DataError:
    return DataError(
        f"tar {path} has changed since it was indexed",
        why="its size or its time of change is another: offsets may point anywhere",
        fix="leave shards alone while a run reads them; start again, then it is indexed anew",
    )


def _load(place: Path, path: str, stamp: tuple[int, int]) -> TarIndex | None:
    """The stored index; None where there is none, it is of another tar, or it cannot be read."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            if int(stored["version"]) != VERSION or tuple(stored["stamp"].tolist()) != stamp:
                return None
            text = bytes(stored["names"]).decode(errors="surrogateescape")  # names need not be UTF-8
            names = tuple(text.split("\0")) if text else ()
            index = TarIndex(path=path, stamp=stamp, names=names, offsets=stored["offsets"], sizes=stored["sizes"])
    except Exception:  # a cache that cannot be read is made again, whatever is wrong with it
        return None
    return index if len(names) == len(index.offsets) == len(index.sizes) else None


def _store(place: Path, index: TarIndex) -> bool:
    names = np.frombuffer("\0".join(index.names).encode(errors="surrogateescape"), np.uint8)
    arrays = {"version": VERSION, "stamp": np.asarray(index.stamp), "names": names}
    return store(place, {**arrays, "offsets": index.offsets, "sizes": index.sizes}, like=index.path)
