"""Images with one class each, of data sets whose classes are known before they are opened.

Images lie in files below a folder (:class:`Files`) or in tars (:class:`Members`). Their order is that of the classes,
within a class that of the names: the same in every form of a data set, so that an index means the same example
whether an archive was unpacked or not. Hidden files and files that are no images by their ending are left out;
everything else that does not belong is an error that names it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int32

from spendflops.contracts.errors import DataError
from spendflops.contracts.types import Sample
from spendflops.parts.images import EncodedImage
from spendflops.parts.sources.folder import EXTENSIONS, has_images, list_images, subfolders
from spendflops.parts.sources.published import check_classes
from spendflops.parts.sources.tar import TarIndex, open_index


class Images(Protocol):
    """Undecoded images by index, and the name of each without its folders."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EncodedImage: ...

    def name(self, index: int) -> str: ...


class Names:
    """Many names in two arrays: those of 14 million files take 0.5 GB, as Python strings 1.3 GB.

    Args:
        names: In order; read once, so that a generator keeps the peak low.
    """

    def __init__(self, names: Iterable[str]):
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += name.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        self._text, self._ends = bytes(text), np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")


class Files:
    """Image files below a folder.

    Args:
        root: The folder.
        names: Paths below it with ``/``.
    """

    def __init__(self, root: str, names: Iterable[str]):
        self._root, self._names = root, Names(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> EncodedImage:
        return EncodedImage(os.path.join(self._root, self._names[index]))

    def name(self, index: int) -> str:
        return self._names[index].rpartition("/")[2]

    def __repr__(self) -> str:
        return f"Files({self._root!r}, {len(self)})"


class Members:
    """Images in tars.

    Args:
        tars: Their indices.
        members: int64 [images], counted over all tars, one after another.
    """

    def __init__(self, tars: Sequence[TarIndex], members: Sequence[int] | np.ndarray):
        # Compact names: an index of all of ImageNet-21K would be copied into every worker.
        compact = (dataclasses.replace(tar, names=Names(tar.names)) for tar in tars)  # type: ignore[arg-type]
        self._tars, self._members = tuple(compact), np.asarray(members, np.int64)
        self._starts = np.cumsum([0, *(len(tar) for tar in tars)])

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> EncodedImage:
        tar, member = self._place(index)
        return EncodedImage(tar.read(member), name=tar.place(member))

    def name(self, index: int) -> str:
        tar, member = self._place(index)
        return tar.names[member].rpartition("/")[2]

    def __repr__(self) -> str:
        return f"Members({self._tars[0].path!r}, {len(self._tars)} tar(s), {len(self)})"

    def _place(self, index: int) -> tuple[TarIndex, int]:
        member = int(self._members[index])
        tar = int(np.searchsorted(self._starts, member, side="right")) - 1
        return self._tars[tar], member - int(self._starts[tar])


class Picked:
    """The images ``indices`` of others, in that order."""

    def __init__(self, images: Images, indices: Sequence[int] | np.ndarray):
        self._images, self._indices = images, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> EncodedImage:
        return self._images[int(self._indices[index])]

    def name(self, index: int) -> str:
        return self._images.name(int(self._indices[index]))

    def __repr__(self) -> str:
        return f"Picked({len(self)} of {self._images!r})"


class Joined:
    """Images one after another."""

    def __init__(self, *parts: Images):
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> EncodedImage:
        part, inner = self._place(index)
        return part[inner]

    def name(self, index: int) -> str:
        part, inner = self._place(index)
        return part.name(inner)

    def __repr__(self) -> str:
        return f"Joined{self._parts!r}"

    def _place(self, index: int) -> tuple[Images, int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[part], index - int(self._starts[part])


class ClassSource:
    """Samples ``{"image": EncodedImage, "label": int}``.

    Args:
        images: Undecoded.
        labels: int32 [images], -1 where there is none.
    """

    def __init__(self, images: Images, labels: Sequence[int] | np.ndarray):
        self.images: Images = images
        self.labels: Int32[np.ndarray, " images"] = np.asarray(labels, np.int32)
        if len(images) != len(self.labels):
            raise ValueError(f"{len(images)} images, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} examples")
        return {"image": self.images[index], "label": int(self.labels[index])}

    def __repr__(self) -> str:
        return f"ClassSource({self.images!r})"


def is_image(name: str) -> bool:
    """Whether a file is taken for an image: its name is not hidden and has the ending of one."""
    own = name.rpartition("/")[2]
    return own.lower().endswith(EXTENSIONS) and not own.startswith(".")


def class_names(root: str) -> tuple[str, ...]:
    """The classes below ``root``, sorted: its folders, or its files ``<class>.tar``.

    Raises:
        DataError: Missing, unreadable, or with folders and tars: unpacked in part.
    """
    folders = subfolders(root)
    tars = sorted(name[:-4] for name in os.listdir(root) if name.endswith(".tar") and not name.startswith("."))
    if folders and tars:
        raise DataError(
            f"{root} has class folders ({folders[0]}, ...) and tars ({tars[0]}.tar, ...)",
            why="it is not clear whether the tars were unpacked",
            fix="unpack all of them and remove them, or none",
        )
    return tuple(sorted(folders)) or tuple(tars)


def open_folders(root: str, classes: Sequence[str], *, name: str, partial: bool) -> ClassSource:
    """Images in ``root/<class>/**``, or in ``root/<class>.tar``: an archive of archives that was unpacked once.

    Args:
        root: The folder.
        classes: Class folders in label order.
        name: Of the data set, for messages.
        partial: Classes may be missing.

    Raises:
        DataError: A class unknown, missing or without images; images beside the class folders; folders and tars.
    """
    found = class_names(root)
    if has_images(root):
        raise DataError(
            f"{name}: {root} has images beside its class folders",
            why="an image that is in no class folder has no label",
            fix="put each image into the folder of its class",
        )
    check_classes(name, found, classes, partial=partial)
    if not found:
        raise DataError(f"{name}: {root} has no class folders", fix=f"check the path; {classes[0]!r} is one of them")
    here = set(found)
    present = [(label, cls) for label, cls in enumerate(classes) if cls in here]
    counts: list[int] = []
    images: Files | Members
    if os.path.isdir(os.path.join(root, present[0][1])):
        images = Files(root, _walk(root, [cls for _, cls in present], counts))
    else:
        images = _members([os.path.join(root, cls + ".tar") for _, cls in present], counts)
    return ClassSource(images, np.repeat(np.asarray([label for label, _ in present], np.int32), counts))


def open_archive(path: str, classes: Sequence[str], *, name: str, partial: bool) -> ClassSource:
    """Images of a tar of tars, ``<class>.tar/<image>``. Arguments and errors as :func:`open_folders`."""
    index = open_index(path, nested=True)
    ranks = {cls: label for label, cls in enumerate(classes)}
    members, labels, found = array("q"), array("i"), set()
    for member, where in enumerate(index.names):
        outer, inside, own = where.rpartition(".tar/")
        if not is_image(own):
            continue
        if not inside:
            raise DataError(
                f"{name}: {path} has the image {where!r} beside the tars of the classes",
                why="an image that is in no class has no label",
                fix="take the archive as it is distributed",
            )
        cls = outer.rpartition("/")[2]
        found.add(cls)
        members.append(member)
        labels.append(ranks.get(cls, -1))
    check_classes(name, sorted(found), classes, partial=partial)
    if not found:
        raise DataError(f"{name}: {path} has no images", fix="take the archive as it is distributed")
    table = np.frombuffer(members, np.int64), np.frombuffer(labels, np.int32)
    order = np.argsort(table[1], kind="stable")
    ordered, sorted_labels = table[0][order], table[1][order]
    # Names a class at a time: all at once would not fit beside the index.
    starts = [0, *(np.flatnonzero(np.diff(sorted_labels)) + 1).tolist(), len(ordered)]
    for start, end in itertools.pairwise(starts):
        ordered[start:end] = sorted(ordered[start:end].tolist(), key=index.names.__getitem__)
    return ClassSource(Members([index], ordered), sorted_labels)


def check_files(root: str, files: Sequence[str], *, listed: str) -> None:
    """Raises a DataError where a file that a list names is not there; reads each folder once.

    Args:
        root: The folder.
        files: Paths below it with ``/``.
        listed: The list, for messages.
    """
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for file in files:
        if file.startswith("/") or ".." in file.split("/"):
            raise DataError(
                f"{listed} names the image {file!r}, a path that leads out of {root}",
                why="no data set has such a path, and none is followed",
                fix="take the list as it is distributed",
            )
        folder, _, own = file.rpartition("/")
        folders[folder].append(own)
    absent: list[str] = []
    for folder, names in folders.items():
        where = os.path.join(root, folder)
        there = set(os.listdir(where)) if os.path.isdir(where) else set()
        absent += [f"{folder}/{own}" for own in names if own not in there]
    if absent:
        raise DataError(
            f"{len(absent):,} of {len(files):,} images that {listed} names are not in {root}",
            why=f"the first is {absent[0]}",
            fix="unpack the rest of the images, or check the path",
        )


def _walk(root: str, classes: Sequence[str], counts: list[int]) -> Iterable[str]:
    for cls in classes:
        files = list_images(os.path.join(root, cls), labels="none").files
        counts.append(len(files))
        yield from (f"{cls}/{file}" for file in files)


def _members(paths: Sequence[str], counts: list[int]) -> Members:
    tars, members, start = [], array("q"), 0
    for path in paths:
        index = open_index(path)
        images = [member for member, where in enumerate(index.names) if is_image(where)]
        if not images:
            raise DataError(f"{path} has no images", why="every class has some", fix="fetch it again, or remove it")
        tars.append(index)
        members.extend(start + member for member in sorted(images, key=index.names.__getitem__))
        counts.append(len(images))
        start += len(index)
    return Members(tars, members)
