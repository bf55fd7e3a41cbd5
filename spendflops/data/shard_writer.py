"""Shards of ArrayRecord files, written by threads so that a file is whole or not there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from spendflops.contracts.dataset import Source
from spendflops.contracts.errors import DataError
from spendflops.parts.images import decode_mask
from spendflops.parts.sources.arrayrecord import WRITER_OPTIONS, count_records
from spendflops.parts.sources.records import encode

SHOWN = 20
"""Broken samples that an error lists."""

Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Examples [first, last) of a split, and the file that they go into."""

    path: Path
    split: str
    source: Source
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def whole(self) -> bool:
        """Whether the file is there with all its records."""
        try:
            return self.path.exists() and count_records(str(self.path)) == len(self)
        except DataError:
            return False


class ShardWriter:
    """Writes shards. The first error stops all threads; what is broken is collected.

    Args:
        specs: Feature -> specification, what is written.
        root: Folder of the source, see :func:`~spendflops.parts.sources.records.encode`.
        check: Decodes images and masks.
        progress: Never called by two threads at a time.
        total: Examples in all, for ``progress``.
    """

    def __init__(self, specs: Mapping[str, str], *, root: str, check: bool, progress: Progress | None, total: int):
        self._specs, self._root, self._check, self._progress, self._total = specs, root, check, progress, total
        self._done, self._lock, self._stop = 0, threading.Lock(), threading.Event()
        self._broken: dict[tuple[str, int], str] = {}

    def done(self, examples: int) -> None:
        """Counts examples and tells ``progress``."""
        with self._lock:
            self._done += examples
            if self._progress is not None and not self._stop.is_set():
                self._progress(self._done, self._total)

    def write(self, shards: Sequence[Shard], workers: int) -> None:
        """Writes ``shards``, ``workers`` of them at a time.

        Raises:
            DataError: A sample cannot be read or stored, the disk does not take a file; under ``check`` the list of
                broken samples, after all others were written.
        """
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._write, shard) for shard in shards]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:  # an interrupt, too: what is half written is removed before this returns
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        if self._broken:
            broken = sorted(self._broken)
            lines = [f"{split}[{index}]: {self._broken[split, index]}" for split, index in broken[:SHOWN]]
            raise DataError(
                f"{len(broken)} sample(s) are broken, their shards are not written",
                why="\n    ".join([*lines, "..."] if len(broken) > SHOWN else lines),
                fix="replace them, or leave them out by an option of the data set (folder has `skip`)",
            )

    def _write(self, shard: Shard) -> None:
        temporary = shard.path.with_name(f".{shard.path.name}.tmp")
        try:
            if self._stop.is_set() or not self._fill(shard, temporary):
                return
            if (found := count_records(str(temporary))) != len(shard):
                raise unwritable(shard.path, f"{found} of {len(shard)} records can be read back")
            publish(temporary, shard.path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _fill(self, shard: Shard, temporary: Path) -> bool:
        """Writes the records of a shard; False where it was stopped or has broken samples."""
        whole = True
        with _writing(shard.path, temporary) as write:
            for index in range(shard.first, shard.last):
                if self._stop.is_set():
                    return False
                data = self._record(shard, index)
                whole = whole and data is not None
                if whole:
                    write(data)
                self.done(1)
        return whole

    def _record(self, shard: Shard, index: int) -> bytes | None:
        """The bytes of a sample; None where ``check`` finds it broken."""
        name = f"{shard.split}[{index}]"
        if not self._check:
            return encode(shard.source[index], self._specs, name=name, root=self._root)
        try:
            sample = shard.source[index]
            for feature, spec in self._specs.items():
                if spec == "uint8 H W C":
                    sample[feature].decode()
                elif spec == "uint8 H W":
                    decode_mask(sample[feature])
            return encode(sample, self._specs, name=name, root=self._root)
        except DataError as error:
            with self._lock:
                self._broken[shard.split, index] = f"{error.what} ({error.why})"
            return None


@contextlib.contextmanager
def _writing(path: Path, temporary: Path):
    """A function that adds a record to ``temporary``; what the disk does not take is an error that names ``path``."""
    try:
        writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        failed = None
    except RuntimeError as error:
        raise unwritable(path, str(error)) from error

    def write(data: bytes) -> None:
        try:
            writer.write(data)
        except RuntimeError as error:
            raise unwritable(path, str(error)) from error

    try:
        yield write
    finally:
        try:
            writer.close()
        except RuntimeError as error:
            failed = error
    if failed is not None:
        raise unwritable(path, str(failed)) from failed


def write_json(path: Path, value: Any) -> None:
    """Writes a whole file or nothing.

    Raises:
        DataError: The disk does not take it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        publish(temporary, path)
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished file its name, after its bytes are on the disk; the name lasts, too.

    Raises:
        DataError: The disk does not take it.
    """
    try:
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, why: str) -> DataError:
    """The error of a file that cannot be written."""
    return DataError(
        f"cannot write {path}", why=why, fix="make room or choose another folder; the same command goes on from there"
    )
