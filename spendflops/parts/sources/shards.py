"""Samples from many tar shards in the webdataset convention, by random access.

The order is that of the shards' names, then that of the keys in each shard. Opening looks at every shard once, in
threads: the first time its headers are read and its table is stored, see
:mod:`~spendflops.parts.sources.shard_tables`; later this costs one small file a shard. In memory stays one number a
shard; tables come and go. ``KEY.jpg|jpeg|png|webp`` is the image, ``KEY.txt`` the caption, ``KEY.json`` metadata,
``KEY.cls`` the label, ``KEY.mask.png`` or ``KEY.seg.png`` the label map; members with other extensions are not read.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources import shard_tables
from spendflops.parts.sources.masks import VALUES, StoredMask
from spendflops.parts.sources.published import check_features
from spendflops.parts.sources.shard_tables import FIELDS, Stamp, Table

IMAGE, CAPTION, JSON, LABEL, MASK = range(len(FIELDS))
INCOMPLETE = ("fail", "drop")


class Filter(Protocol):
    """Chooses samples by what is written about them. Its choice is stored beside each shard."""

    @property
    def key(self) -> str:
        """Everything that changes the choice."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Names of the reasons for which a sample is left out."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that it reads, of :data:`~spendflops.parts.sources.shard_tables.FIELDS`."""

    def stamp(self, path: str) -> Stamp:
        """What changes when something changes that it reads beside the shard ``path``."""

    def __call__(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """int8 [rows]: the number of the reason for which each of the samples ``rows`` is left out, -1 if it stays."""


class ShardSource:
    """Samples with the given features, undecoded.

    A sample that lacks its image, or a member for a feature that is asked for, is an error when it is read, or is left
    out (and counted) when the source is opened: what is left out then depends on the features. Fields inside the JSON
    are looked at only when a sample is read.

    Args:
        shards: Tars, or folders of files, in the order that is wanted; see
            :func:`~spendflops.parts.sources.shard_paths.find_shards`.
        features: Some of ``image``, ``caption`` (str), ``label`` (int), ``json`` (dict) and ``mask``
            (:class:`~spendflops.parts.sources.masks.StoredMask`).
        caption: ``txt``, or ``json:FIELD`` for a field of the metadata, in which null is an empty caption.
        label: ``cls``, or ``json:FIELD``: an integer.
        classes: Labels are -1 or below it; None is any.
        mask_values: What the values of label maps mean, from :func:`~spendflops.parts.sources.masks.label_table`.
        incomplete: ``fail`` when such a sample is read, or ``drop`` it.
        filter: Which samples are taken.
        published: How many there should be, for ``repr``.
        threads: That look at shards.
        progress: Called with the shards that are done and all of them.
        name: Of the data, for messages.

    Attributes:
        found: Samples in the shards.
        dropped: Those of them that were left out as incomplete.
        filtered: Those that the filter left out, by reason.

    Raises:
        ConfigError: Unknown features or options.
        DataError: A shard that is unreadable or ambiguous, or no sample at all.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        features: Sequence[str] = ("image",),
        caption: str = "txt",
        label: str = "cls",
        classes: int | None = None,
        mask_values: np.ndarray = VALUES,
        incomplete: str = "fail",
        filter: Filter | None = None,
        published: int | None = None,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        name: str = "shards",
    ):
        check_features(name, features, ("image", "caption", "label", "json", "mask"))
        if incomplete not in INCOMPLETE:
            near = suggest(incomplete, INCOMPLETE)
            raise ConfigError(f"unknown incomplete {incomplete!r}{near}", fix=f"use one of {list(INCOMPLETE)}")
        self.name, self.features, self.published = name, tuple(features), published
        self._caption, self._label = member(caption, "caption", "txt"), member(label, "label", "cls")
        self._classes, self._drop, self._filter = classes, incomplete == "drop", filter
        self._mask_values = mask_values
        fields = {"image": IMAGE, "caption": self._caption[0], "label": self._label[0], "json": JSON, "mask": MASK}
        needs = filter.needs if filter is not None else ()
        self._needed = tuple(sorted({IMAGE, *(fields[f] for f in features), *(FIELDS.index(f) for f in needs)}))
        self._bits = sum(1 << field for field in self._needed)
        chosen = f"{self._bits if self._drop else 0} {filter.key if filter is not None else ''}"
        self._suffix = f".{hashlib.sha256(chosen.encode()).hexdigest()[:16]}.kept.npz"

        self.shards = tuple(shards)
        opened = []
        with concurrent.futures.ThreadPoolExecutor(threads or min(32, 4 * (os.cpu_count() or 1))) as pool:
            # Leaving this loop early, by an error or Ctrl-C, drops the iterator, which cancels what has not begun.
            for done, shard in enumerate(pool.map(self._open, self.shards), 1):
                opened.append(shard)
                if progress is not None:
                    progress(done, len(self.shards))
        self._stamps = [stamps for stamps, _ in opened]
        names = filter.reasons if filter is not None else ()
        counts = np.asarray([counts for _, counts in opened], np.int64).reshape(-1, 3 + len(names))
        found, complete, kept, *lost = counts.sum(axis=0).tolist()
        self._ends = np.cumsum(counts[:, 2])
        self.found, self.dropped, self.filtered = found, found - complete, dict(zip(names, lost, strict=True))
        if not kept:
            why = f"{found:,} were found in {len(self.shards):,} shards, {self.dropped:,} of them incomplete"
            out = "".join(f", {count:,} left out by {reason}" for reason, count in self.filtered.items())
            raise DataError(f"{name} has no samples", why=why + out, fix="check the path, and what is left out")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        of = "" if self.published is None else f" of {self.published:,}"
        parts = [f"{self.found:,}{of} samples found in {len(self.shards):,} shards"]
        parts += [f"{self.dropped:,} incomplete"] if self._drop else []
        parts += [f"{count:,} left out by {reason}" for reason, count in self.filtered.items() if count]
        return f"{type(self).__name__}({self.name!r}, {len(self):,} samples: {', '.join(parts)})"

    def __getitem__(self, index: int) -> Sample:
        table, row = self.locate(index)
        for field in self._needed:
            if not table.has(row, field):
                raise DataError(
                    f"sample {table.where(row)} has no {FIELDS[field]}",
                    why=f"it has {', '.join(n for f, n in enumerate(FIELDS) if table.has(row, f)) or 'none of them'}",
                    fix="complete the shard, or leave such samples out with incomplete='drop'",
                )
        metadata = functools.cache(lambda: read_json(table, row))
        sample: dict[str, Any] = {}
        for feature in self.features:
            if feature == "image":
                sample["image"] = _encoded(table, row, IMAGE)
            elif feature == "mask":
                image = sample.get("image") or _encoded(table, row, IMAGE)
                sample["mask"] = StoredMask(_encoded(table, row, MASK), self._mask_values, image=image)
            elif feature == "caption":
                key = self._caption[1]
                sample["caption"] = read_text(table, row) if key is None else text_field(metadata(), key, table, row)
            elif feature == "label":
                sample["label"] = self._read_label(table, row, metadata)
            else:
                sample["json"] = metadata()
        return sample

    def locate(self, index: int) -> tuple[Table, int]:
        """The table and the row of a sample.

        Raises:
            IndexError: Outside 0 .. len - 1.
            DataError: Its shard is unreadable or has changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        begin = int(self._ends[shard - 1]) if shard else 0
        stamp, extra = self._stamps[shard]
        table = shard_tables.open_table(self.shards[shard], stamp)
        row = int(index) - begin
        if self._drop or self._filter is not None:
            row = int(self._rows(self.shards[shard], stamp, extra)[row])
        return table, row

    def _open(self, path: str) -> tuple[tuple[Stamp, Stamp], list[int]]:
        """Stamps, and how many samples there are, are complete, are kept, are left out for each reason."""
        stamp = shard_tables.stamp_of(path)
        counts = shard_tables.counts_of(path, stamp)
        found = complete = kept = int(counts.sum())
        if self._drop:
            complete = kept = int(counts[np.arange(len(counts)) & self._bits == self._bits].sum())
        if self._filter is None:
            return (stamp, ()), [found, complete, kept]
        extra = self._filter.stamp(path)
        chosen, _ = self._choice(path, stamp, extra)
        return (stamp, extra), [found, complete, len(chosen["kept"]), *chosen["reasons"].tolist()]

    def _rows(self, path: str, stamp: Stamp, extra: Stamp) -> np.ndarray:
        def make() -> tuple[np.ndarray, bool]:
            if self._filter is None:
                return shard_tables.open_table(path, stamp).complete(self._bits), True
            chosen, stored = self._choice(path, stamp, extra)
            return chosen["kept"], stored

        return shard_tables.MEMORY.get((path, stamp, extra, self._suffix), make)

    def _choice(self, path: str, stamp: Stamp, extra: Stamp) -> tuple[dict[str, np.ndarray], bool]:
        """The samples that the filter keeps, and how many it leaves out for each reason."""
        choose = self._filter
        assert choose is not None

        def make() -> dict[str, np.ndarray]:
            if choose.stamp(path) != extra:
                raise shard_tables.changed(path)
            table = shard_tables.open_table(path, stamp)
            rows = table.complete(self._bits if self._drop else 0)
            lacking = np.setdiff1d(rows, table.complete(sum(1 << FIELDS.index(field) for field in choose.needs)))
            if len(lacking):
                raise DataError(
                    f"{len(lacking)} sample(s) of {path} lack what the filter reads",
                    why=f"it needs {', '.join(choose.needs)}; the first is {table.where(int(lacking[0]))}",
                    fix="complete the shard, or leave such samples out with incomplete='drop'",
                )
            reason = choose(table, rows)
            lost = np.bincount(reason[reason >= 0], minlength=len(choose.reasons))
            return {"kept": rows[reason < 0], "reasons": lost.astype(np.int64)}

        return shard_tables.remembered(path, self._suffix, (*stamp, *extra), make)

    def _read_label(self, table: Table, row: int, metadata: Callable[[], dict[str, Any]]) -> int:
        field, key = self._label
        if key is None:
            text = table.read(row, LABEL)
            value: Any = int(text) if re.fullmatch(rb"\s*-?[0-9]{1,9}\s*", text) else text[:40]
        else:
            value = _field(metadata(), key, table, row)
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(
                f"label {table.place(row, field)} is no integer",
                why=f"it is {value!r}",
                fix="write the number of the class, from 0",
            )
        if value < -1 or value >= (self._classes or 2**31):
            raise DataError(
                f"label {table.place(row, field)} is {value}",
                why=f"there are {self._classes or 2**31:,} classes, from 0; -1 is none",
                fix="correct the label, or the number of classes",
            )
        return value


def _encoded(table: Table, row: int, field: int) -> EncodedImage:
    return EncodedImage(table.file(row, field) or table.read(row, field), name=table.place(row, field))


def member(text: str, feature: str, plain: str) -> tuple[int, str | None]:
    """Number of the field, and the key in the metadata, for the option ``txt``, ``cls`` or ``json:KEY``.

    Raises:
        ConfigError: Neither of them.
    """
    kind, colon, key = text.partition(":")
    if text == plain:
        return {"txt": CAPTION, "cls": LABEL}[plain], None
    if kind == "json" and colon and key:
        return JSON, key
    raise ConfigError(f"unknown {feature} {text!r}", fix=f"use {plain!r}, or 'json:FIELD' with a field of the metadata")


def read_json(table: Table, row: int) -> dict[str, Any]:
    """The metadata of a sample.

    Raises:
        DataError: Not a JSON object; the message names the place.
    """
    try:
        value = json.loads(table.read(row, JSON).decode())
        why = f"it is a {type(value).__name__}"
    except (ValueError, RecursionError) as error:
        value, why = None, str(error) or type(error).__name__
    if not isinstance(value, dict):
        raise DataError(f"{table.place(row, JSON)} is not a JSON object", why=why, fix="write the shard again")
    return value


def read_text(table: Table, row: int) -> str:
    """The caption of a sample.

    Raises:
        DataError: Not UTF-8; the message names the place.
    """
    data = table.read(row, CAPTION)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table.place(row, CAPTION)} is not UTF-8",
            why=f"byte {error.start} of {len(data)} is {data[error.start]:#04x}",
            fix="write captions as UTF-8",
        ) from error


def text_field(metadata: dict[str, Any], key: str, table: Table, row: int) -> str:
    """A text in the metadata; null is empty.

    Raises:
        DataError: Not there, not text, or half of a surrogate pair, which no encoding can write.
    """
    value = _field(metadata, key, table, row)
    value = "" if value is None else value
    whole = isinstance(value, str) and (value.isascii() or value.encode(errors="replace").decode() == value)
    if not whole:
        why = "it has half of a surrogate pair" if isinstance(value, str) else f"it is a {type(value).__name__}"
        raise DataError(f"{key!r} in {table.place(row, JSON)} is not text", why=why, fix="choose another field")
    return value


def _field(metadata: dict[str, Any], key: str, table: Table, row: int) -> Any:
    if key not in metadata:
        known = ", ".join(list(metadata)[:12])
        raise DataError(
            f"{table.place(row, JSON)} has no field {key!r}{suggest(key, list(metadata))}",
            why=f"it has {known or 'none'}",
            fix="choose another field",
        )
    return metadata[key]
