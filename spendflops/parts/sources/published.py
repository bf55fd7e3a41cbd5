"""What data sets with published counts have in common: static information, an optional path, counts that are checked.

A plan needs no disk: ``path`` may be left out until samples are read. A copy that is not complete is an error when it
is opened, unless ``partial`` says that it is meant to be a part.
"""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Sequence

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo


class PublishedDataset(Dataset):
    """A data set as its owners distribute it.

    Subclasses give ``published`` and :meth:`open`, and list their options as keyword arguments.

    Args:
        published: The static information, ``sizes`` with the published counts.
        path: The folder; ``~`` is the home directory; None where nothing is read.
        partial: The copy is a part: counts are not checked and ``info.sizes`` is empty.
    """

    def __init__(self, published: DatasetInfo, *, path: str | None, partial: bool):
        self.path = None if path is None else os.path.abspath(os.path.expanduser(path))
        self.partial = partial
        self.info = dataclasses.replace(published, sizes={}) if partial else published
        self._published = published

    @abc.abstractmethod
    def open(self, root: str, split: str, features: tuple[str, ...]) -> Source:
        """Samples of ``split``, which is one of the published splits, below the folder ``root``, which is there."""

    def held(self, source: Source) -> int:
        """Examples that the copy has of a split, to compare with the published number: not always what is shown."""
        return len(source)

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> Source:
        """Samples of ``split``.

        Raises:
            ConfigError: A feature that the data set does not have.
            DataError: An unknown split, no path, a missing folder, another number of samples than published.
        """
        name, published = self._published.name, self._published
        if split not in published.sizes:
            known = list(published.sizes)
            raise DataError(f"{name} has no split {split!r}{suggest(split, known)}", fix=f"use one of {known}")
        check_features(name, features, list(published.features))
        source = self.open(self._root(), split, tuple(features))
        if not self.partial and self.held(source) != published.sizes[split]:
            found, wanted = self.held(source), published.sizes[split]
            raise DataError(
                f"{name} at {self.path}: {split} has {found:,} samples, published are {wanted:,}",
                why="the copy is not complete, or has files that do not belong to it",
                fix="`spendflops data verify` lists what is wrong; partial=True says that a part is meant",
            )
        return source

    def _root(self) -> str:
        name = self._published.name
        if self.path is None:
            raise DataError(
                f"{name} has no path",
                why="without one it can be planned with, but not read",
                fix=f"write --dataset {name}:/path/to/it, or bind datasets.{name}.path",
            )
        if not os.path.isdir(self.path):
            parent, own = os.path.split(self.path)
            near = suggest(own, os.listdir(parent)) if os.path.isdir(parent) else f", nor is {parent}"
            raise DataError(f"{name}: folder {self.path} is not there{near}", fix="check the path of the data set")
        return self.path


def check_features(name: str, features: Sequence[str], known: Sequence[str]) -> None:
    """Raises a ConfigError where ``features`` has one that is not among ``known``."""
    for feature in features:
        if feature not in known:
            raise ConfigError(
                f"{name} has no feature {feature!r}{suggest(feature, list(known))}", fix=f"use some of {list(known)}"
            )


def check_classes(name: str, found: Sequence[str], classes: Sequence[str], *, partial: bool) -> None:
    """Raises a DataError where the classes on the disk are not those of the data set; a part may lack some."""
    known = set(classes)
    unknown = [c for c in found if c not in known]
    absent = [] if partial else sorted(known - set(found))
    if unknown or absent:
        odd = unknown or absent
        raise DataError(
            f"{name}: {len(odd)} class(es) {'unknown' if unknown else 'missing'}, the first is {odd[0]!r}",
            why=f"{len(found):,} classes on the disk, {len(classes):,} published",
            fix="remove what does not belong to it" if unknown else "unpack the rest, or set partial=True",
        )
