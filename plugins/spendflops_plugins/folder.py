"""Any folder of images: class folders, or images without labels, with or without folders for the splits."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.folder import LABELS, FolderSource, has_images, list_images, subfolders, verify

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folder names that are splits, in the order in which their classes are trusted."""


class Folder(Dataset):
    """``path/<class>/**/*.jpg``, ``path/<split>/<class>/**/*.jpg``, or either without class folders.

    The folders of ``path`` are splits if all of them are called like one (:data:`SPLITS`) and no image lies beside
    them; otherwise there is the one split ``all``, which ``train`` means, too. Classes are the class folders of the
    first split, sorted by name (by number if all names are numbers); other splits may lack some but not add any.

    Args:
        path: The folder; ``~`` is the home directory.
        labels: ``auto``, ``folders`` or ``none``, see :func:`~spendflops.parts.sources.folder.list_images`.
        classes: Class folders in label order, where sorting is not wanted.
        splits: Names of the split folders, where guessing is not wanted; ``()`` says that there are none.
        allow_empty: Lets class folders have no images.
        skip: Images to leave out, as paths below ``path`` with ``/``.
        check: Decodes every image when a split is opened, to list the broken ones at once.
        name: Of the data set; by default the folder's, with its parent's where it is called like a split.
        licence: Of the images.

    Raises:
        ConfigError: Unknown ``labels``, or text where a list is meant.
    """

    def __init__(
        self,
        *,
        path: str,
        labels: str = "auto",
        classes: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        allow_empty: bool = False,
        skip: Sequence[str] = (),
        check: bool = False,
        name: str = "",
        licence: str = "unknown",
    ):
        if isinstance(classes, str) or isinstance(splits, str) or isinstance(skip, str):
            raise ConfigError("classes, splits and skip are lists", fix="write ('a',) for one")
        if labels not in LABELS:
            raise ConfigError(f"unknown labels {labels!r}{suggest(labels, LABELS)}", fix=f"use one of {list(LABELS)}")
        self._path = os.path.abspath(os.path.expanduser(path))
        self._labels, self._classes = labels, None if classes is None else tuple(classes)
        self._splits = None if splits is None else tuple(splits)
        self._allow_empty, self._skip, self._check = allow_empty, tuple(skip), check
        parent, own = os.path.split(self._path)
        self._name = name or (f"{os.path.basename(parent)}/{own}" if own in SPLITS else own)
        self._licence = licence

    @functools.cached_property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # read when first asked for
        """Read from the folder names; images are not listed for it, so that sizes are not known.

        Raises:
            DataError: The folder is missing or unreadable.
        """
        first = next(iter(self._folders.values()))
        labelled = self._labelled(first)
        features = {"image": "uint8 H W C"} | ({"label": "int32"} if labelled else {})
        classes = (self._classes or subfolders(first)) if labelled else ()
        return DatasetInfo(name=self._name, features=features, classes=classes, licence=self._licence)

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> FolderSource:
        """Images of ``split``, with labels where there are any.

        Raises:
            DataError: Unknown split, unreadable folders, no images, an empty or unknown class folder.
            ConfigError: A feature that the split does not have.
        """
        if split == "train" and "all" in self._folders:
            split = "all"  # What is not divided is there to train on: the default of a stage fits every folder.
        if split not in self._folders:
            known = list(self._folders)
            raise DataError(
                f"{self._path} has no split {split!r}{suggest(split, known)}",
                why=f"its splits are {', '.join(known)}",
                fix="folders called train, val or test are splits; a folder without such has the split all",
            )
        folder = self._folders[split]
        labelled = self._labelled(folder)
        known = ["image", "label"] if labelled else ["image"]
        for feature in features:
            if feature not in known:
                raise ConfigError(
                    f"folder {folder} has no feature {feature!r}{suggest(feature, known)}",
                    why=f"it has {', '.join(known)}" + ("" if labelled else ": there are no class folders"),
                    fix="put the images into a folder a class" if feature == "label" else f"use some of {known}",
                )
        self._check_skip()
        prefix = "" if folder == self._path else split + "/"
        listing = list_images(
            folder,
            labels="folders" if labelled else "none",
            classes=self.info.classes if labelled and self.info.classes else None,
            allow_empty=self._allow_empty,
            skip=tuple(path.removeprefix(prefix) for path in self._skip if path.startswith(prefix)),
        )
        if self._check:
            verify(listing)
        return FolderSource(listing)

    @functools.cached_property
    def _folders(self) -> dict[str, str]:
        """Split -> folder."""
        found = subfolders(self._path)
        names = self._splits
        if names is None:
            split_like = [name for name in found if name in SPLITS]
            if len(split_like) == len(found) > 0 and not has_images(self._path):
                names = tuple(sorted(found, key=SPLITS.index))
            elif "train" in split_like:
                others = [name for name in found if name not in SPLITS]
                raise DataError(
                    f"{self._path} has the folder train beside {', '.join(others[:3]) or 'images'}",
                    why="so it is not clear whether its folders are splits or classes",
                    fix="name the splits: splits=('train', ...), or splits=() if the folders are classes",
                )
            else:
                names = ()
        absent = [name for name in names if name not in found]
        if absent:
            raise DataError(
                f"{self._path} has no folder {absent[0]!r}{suggest(absent[0], found)}", fix="correct the list of splits"
            )
        return {name: os.path.join(self._path, name) for name in names} or {"all": self._path}

    def _check_skip(self) -> None:
        lost = [path for path in self._skip if "all" not in self._folders and path.split("/")[0] not in self._folders]
        if lost:
            raise DataError(
                f"skip names {lost[0]!r}, which is in no split of {self._path}",
                why=f"its splits are {', '.join(self._folders)}",
                fix="write paths below the folder, with /, as train/cat/1.jpg",
            )

    def _labelled(self, folder: str) -> bool:
        if self._labels != "auto":
            return self._labels == "folders"
        folders, images = subfolders(folder), has_images(folder)
        if folders and images:
            # Both: list_images says what to do about it.
            list_images(folder, labels="auto")
        return bool(folders)
