"""Any set of tar shards in the webdataset convention: images with captions, labels or label maps, or alone."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.class_file import read_class_file
from spendflops.parts.sources.folder import subfolders
from spendflops.parts.sources.masks import class_values
from spendflops.parts.sources.published import check_features
from spendflops.parts.sources.shard_paths import find_shards
from spendflops.parts.sources.shard_tables import open_table, stamp_of
from spendflops.parts.sources.shards import CAPTION, IMAGE, LABEL, ShardSource, member

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folder names, and words in the names of shards, that are splits."""
_WORD = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=[-_.])")


class WebDataset(Dataset):
    """``path/*.tar``, ``path/<split>/*.tar``, or shards with the split in their names, as timm's copies of ImageNet.

    The convention is that of :mod:`spendflops.parts.sources.shards`. What the samples hold is found from the first one
    with an image: captions where it has ``txt``; labels where it has ``cls``. The options ``caption`` and ``classes``
    declare them instead; labels without ``classes`` cannot be read, as their number is not known.

    Splits are the folders of ``path`` that are called like one (:data:`SPLITS`), else such words in the names of the
    shards (``imagenet1k-train-0000.tar``, ``imagenet1k-validation-0000.tar``), else there is the one split ``all``,
    which ``train`` means, too.

    Args:
        path: A folder, a tar, a pattern (``*``, ``{0000..1023}``) or a list; ``~`` is the home directory. See
            :func:`~spendflops.parts.sources.shard_paths.find_shards`.
        splits: Split -> pattern or list below ``path``, where guessing is not wanted.
        caption: ``txt``, or ``json:FIELD``.
        label: ``cls``, or ``json:FIELD``: the number of the class, from 0.
        classes: Their names in label order, how many there are, or a text file with a name a line.
        mask_classes: Names of the pixel classes in the order of the values of ``KEY.mask.png`` (or ``KEY.seg.png``)
            from 0 on, or a text file; without them masks are not read.
        zero_is_ignored: The stored value 0 is ignored, and pixel classes begin at 1 (ADE20K).
        ignore_label: One more stored value that is ignored, beside 255.
        incomplete: ``fail`` when a sample without its image, caption, label or mask is read, or ``drop`` it; what is
            dropped is counted in ``source.dropped``.
        name: Of the data set; by default the folder's, with its parent's where it is called like a split.
        licence: Of the images.

    Raises:
        ConfigError: Labels without classes, or options that cannot be meant.
    """

    def __init__(
        self,
        *,
        path: str | Sequence[str],
        splits: Mapping[str, str | Sequence[str]] | None = None,
        caption: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | int | str | None = None,
        mask_classes: Sequence[str] | str = (),
        zero_is_ignored: bool = False,
        ignore_label: int | None = None,
        incomplete: str = "fail",
        name: str = "",
        licence: str = "unknown",
    ):
        member(caption or "txt", "caption", "txt")
        member(label or "cls", "label", "cls")
        if classes is None and label is not None:
            raise ConfigError(
                f"webdataset has label={label!r} without classes",
                why="labels are numbers; how many there are is not known from a shard",
                fix="give their names, their number or a text file: classes=1000",
            )
        if isinstance(classes, int) and classes < 1:
            raise ConfigError(f"webdataset has {classes} classes", fix="give a positive number, or leave it out")
        if not isinstance(classes, (int, str, type(None))) and len(set(classes)) != len(classes):
            raise ConfigError("webdataset has two classes of one name", fix="classes are all different")
        if splits is not None and not splits:
            raise ConfigError("webdataset has no splits", fix="leave the option out, or write {'train': 'PATTERN'}")
        if splits is not None and not isinstance(path, str):
            raise ConfigError("webdataset has splits and a list of paths", fix="give the folder as path")
        paths = [path] if isinstance(path, str) else list(path)
        self._paths = [os.path.abspath(os.path.expanduser(one)) for one in paths]
        if not self._paths:
            raise ConfigError("webdataset has an empty list of paths", fix="give a folder, a pattern or a list")
        self._wanted, self._caption, self._label = None if splits is None else dict(splits), caption, label
        self._given, self._incomplete, self._licence = classes, incomplete, licence
        self._mask_classes = read_class_file(mask_classes) if isinstance(mask_classes, str) else tuple(mask_classes)
        if (zero_is_ignored or ignore_label is not None) and not self._mask_classes:
            raise ConfigError("webdataset has values of masks to ignore and no mask_classes", fix="name the classes")
        values = class_values(self._mask_classes, zero_is_ignored=zero_is_ignored, ignore_label=ignore_label)
        self._mask_values = values
        folder = self._paths[0] if os.path.isdir(self._paths[0]) else os.path.dirname(self._paths[0])
        parent, own = os.path.split(folder)
        self._name = name or (f"{os.path.basename(parent)}/{own}" if own in SPLITS else own)

    @functools.cached_property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # read when first asked for
        """From the first sample of the first shard; samples are not counted for it, so that sizes are not known.

        Raises:
            DataError: No shards, one of them is unreadable, no sample with an image.
        """
        caption, label = self._found
        features = {"image": "uint8 H W C"} | ({"caption": "str"} if caption else {})
        features |= {"label": "int32"} if label and self._given is not None else {}
        features |= {"mask": "uint8 H W"} if self._mask_classes else {}
        return DatasetInfo(
            name=self._name,
            features=features,
            classes=self._classes,
            mask_classes=self._mask_classes,
            licence=self._licence,
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> ShardSource:
        """Samples of ``split``.

        Raises:
            DataError: An unknown split, an unreadable shard, no samples.
            ConfigError: A feature that the set does not have.
        """
        if split == "train" and "all" in self._splits:
            split = "all"  # What is not divided is there to train on: the default of a stage fits every set.
        if split not in self._splits:
            known = list(self._splits)
            raise DataError(
                f"{self._name} has no split {split!r}{suggest(split, known)}",
                why=f"its splits are {', '.join(known)}",
                fix="name them with splits={'train': 'PATTERN'}, or let folders or shards be called train, val or test",
            )
        known = list(self.info.features)
        if "label" in features and "label" not in known and self._found[1]:
            raise ConfigError(
                f"{self._name} has labels, but how many classes there are is not known",
                fix="give their names, their number or a text file: classes=1000",
            )
        check_features(self._name, features, known)
        return ShardSource(
            self._splits[split],
            features=features,
            caption=self._caption or "txt",
            label=self._label or "cls",
            classes=len(self.info.classes) or None,
            mask_values=self._mask_values,
            incomplete=self._incomplete,
            name=f"{self._name}:{split}",
        )

    @functools.cached_property
    def _splits(self) -> dict[str, tuple[str, ...]]:
        """Split -> shards."""
        root = self._paths[0]
        if self._wanted is not None:
            found = {}
            for split, wanted in self._wanted.items():
                below = [wanted] if isinstance(wanted, str) else wanted
                found[split] = find_shards([os.path.join(root, os.path.expanduser(one)) for one in below])
            _check_disjoint(found)
            return found
        if len(self._paths) == 1 and os.path.isdir(root):
            folders = [split for split in SPLITS if split in subfolders(root)]
            if folders and any(name.endswith(".tar") for name in os.listdir(root)):
                raise DataError(
                    f"{root} has shards beside the folder {folders[0]}",
                    why="so it is not clear to which split they belong",
                    fix="name the splits: splits={'train': 'train/*.tar'}",
                )
            if folders:
                return {split: find_shards(os.path.join(root, split)) for split in folders}
        return _by_name(find_shards(self._paths))

    @functools.cached_property
    def _found(self) -> tuple[bool, bool]:
        """Whether there are captions and labels."""
        declared = self._caption is not None, self._given is not None
        for shard in next(iter(self._splits.values())):
            table = open_table(shard, stamp_of(shard))
            row = next((row for row in range(len(table)) if table.has(row, IMAGE)), None)
            if row is not None:
                return declared[0] or table.has(row, CAPTION), declared[1] or table.has(row, LABEL)
        raise DataError(
            f"{self._name} has no sample with an image",
            why=f"no KEY.jpg, .jpeg, .png or .webp is in {next(iter(self._splits.values()))[0]} and those after it",
            fix="check the path",
        )

    @functools.cached_property
    def _classes(self) -> tuple[str, ...]:
        given = self._given
        if isinstance(given, int):
            return tuple(str(number) for number in range(given))
        if not isinstance(given, str):
            return tuple(given or ())
        return read_class_file(given)


def _by_name(shards: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Shards by the split in their names; all of them have one, or none has."""
    found: dict[str, list[str]] = {}
    for shard in shards:
        words = sorted(set(_WORD.findall(os.path.basename(shard).lower())))
        if len(words) > 1:
            raise DataError(
                f"the name of shard {shard} has {' and '.join(words)} in it",
                why="so it is not clear to which split it belongs",
                fix="name the splits: splits={'train': 'PATTERN'}",
            )
        found.setdefault(words[0] if words else "", []).append(shard)
    if "" in found and len(found) > 1:
        raise DataError(
            f"shard {found[''][0]} has no split in its name",
            why=f"others have: {', '.join(split for split in found if split)}",
            fix="name the splits: splits={'train': 'PATTERN'}",
        )
    if "" in found:
        return {"all": tuple(found[""])}
    return {split: tuple(found[split]) for split in SPLITS if split in found}


def _check_disjoint(splits: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for split, shards in splits.items():
        for shard in shards:
            if (other := seen.setdefault(shard, split)) != split:
                raise DataError(
                    f"shard {shard} is in the splits {other} and {split}",
                    why="scores would measure memory",
                    fix="correct the patterns of splits",
                )
