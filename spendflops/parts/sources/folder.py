"""Sources: random access to images as they lie on disk, undecoded.

A folder tree is listed once, sorted by name, so that an index means the same example on every machine. Hidden files and
files that are no images by their ending are left out; everything else that is odd is an error that names the file.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

LABELS = ("auto", "folders", "none")
"""Where labels come from, see :func:`list_images`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Images under ``root``.

    Attributes:
        root: The folder.
        files: Paths below it with ``/``, sorted within their class.
        labels: int32 [files], None without class folders.
        classes: Names in label order.
    """

    root: str
    files: tuple[str, ...]
    labels: Int32[np.ndarray, " files"] | None = None
    classes: tuple[str, ...] = ()


def subfolders(root: str) -> tuple[str, ...]:
    """The visible folders in ``root``: by number if all names are numbers ("2" before "10"), else by name.

    Raises:
        DataError: Missing or unreadable.
    """
    names = [entry.name for entry in _entries(root) if entry.is_dir()]
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))


def has_images(root: str) -> bool:
    """Whether ``root`` itself, not its folders, holds an image."""
    return any(_is_image(entry) for entry in _entries(root))


def list_images(
    root: str,
    *,
    labels: str = "auto",
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
    skip: Sequence[str] = (),
) -> Listing:
    """Lists the images of a folder.

    Args:
        root: The folder.
        labels: ``folders``: every folder in ``root`` is a class, with images at any depth. ``none``: all images at any
            depth, no labels. ``auto``: ``folders`` if there are folders and no images beside them, ``none`` if there
            are no folders.
        classes: Class names in label order; by default the folders in the order of :func:`subfolders`. Folders
            may be missing, but none may be unknown.
        allow_empty: Lets a class folder have no images.
        skip: Paths below ``root`` to leave out.

    Raises:
        DataError: Missing, unreadable, no images, an empty class folder, an unknown class, or a path in ``skip`` that
            is not there.
        ConfigError: Unknown ``labels``.
    """
    root = os.fspath(root)
    if labels == "auto":
        labels = _guess(root)
    numbers: list[int] | None = None
    names: tuple[str, ...] = ()
    if labels == "none":
        files = sorted(_walk(root))
    elif labels == "folders":
        files, numbers, names = _labelled(root, classes, allow_empty)
    else:
        raise ConfigError(f"unknown labels {labels!r}{suggest(labels, LABELS)}", fix=f"use one of {list(LABELS)}")
    if skip:
        files, numbers = _without(root, files, numbers, skip)
    if not files:
        raise DataError(
            f"{root} has no images",
            why=f"no file in it ends in {', '.join(EXTENSIONS)}",
            fix="check the path; a folder of class folders, or of images, is expected",
        )
    array = None if numbers is None else np.asarray(numbers, np.int32)
    return Listing(root=root, files=tuple(files), labels=array, classes=names)


class FolderSource:
    """Samples ``{"image": EncodedImage, "label": int}`` of a listing; ``label`` where there are labels.

    An image that turns out broken raises a DataError with its name when it is decoded.

    Args:
        listing: From :func:`list_images`.
    """

    def __init__(self, listing: Listing):
        self.listing = listing

    def __len__(self) -> int:
        return len(self.listing.files)

    def __getitem__(self, index: int) -> Sample:
        listing = self.listing
        if not 0 <= index < len(listing.files):
            raise IndexError(f"index {index} of {len(listing.files)} examples")
        sample: dict[str, Any] = {"image": EncodedImage(os.path.join(listing.root, listing.files[index]))}
        if listing.labels is not None:
            sample["label"] = int(listing.labels[index])
        return sample

    def __repr__(self) -> str:
        return f"FolderSource({self.listing.root!r}, {len(self)} images)"


def verify(listing: Listing, *, threads: int | None = None) -> None:
    """Decodes every image once.

    Args:
        listing: What to read.
        threads: Readers; by default one a core.

    Raises:
        DataError: Some are broken: how many, the first ones, and what to give ``skip``.
    """
    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        reasons = pool.map(lambda file: _fault(os.path.join(listing.root, file)), listing.files)
        broken = [(file, why) for file, why in zip(listing.files, reasons, strict=True) if why]
    if broken:
        shown = "; ".join(f"{file}: {why}" for file, why in broken[:5])
        raise DataError(
            f"{len(broken)} of {len(listing.files)} images in {listing.root} are broken",
            why=shown + ("; ..." if len(broken) > 5 else ""),
            fix=f"replace them, or leave them out with skip={tuple(file for file, _ in broken)!r}",
        )


def _fault(path: str) -> str:
    try:
        EncodedImage(path).decode()
    except DataError as error:
        return error.why
    return ""


def _guess(root: str) -> str:
    folders = subfolders(root)
    if folders and has_images(root):
        raise DataError(
            f"{root} has images beside folders ({', '.join(folders[:3])})",
            why="so it is not clear whether the folders are classes",
            fix="choose labels='folders' (only images in folders) or labels='none' (all images, no labels)",
        )
    return "folders" if folders else "none"


def _labelled(
    root: str, classes: Sequence[str] | None, allow_empty: bool
) -> tuple[list[str], list[int], tuple[str, ...]]:
    folders = subfolders(root)
    names = folders if classes is None else tuple(classes)
    unknown = [name for name in folders if name not in set(names)]
    if unknown:
        raise DataError(
            f"class folder {os.path.join(root, unknown[0])} is not among the {len(names)} classes",
            why=f"unknown: {', '.join(unknown[:5])}{suggest(unknown[0], names)}",
            fix="add it to the classes, or remove the folder",
        )
    files: list[str] = []
    numbers: list[int] = []
    present = set(folders)
    for number, name in enumerate(names):
        found = sorted(_walk(os.path.join(root, name), prefix=name + "/")) if name in present else []
        if not found and name in present and not allow_empty:
            raise DataError(
                f"class folder {os.path.join(root, name)} has no images",
                why=_contents(os.path.join(root, name)),
                fix="remove the folder, or set allow_empty=True to keep a class without examples",
            )
        files += found
        numbers += [number] * len(found)
    return files, numbers, names


def _contents(folder: str) -> str:
    names = [entry.name for entry in _entries(folder)]
    return f"it holds {', '.join(sorted(names)[:3])}" if names else "it is empty"


def _without(
    root: str, files: list[str], numbers: list[int] | None, skip: Sequence[str]
) -> tuple[list[str], list[int] | None]:
    left_out = set(skip)
    absent = sorted(left_out - set(files))
    if absent:
        raise DataError(
            f"skip names {absent[0]!r}, which is not in {root}",
            why=f"{len(absent)} of {len(skip)} paths are not there{suggest(absent[0], files)}",
            fix="write paths below the folder, with /",
        )
    keep = [i for i, file in enumerate(files) if file not in left_out]
    return [files[i] for i in keep], None if numbers is None else [numbers[i] for i in keep]


def _walk(folder: str, *, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    entries = _entries(folder)
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"{folder} is a link to a folder above it", fix="remove the link")
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, prefix=f"{prefix}{entry.name}/", above=above | {here})
        elif _is_image(entry):
            yield prefix + entry.name


def _entries(folder: str) -> list[os.DirEntry]:
    """What is visible in a folder, in no particular order."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except FileNotFoundError as error:
        parent, name = os.path.split(os.path.abspath(folder))
        near = suggest(name, os.listdir(parent)) if os.path.isdir(parent) else f", nor is {parent}"
        raise DataError(f"folder {folder} is not there{near}", fix="check the path of the data set") from error
    except OSError as error:
        raise DataError(
            f"folder {folder} cannot be read",
            why=error.strerror or str(error),
            fix="check the path and its permissions",
        ) from error


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir()
