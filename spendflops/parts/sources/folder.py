"""Sources: random access to images as they lie on disk, undecoded.

A folder tree is listed once, sorted by name, so that an index means the same example on every machine. Hidden files and
files that are no images by their ending are left out; everything else that is odd is an error that names the file.

Label maps lie in a tree of their own with the same names; captions in one file for all images, or in one beside each.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources.masks import VALUES, StoredMask

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

LABELS = ("auto", "folders", "none")
"""Where labels come from, see :func:`list_images`."""

SIDECAR = ".txt"
"""The ending of a text file beside an image that holds its caption."""

CAPTION_KEYS = (("path", "file_name"), ("caption", "text"))
"""Names of the image and of its caption in a line of JSON: ours, and those of Hugging Face's ``metadata.jsonl``."""


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


def match_masks(listing: Listing, root: str) -> tuple[str, ...]:
    """The label map of each image: the file of the same path below ``root``, whatever the endings.

    Raises:
        DataError: A missing folder, an image without a label map or with two; the first is named.
    """
    masks: dict[str, str] = {}
    for file in list_images(root, labels="none").files:
        stem = os.path.splitext(file)[0]
        if stem in masks:
            raise DataError(f"{root} has the masks {masks[stem]} and {file}", why="one image cannot have both")
        masks[stem] = os.path.join(root, file)
    stems = [os.path.splitext(file)[0] for file in listing.files]
    without = [file for file, stem in zip(listing.files, stems, strict=True) if stem not in masks]
    if without:
        raise DataError(
            f"{os.path.join(listing.root, without[0])} has no mask",
            why=f"{len(without):,} of {len(stems):,} images have none in {root}, where {len(masks):,} are",
            fix="a mask has the path and name of its image, below the folder of masks",
        )
    return tuple(masks[stem] for stem in stems)


def read_captions(path: str) -> dict[str, str]:
    """Image -> caption of a file with an image a line.

    Args:
        path: Lines ``image<TAB>caption``, or, where it ends in ``.jsonl``, ``{"path": image, "caption": text}``
            (:data:`CAPTION_KEYS`). Paths are with ``/``.

    Raises:
        DataError: Unreadable, a line of another form, or an image that is there twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"captions {path} cannot be read", why=why, fix="check the option captions") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, caption = _json_line(line) if path.endswith(".jsonl") else line.partition("\t")[::2]
        if not image or not caption.strip() or image in found:
            form = '{"path": ..., "caption": ...}' if path.endswith(".jsonl") else "path<TAB>caption"
            raise DataError(
                f"{path}, line {number}: " + (f"{image} is there twice" if image in found else "no image and caption"),
                why=f"it reads {line[:80]!r}",
                fix=f"one line an image: {form}",
            )
        found[image] = caption.strip()
    return found


def _json_line(line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        return "", ""
    image, caption = (next((row[k] for k in keys if isinstance(row, dict) and k in row), "") for keys in CAPTION_KEYS)
    return (image, caption) if isinstance(image, str) and isinstance(caption, str) else ("", "")


def match_captions(listing: Listing, captions: Mapping[str, str], *, prefix: str, path: str) -> tuple[str, ...]:
    """The caption of each image of a listing.

    Args:
        listing: The images.
        captions: From :func:`read_captions`; those of other images may be among them.
        prefix: What stands before a file of the listing there: ``train/``.
        path: Of the file, for messages.

    Raises:
        DataError: An image without one; the first is named.
    """
    names = [prefix + file for file in listing.files]
    without = [name for name in names if name not in captions]
    if without:
        raise DataError(
            f"{without[0]} has no caption in {path}",
            why=f"{len(without):,} of {len(names):,} images have none{suggest(without[0], list(captions)[:1000])}",
            fix="paths there are below the folder of the images, with /: train/1.jpg",
        )
    return tuple(captions[name] for name in names)


def check_sidecars(listing: Listing) -> None:
    """Raises a DataError where an image has no text file beside it."""
    without = [file for file in listing.files if not os.path.isfile(_sidecar(listing, file))]
    if without:
        raise DataError(
            f"{os.path.join(listing.root, without[0])} has no caption",
            why=f"{len(without):,} of {len(listing.files):,} images have no {SIDECAR} file beside them",
            fix=f"write {os.path.basename(_sidecar(listing, without[0]))}, or name a file of captions",
        )


def _sidecar(listing: Listing, file: str) -> str:
    return os.path.join(listing.root, os.path.splitext(file)[0] + SIDECAR)


class FolderSource:
    """Samples ``{"image": EncodedImage}`` of a listing with ``label``, ``mask`` and ``caption``, where it has them.

    An image, a label map or a text that turns out broken raises a DataError with its name when it is read.

    Args:
        listing: From :func:`list_images`.
        masks: From :func:`match_masks`.
        table: Stored value -> label, of :func:`~spendflops.parts.sources.masks.label_table`.
        captions: From :func:`match_captions`, or ``SIDECAR`` for the text beside each image.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        masks: Sequence[str] = (),
        table: Int16[np.ndarray, " values"] = VALUES,
        captions: Sequence[str] | str = (),
    ):
        self.listing, self._masks, self._table, self._captions = listing, tuple(masks), table, captions

    def __len__(self) -> int:
        return len(self.listing.files)

    def __getitem__(self, index: int) -> Sample:
        listing = self.listing
        if not 0 <= index < len(listing.files):
            raise IndexError(f"index {index} of {len(listing.files)} examples")
        sample: dict[str, Any] = {"image": EncodedImage(os.path.join(listing.root, listing.files[index]))}
        if listing.labels is not None:
            sample["label"] = int(listing.labels[index])
        if self._masks:
            sample["mask"] = StoredMask(EncodedImage(self._masks[index]), self._table, image=sample["image"])
        if self._captions:
            sample["caption"] = self._caption(index)
        return sample

    def _caption(self, index: int) -> str:
        if self._captions != SIDECAR:
            return self._captions[index]
        path = _sidecar(self.listing, self.listing.files[index])
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise DataError(f"caption {path} cannot be read", why=why, fix="write it as UTF-8 text") from error
        if not text:
            raise DataError(f"caption {path} is empty", fix="write a caption, or leave the image out with skip")
        return text

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
