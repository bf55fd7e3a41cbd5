"""Any data set to ArrayRecord: one format, read at random at the speed of the disk.

A shard is written under a temporary name, synced, counted and renamed; the manifest comes last. So whatever stops the
work leaves whole shards and no manifest, and the same command goes on. Which record lies where follows from the data
set and the options alone: any number of workers writes the same bytes.

Image files are copied bit for bit, without decoding; images that a source gives decoded become PNG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.data.shard_writer import Progress, Shard, ShardWriter, write_json
from spendflops.engine.data import readers
from spendflops.engine.describe import describe
from spendflops.parts.sources import records
from spendflops.parts.sources.arrayrecord import (
    FORMAT,
    LATER,
    MANIFEST,
    NAME_LISTS,
    SPLIT_NAME,
    UNFINISHED,
    VERSION,
    class_digest,
    load_manifest,
    shard_name,
)
from spendflops.parts.sources.published import check_features

SHARD_BYTES = 2**30
"""Size that shards are given by default."""
PROBES = 64
"""Samples of a split whose size in bytes is looked at to find the number of a shard's records."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What was done.

    Attributes:
        path: The folder.
        sizes: Examples by split.
        written: Shards that were written.
        kept: Shards that were there already.
        bytes: Of all shards.
    """

    path: str
    sizes: Mapping[str, int]
    written: int
    kept: int
    bytes: int

    def __iter__(self) -> Iterator[str]:
        """The same in lines for people."""
        for split, count in self.sizes.items():
            yield f"{split}: {count:,} examples"
        yield f"{self.path}: {self.written + self.kept} shards ({self.written} written), {self.bytes / 1e6:,.1f} MB"


def prepare(
    dataset: Dataset,
    out: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    shard_bytes: int | None = None,
    examples_per_shard: int | None = None,
    workers: int | None = None,
    check: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Copies a data set into a folder of ArrayRecord files; ``datasets.arrayrecord`` reads it.

    Args:
        dataset: What to copy.
        out: The folder: new, empty, or one in which the same command was stopped.
        splits: By default all whose size the data set states.
        features: By default all.
        shard_bytes: About how large a shard is, by default 1 GiB; estimated from some samples of the split.
        examples_per_shard: How many examples a shard has at most, instead.
        workers: Shards that are written at a time, by default one a core. Memory: one sample each.
        check: Decodes every image and mask, too. Broken ones are listed in one error; their shards are not written.
        progress: Called with (examples done, examples in all), never by two threads at a time.

    Raises:
        ConfigError: Options that contradict each other, unknown features, splits that are not stated.
        DataError: The source cannot be read, or gives something else than it declares; ``out`` holds something else,
            the copy of another source or of other options, or is being written by another process; the disk is full;
            broken images under ``check``.
    """
    if shard_bytes is not None and examples_per_shard is not None:
        raise ConfigError("shard_bytes and examples_per_shard are both given", fix="give one of them")
    numbers = {"shard_bytes": shard_bytes, "examples_per_shard": examples_per_shard, "workers": workers}
    for option, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"{option} is {value}", fix="it is 1 or more")
    names = _splits(dataset, splits)
    specs = _features(dataset, features)
    plan = _plan(dataset, specs, check=check, shard_bytes=shard_bytes, examples_per_shard=examples_per_shard)
    sources = {split: dataset.source(split, features=tuple(specs)) for split in names}
    plan["sizes"] = {split: len(source) for split, source in sources.items()}
    out = Path(os.path.abspath(os.path.expanduser(out)))
    with _locked(out):
        stored = _stored(out)
        if stored is not None:
            _compare(out, stored, plan)
            for leftover in out.glob(".*.arrayrecord.tmp"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            plan["shards"] = _stored_shards(out, stored, plan["sizes"])
        else:
            size = shard_bytes or SHARD_BYTES
            plan["shards"] = {
                split: _counts(len(source), examples_per_shard or _fitting(source, specs, split, size))
                for split, source in sources.items()
            }
            write_json(out / UNFINISHED, plan)
        shards = [shard for split in names for shard in _shards(out, split, sources[split], plan["shards"][split])]
        todo = [shard for shard in shards if not shard.whole()]
        total = sum(plan["sizes"].values())
        writer = ShardWriter(specs, root=_root(dataset), check=check, progress=progress, total=total)
        writer.done(total - sum(map(len, todo)))
        writer.write(todo, workers or readers().count)
        if todo or not (out / MANIFEST).exists():
            write_json(out / MANIFEST, plan)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(out / UNFINISHED)
    size = sum(shard.path.stat().st_size for shard in shards)
    return Summary(path=str(out), sizes=plan["sizes"], written=len(todo), kept=len(shards) - len(todo), bytes=size)


def _splits(dataset: Dataset, splits: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(splits, str):
        raise ConfigError("splits is a list", fix="write ('train',) for one")
    names = tuple(dataset.info.sizes) if splits is None else tuple(splits)
    if not names:
        raise ConfigError(
            f"{dataset.info.name} does not state its splits" if splits is None else "no splits are given",
            fix="name them: splits=('train', 'test'); for a folder without split folders ('train',)",
        )
    for name in names:
        if not SPLIT_NAME.fullmatch(name):
            raise ConfigError(
                f"split {name!r} has no plain name", fix="prepare whole splits; parts are made on reading"
            )
    return tuple(dict.fromkeys(names))


def _root(dataset: Dataset) -> str:
    """The folder that a data set reads from, where it has one."""
    path = getattr(dataset, "described", {}).get("path")
    return os.path.abspath(os.path.expanduser(path)) if isinstance(path, (str, os.PathLike)) and path else ""


def _features(dataset: Dataset, features: Sequence[str] | None) -> dict[str, str]:
    """Name -> specification in the order of the data set's information, whatever the order that was asked for."""
    if isinstance(features, str):
        raise ConfigError("features is a list", fix="write ('image',) for one")
    known = dataset.info.features
    check_features(dataset.info.name, features or (), list(known))
    specs = {name: spec for name, spec in known.items() if features is None or name in features}
    if not specs:
        raise ConfigError("no features are given", fix=f"name some of {list(known)}")
    return specs


def _plan(dataset: Dataset, specs: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """The manifest, as far as it is known before the data are opened."""
    info = dataset.info
    version = importlib.metadata.version
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": info.name,
        "features": dict(specs),
        **{key: list(getattr(info, key)) for key in (*NAME_LISTS, "box_counts")},
        "licence": info.licence,
        "citation": info.citation,
        "homepage": info.homepage,
        "classes_sha256": class_digest(info.classes),
        "options": options,
        "source": describe(dataset),
        "records": records.VERSION,
        "versions": {name: version(name) for name in ("spendflops", "array_record")},
    }


def _fitting(source: Source, specs: Mapping[str, str], split: str, shard_bytes: int) -> int:
    """Records of about ``shard_bytes`` together, from the sizes of evenly spaced ones."""
    sizes = []
    for i in np.unique(np.linspace(0, max(0, len(source) - 1), min(PROBES, len(source))).astype(int)):
        with contextlib.suppress(DataError):  # said when it is written
            sizes.append(len(records.encode(source[int(i)], specs, name=f"{split}[{i}]")))
    return max(1, shard_bytes // max(1, round(sum(sizes) / max(1, len(sizes)))))


def _counts(examples: int, most: int) -> list[int]:
    """Examples of each shard: as few shards as ``most`` allows, as equal as can be."""
    shards = max(1, -(-examples // most))
    return [examples * (k + 1) // shards - examples * k // shards for k in range(shards)]


def _shards(out: Path, split: str, source: Source, counts: Sequence[int]) -> Iterator[Shard]:
    first = 0
    for number, count in enumerate(counts):
        path = out / shard_name(split, number, len(counts))
        yield Shard(path=path, split=split, source=source, first=first, last=first + count)
        first += count


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder, made where it is not there, for this process alone."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(f"{out} cannot be made", why=error.strerror or str(error), fix="choose another OUT") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out} is being written by another process", fix="wait for it, or end it") from error
        except OSError:
            pass  # a file system without locks: two processes would write the same bytes
        yield
    finally:
        os.close(descriptor)


def _stored(out: Path) -> dict[str, Any] | None:
    """The plan of an earlier call in ``out``."""
    for name in (MANIFEST, UNFINISHED):
        if (out / name).exists():
            return load_manifest(str(out / name))
    there = sorted(path.name for path in out.iterdir() if not path.name.endswith(".tmp"))
    if there:
        raise DataError(
            f"{out} is not empty: it has {', '.join(there[:3])}",
            why="a prepared data set has a folder of its own",
            fix="choose a new folder",
        )
    return None


def _compare(out: Path, stored: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raises a DataError with the differences where ``out`` was made from something else."""
    # Through JSON: a tuple becomes a list, as in what was stored. Other versions may go on with the same records.
    wanted = json.loads(json.dumps({key: value for key, value in plan.items() if key != "versions"}))
    found = {key: value for key, value in stored.items() if key not in ("versions", "shards")}
    wanted = {key: value for key, value in wanted.items() if key in found or key not in LATER}
    differences = list(_differences(found, wanted, ""))
    if differences:
        more = f"\n    and {len(differences) - 8} more" if len(differences) > 8 else ""
        raise DataError(
            f"{out} holds the copy of something else",
            why="\n    ".join(differences[:8]) + more,
            fix="give the options of the first call, or choose another OUT",
        )


def _stored_shards(out: Path, stored: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    shards = stored.get("shards")
    try:
        sound = {split: sum(counts) for split, counts in shards.items()} == sizes
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise DataError(f"{out}: what it says of its shards is damaged", fix="choose another OUT, or empty this one")
    return shards


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where}: {_short(old)} in OUT, {_short(new)} now"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
