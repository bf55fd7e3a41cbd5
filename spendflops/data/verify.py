"""Is a copy of a data set what was published? Counts, the list of classes, and samples decoded one by one."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.faults import faults_of, place
from spendflops.parts.sources.arrayrecord import class_digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        split: Its name.
        published: Examples that it should have; None where nobody knows.
        found: Examples that it has; None where it cannot be opened.
        read: Examples that were decoded.
        faults: What is wrong, one line each.
        left_out: Reason -> how much of what the files hold no example has: not wrong, but good to know.
    """

    split: str
    published: int | None
    found: int | None
    read: int
    faults: tuple[str, ...]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a copy of a data set; ``classes`` are the hashes of its own and of the published list
    (the first 16 digits of SHA-256; empty without classes)."""

    name: str
    splits: tuple[SplitReport, ...]
    classes: tuple[str, str]
    faults: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not any(split.faults for split in self.splits)


def verify(
    cls: Callable[..., Dataset],
    *,
    path: str | None = None,
    options: Mapping[str, Any] | None = None,
    splits: Sequence[str] = (),
    samples: int | None = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Compares a copy with what was published and decodes samples of it.

    Args:
        cls: The data set's class.
        path: Of the copy; None for a data set without one.
        options: Others of the class.
        splits: Only these; by default all that are published, or all that can be opened.
        samples: Decoded in each split, evenly spaced; None decodes all.
        progress: Called with (done, all) of the split that is being read.

    Raises:
        ConfigError: Options that the class does not take.
    """
    parameters = inspect.signature(cls).parameters
    given = dict(options or {}) | ({} if path is None else {"path": path})
    # A copy that lacks files can be opened only as a part of the set: what it lacks is reported below.
    given = ({"partial": True} if "partial" in parameters else {}) | given
    published = _published(cls, parameters, given)
    copy = cls(**given)
    faults: list[str] = []
    own, wanted = (class_digest(i.classes)[:16] if i.classes else "" for i in (copy.info, published))
    if own != wanted:
        faults.append(f"the list of classes is another: {own or 'none'}, published {wanted or 'none'}")
    names = tuple(splits) or tuple(published.sizes) or usual_splits(copy)
    reports = [_split(copy, name, published, samples, progress) for name in names]
    return Report(name=published.name, splits=tuple(reports), classes=(own, wanted), faults=tuple(faults))


USUAL = ("train", "val", "valid", "validation", "test")
"""Splits that are tried where none are published."""


def usual_splits(dataset: Dataset) -> tuple[str, ...]:
    """The splits of a data set that does not state them: ``all`` if that is one, else those with usual names.

    Raises:
        DataError: There is none of them.
    """
    opened, first = [], None
    for name in ("all", *USUAL):
        try:
            dataset.source(name, features=("image",))
        except DataError as error:
            first = first or error
            continue
        if name == "all":  # what is not divided is called train, too
            return ("all",)
        opened.append(name)
    if not opened and first is not None:
        raise first
    return tuple(opened)


def _published(cls: Callable[..., Dataset], parameters: Mapping[str, Any], given: Mapping[str, Any]) -> DatasetInfo:
    """The information that needs no disk, where the class has such."""
    if "path" in parameters and parameters["path"].default is not inspect.Parameter.empty:
        return cls(**{name: value for name, value in given.items() if name not in ("path", "partial")}).info
    return cls(**given).info


def _split(
    copy: Dataset, name: str, published: DatasetInfo, samples: int | None, progress: Callable[[int, int], None] | None
) -> SplitReport:
    wanted = published.sizes.get(name)
    try:
        source = copy.source(name, features=tuple(copy.info.features))
    except DataError as error:
        return SplitReport(split=name, published=wanted, found=None, read=0, faults=(_line(error),))
    count = len(source)
    faults = [] if wanted in (None, count) else [f"{count:,} examples, published are {wanted:,}"]
    chosen = range(count) if samples is None else np.unique(np.linspace(0, count - 1, min(samples, count)).astype(int))
    check = _Check(source, copy.info)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, found in enumerate(pool.map(check, map(int, chosen)), start=1):
            faults += found
            if progress is not None:
                progress(done, len(chosen))
    gone = dict(getattr(source, "left_out", {}))
    return SplitReport(split=name, published=wanted, found=count, read=len(chosen), faults=tuple(faults), left_out=gone)


@dataclasses.dataclass(frozen=True)
class _Check:
    source: Source
    info: DatasetInfo

    def __call__(self, index: int) -> list[str]:
        try:
            sample = self.source[index]
            return [f"{place(sample, index)}: {fault}" for fault in faults_of(sample, self.info)]
        except DataError as error:
            return [_line(error)]


def _line(error: DataError) -> str:
    return error.what + (f": {error.why}" if error.why else "")
