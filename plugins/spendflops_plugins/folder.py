"""Any folder of images: class folders, or images without labels, with or without folders for the splits.

Label maps and captions may lie beside the images: ``masks`` and ``captions`` say where.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.folder import (
    LABELS,
    SIDECAR,
    FolderSource,
    Listing,
    check_sidecars,
    has_images,
    list_images,
    match_captions,
    match_masks,
    read_captions,
    subfolders,
    verify,
)
from spendflops.parts.sources.masks import class_values

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folder names that are splits, in the order in which their classes are trusted."""

_FIXES = {
    "label": "put the images into a folder a class",
    "mask": "say where masks are: images='images', masks='annotations', mask_classes=('sky', 'road', ...)",
    "caption": "say where captions are: captions='captions.tsv', or '.txt' for a text beside each image",
}


class Folder(Dataset):
    """``path/<class>/**/*.jpg``, ``path/<split>/<class>/**/*.jpg``, or either without class folders.

    The folders of ``path`` are splits if all of them are called like one (:data:`SPLITS`) and no image lies beside
    them; otherwise there is the one split ``all``, which ``train`` means, too. Classes are the class folders of the
    first split, sorted by name (by number if all names are numbers); other splits may lack some but not add any.

    With masks: ``path/images/<split>/**/x.jpg`` and ``path/annotations/<split>/**/x.png``, 8-bit grey or palette, for
    ``images='images', masks='annotations', mask_classes=(...)``. Folders are then no classes unless ``labels`` says so.
    The value 255 is ignored everywhere.

    Args:
        path: The folder; ``~`` is the home directory.
        images: The folder below it that holds the images; by default it is ``path`` itself.
        masks: The folder below it that holds a label map for every image, under the same name.
        mask_classes: Names of the pixel classes in the order of the stored values from 0 on; or a text file below
            ``path`` with a name a line.
        zero_is_ignored: The stored value 0 is ignored, and classes begin at 1 (ADE20K).
        ignore_label: One more stored value that is ignored.
        captions: A file below ``path`` with a caption for every image, lines ``image<TAB>caption`` or, in ``.jsonl``,
            ``{"path": image, "caption": text}``, with images as paths below ``images``; or ``.txt`` for the text
            ``x.txt`` beside each ``x.jpg``.
        labels: ``auto``, ``folders`` or ``none``, see :func:`~spendflops.parts.sources.folder.list_images`.
        classes: Class folders in label order, where sorting is not wanted.
        splits: Names of the split folders, where guessing is not wanted; ``()`` says that there are none.
        allow_empty: Lets class folders have no images.
        skip: Images to leave out, as paths below ``images`` with ``/``.
        check: Decodes every image and mask when a split is opened, to list the broken ones at once.
        name: Of the data set; by default the folder's, with its parent's where it is called like a split.
        licence: Of the images.

    Raises:
        ConfigError: Unknown ``labels``, text where a list is meant, masks without ``images`` or ``mask_classes``, a
            value that would be both a class and ignored.
    """

    def __init__(
        self,
        *,
        path: str,
        images: str = "",
        masks: str = "",
        mask_classes: Sequence[str] | str = (),
        zero_is_ignored: bool = False,
        ignore_label: int | None = None,
        captions: str = "",
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
        about = {"mask_classes": bool(mask_classes), "zero_is_ignored": zero_is_ignored}
        idle = [option for option, given in (about | {"ignore_label": ignore_label is not None}).items() if given]
        if masks and not (images and mask_classes):
            raise ConfigError(
                f"masks={masks!r} without {'mask_classes' if images else 'images'}",
                why="label maps lie beside the folder of images, and their values need names",
                fix="images='images', masks='annotations', mask_classes=('sky', 'road', ...)",
            )
        if idle and not masks:
            raise ConfigError(f"{idle[0]} without masks", fix="name the folder of the label maps: masks='annotations'")
        self._path = os.path.abspath(os.path.expanduser(path))
        self._root = os.path.join(self._path, images) if images else self._path
        self._masks, self._mask_classes, self._captions = masks, mask_classes, captions
        self._first, self._ignore = int(zero_is_ignored), ignore_label
        if not isinstance(mask_classes, str):
            self._table()
        labels = "none" if masks and labels == "auto" else labels
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
        features |= ({"mask": "uint8 H W"} if self._masks else {}) | ({"caption": "str"} if self._captions else {})
        return DatasetInfo(
            name=self._name,
            features=features,
            classes=(self._classes or subfolders(first)) if labelled else (),
            mask_classes=self._mask_names,
            licence=self._licence,
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> FolderSource:
        """Images of ``split``, with labels where there are any, and masks and captions as asked for.

        Raises:
            DataError: Unknown split, unreadable folders, no images, an empty or unknown class folder, an image without
                its mask or its caption.
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
        known = ["image", *["label"] * labelled, *["mask"] * bool(self._masks), *["caption"] * bool(self._captions)]
        for feature in features:
            if feature not in known:
                raise ConfigError(
                    f"folder {folder} has no feature {feature!r}{suggest(feature, known)}",
                    why=f"it has {', '.join(known)}" + ("" if labelled else ": there are no class folders"),
                    fix=_FIXES.get(feature, f"use some of {known}"),
                )
        self._check_skip()
        prefix = "" if folder == self._root else split + "/"
        listing = list_images(
            folder,
            labels="folders" if labelled else "none",
            classes=self.info.classes if labelled and self.info.classes else None,
            allow_empty=self._allow_empty,
            skip=tuple(path.removeprefix(prefix) for path in self._skip if path.startswith(prefix)),
        )
        if self._check:
            verify(listing)
        more: dict[str, Any] = {}
        if "mask" in features:
            masks = os.path.normpath(os.path.join(self._path, self._masks, prefix))
            more |= {"masks": match_masks(listing, masks), "table": self._table()}
        if "caption" in features:
            more["captions"] = self._captions_of(listing, prefix)
        source = FolderSource(listing, **more)
        if self._check and "mask" in features:
            for index in range(len(source)):
                source[index]["mask"].decode_mask()
        return source

    @functools.cached_property
    def _mask_names(self) -> tuple[str, ...]:
        if not isinstance(self._mask_classes, str):
            return tuple(self._mask_classes)
        path = os.path.join(self._path, self._mask_classes)
        try:
            with open(path, encoding="utf-8") as file:
                names = tuple(line.strip() for line in file if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise DataError(
                f"mask_classes {path} cannot be read",
                why=why,
                fix="a text file with a name a line, or a list: mask_classes=('sky', 'road')",
            ) from error
        return names

    def _table(self) -> np.ndarray:
        """Stored value -> label."""
        names = self._mask_names
        return class_values(names, zero_is_ignored=bool(self._first), ignore_label=self._ignore)

    def _captions_of(self, listing: Listing, prefix: str) -> Sequence[str] | str:
        if self._captions == SIDECAR:
            check_sidecars(listing)
            return SIDECAR
        path = os.path.join(self._path, self._captions)
        return match_captions(listing, read_captions(path), prefix=prefix, path=path)

    @functools.cached_property
    def _folders(self) -> dict[str, str]:
        """Split -> folder."""
        found = subfolders(self._root)
        names = self._splits
        if names is None:
            split_like = [name for name in found if name in SPLITS]
            if len(split_like) == len(found) > 0 and not has_images(self._root):
                names = tuple(sorted(found, key=SPLITS.index))
            elif "train" in split_like:
                others = [name for name in found if name not in SPLITS]
                raise DataError(
                    f"{self._root} has the folder train beside {', '.join(others[:3]) or 'images'}",
                    why="so it is not clear whether its folders are splits or classes",
                    fix="name the splits: splits=('train', ...), or splits=() if the folders are classes",
                )
            else:
                names = ()
        absent = [name for name in names if name not in found]
        if absent:
            raise DataError(
                f"{self._root} has no folder {absent[0]!r}{suggest(absent[0], found)}", fix="correct the list of splits"
            )
        return {name: os.path.join(self._root, name) for name in names} or {"all": self._root}

    def _check_skip(self) -> None:
        lost = [path for path in self._skip if "all" not in self._folders and path.split("/")[0] not in self._folders]
        if lost:
            raise DataError(
                f"skip names {lost[0]!r}, which is in no split of {self._root}",
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
