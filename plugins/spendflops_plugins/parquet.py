"""Images in parquet tables: as the Hugging Face hub has them, and as img2dataset writes them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.class_file import read_class_file
from spendflops.parts.sources.masks import class_values
from spendflops.parts.sources.parquet import ParquetSource, Tables, find_tables, open_tables
from spendflops.parts.sources.parquet_schema import Layout, find_layout

SPLITS = ("train", "val", "valid", "validation", "test")
"""Words in the names of tables, and folder names, that are splits."""
_NUMBERED = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_WORD = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=[-_.]|$)")


class Parquet(Dataset):
    """Tables with the image in a column, see :mod:`spendflops.parts.sources.parquet`.

    Splits are what stands before the numbers of ``SPLIT-00000-of-00004.parquet``, else a word of :data:`SPLITS` in the
    name of the table, else the folder in which it lies, if that is called like one. Where no table has a split there is
    the one split ``all``, which ``train`` means, too.

    Args:
        path: A table, a folder, or a pattern; ``~`` is the home directory.
        splits: Split -> pattern or list below ``path``, where guessing is not wanted.
        image: The column of the images; "auto" finds it by type and name.
        label: The column of the labels, "auto", or "none". Labels are numbers from 0, -1 or null for none, or names.
        caption: The column of the captions, "auto", or "none".
        mask: The column of the label maps, 8-bit grey or palette, or "none".
        mask_classes: Names of the pixel classes in the order of the stored values from 0 on, or a text file.
        zero_is_ignored: The stored value 0 is ignored, and pixel classes begin at 1 (ADE20K).
        ignore_label: One more stored value that is ignored, beside 255.
        classes: Names of the classes in label order, how many there are, or a text file with a name a line; by default
            those in the metadata of the tables. Without any, labels cannot be read.
        name: Of the data set; by default the folder's.
        licence: Of the images.

    Raises:
        ConfigError: Options that cannot be meant.
    """

    def __init__(
        self,
        *,
        path: str,
        splits: Mapping[str, str | Sequence[str]] | None = None,
        image: str = "auto",
        label: str = "auto",
        caption: str = "auto",
        mask: str = "none",
        mask_classes: Sequence[str] | str = (),
        zero_is_ignored: bool = False,
        ignore_label: int | None = None,
        classes: Sequence[str] | int | str | None = None,
        name: str = "",
        licence: str = "unknown",
    ):
        if isinstance(classes, int) and classes < 1:
            raise ConfigError(f"parquet has {classes} classes", fix="give a positive number, or leave it out")
        if not isinstance(classes, (int, str, type(None))) and len(set(classes)) != len(classes):
            raise ConfigError("parquet has two classes of one name", fix="classes are all different")
        if splits is not None and not splits:
            raise ConfigError("parquet has no splits", fix="leave the option out, or write {'train': 'PATTERN'}")
        self._path = os.path.abspath(os.path.expanduser(path))
        self._wanted = None if splits is None else dict(splits)
        self._columns = {"image": image, "label": label, "caption": caption, "mask": mask}
        self._mask_classes = read_class_file(mask_classes) if isinstance(mask_classes, str) else tuple(mask_classes)
        if (mask != "none") != bool(self._mask_classes):
            raise ConfigError(
                f"parquet has mask={mask!r} and {len(self._mask_classes)} mask_classes",
                why="values of a label map mean nothing without their names",
                fix="give both, as mask='annotation', mask_classes=('sky', 'road')",
            )
        values = class_values(self._mask_classes, zero_is_ignored=zero_is_ignored, ignore_label=ignore_label)
        self._mask_values = values
        self._given, self._licence = classes, licence
        folder = self._path if os.path.isdir(self._path) else os.path.dirname(self._path)
        parent, own = os.path.split(folder)
        # The hub keeps the tables of a set in its folder `data`.
        self._name = name or (f"{os.path.basename(parent)}/{own}" if own in (*SPLITS, "data") else own)

    @functools.cached_property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # read when first asked for
        """From the tables: their footers are read, so that the sizes are known.

        Raises:
            DataError: No tables, an unreadable one, tables with different columns or classes.
            ConfigError: Several columns may be meant.
        """
        layout = self._layout
        features = {"image": "uint8 H W C"}
        if layout.label is not None and self._classes:
            features["label"] = "int32"
        if layout.caption is not None:
            features["caption"] = "str"
        if layout.mask is not None:
            features["mask"] = "uint8 H W"
        return DatasetInfo(
            name=self._name,
            features=features,
            classes=self._classes if "label" in features else (),
            mask_classes=self._mask_classes,
            sizes={split: len(tables) for split, tables in self._tables.items()},
            licence=self._licence,
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> ParquetSource:
        """Rows of ``split``.

        Raises:
            ConfigError: A feature that the tables do not have.
            DataError: An unknown split, unreadable tables.
        """
        if split == "train" and "all" in self._files:
            split = "all"  # What is not divided is there to train on: the default of a stage fits every set.
        if split not in self._files:
            known = list(self._files)
            raise DataError(
                f"{self._name} has no split {split!r}{suggest(split, known)}",
                why=f"its splits are {', '.join(known)}",
                fix="name them with splits={'train': 'PATTERN'}, or call tables train-00000-of-00001.parquet",
            )
        known = list(self.info.features)
        for feature in features:
            if feature not in known:
                classless = feature == "label" and self._layout.label is not None
                raise ConfigError(
                    f"{self._name} has no feature {feature!r}{suggest(feature, known)}",
                    why=f"column {self._layout.label!r} has labels, but what their classes are is not known"
                    if classless
                    else f"it has {', '.join(known)}",
                    fix="give their names, their number or a text file: classes=1000"
                    if classless
                    else f"name its column, as {feature}='COLUMN'"
                    if feature in self._columns
                    else f"use some of {known}",
                )
        return ParquetSource(
            self._tables[split],
            self._layout,
            features=features,
            classes=self.info.classes,
            mask_values=self._mask_values,
        )

    @functools.cached_property
    def _files(self) -> dict[str, tuple[str, ...]]:
        """Split -> tables."""
        if self._wanted is None:
            return _by_name(find_tables(self._path), self._path)
        found = {}
        for split, wanted in self._wanted.items():
            below = [wanted] if isinstance(wanted, str) else wanted
            found[split] = tuple(sorted({f for one in below for f in find_tables(os.path.join(self._path, one))}))
        seen: dict[str, str] = {}
        for split, files in found.items():
            for file in files:
                if (other := seen.setdefault(file, split)) != split:
                    raise DataError(
                        f"table {file} is in the splits {other} and {split}",
                        why="scores would measure memory",
                        fix="correct the patterns of splits",
                    )
        return found

    @functools.cached_property
    def _layout(self) -> Layout:
        return find_layout(next(iter(self._files.values()))[0], **self._columns)

    @functools.cached_property
    def _tables(self) -> dict[str, Tables]:
        return {split: open_tables(files, self._layout) for split, files in self._files.items()}

    @functools.cached_property
    def _classes(self) -> tuple[str, ...]:
        given = self._given
        if given is None:
            return self._layout.classes
        if isinstance(given, int):
            return tuple(str(number) for number in range(given))
        return read_class_file(given) if isinstance(given, str) else tuple(given)


def _by_name(files: Sequence[str], root: str) -> dict[str, tuple[str, ...]]:
    """Tables by their splits; all of them have one, or none has."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(_split(file, root), []).append(file)
    if "" in found and len(found) > 1:
        raise DataError(
            f"table {found[''][0]} has no split in its name",
            why=f"others have: {', '.join(split for split in found if split)}",
            fix="name the splits: splits={'train': 'PATTERN'}",
        )
    if "" in found:
        return {"all": tuple(found[""])}
    order = sorted(found, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    return {split: tuple(found[split]) for split in order}


def _split(file: str, root: str) -> str:
    stem = os.path.basename(file).removesuffix(".parquet")
    if numbered := _NUMBERED.fullmatch(stem):
        return numbered["split"]
    words = sorted(set(_WORD.findall(stem.lower())))
    if len(words) > 1:
        raise DataError(
            f"the name of table {file} has {' and '.join(words)} in it",
            why="so it is not clear to which split it belongs",
            fix="name the splits: splits={'train': 'PATTERN'}",
        )
    folder = os.path.dirname(file)
    inside = folder != root and os.path.basename(folder) in SPLITS
    return words[0] if words else os.path.basename(folder) if inside else ""
