"""The releases of ImageNet-21K: what is known of each, where its images lie, and which one a folder holds."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources

from spendflops.contracts.errors import DataError
from spendflops.parts.sources.classes import ClassSource, class_names, open_archive, open_folders
from spendflops.parts.sources.tar import open_index

FALL11: tuple[str, ...] = tuple(resources.files(__package__).joinpath("fall11.txt").read_text("utf-8").split())
"""The WordNet ids of Fall 2011, sorted. All other releases have some of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """What is known of a release without its images.

    Attributes:
        title: Its name in words.
        classes: How many.
        sha256: Of the sorted WordNet ids, one a line; empty where no list is published.
        sizes: Images by split.
    """

    title: str
    classes: int
    sha256: str
    sizes: Mapping[str, int]


RELEASES: dict[str, Release] = {
    "fall11": Release(
        title="Fall 2011",
        classes=21_841,
        sha256="0ae24538751973797b29d8dec412b2bdc61bc4ec3ecd081eba0735804236bbd2",
        sizes={"train": 14_197_122},
    ),
    "winter21": Release(title="Winter 2021", classes=19_167, sha256="", sizes={"train": 13_153_500}),
    "fall11_p": Release(
        title="ImageNet-21K-P of Fall 2011",
        classes=11_221,
        sha256="cd76d977daaa2f13a4a91fca0f53713f2f29675308d4ce0f0ee0e5b07a3164c6",
        sizes={"train": 11_797_632, "val": 561_052},
    ),
    "winter21_p": Release(
        title="ImageNet-21K-P of Winter 2021",
        classes=10_450,
        sha256="f49dde3d69946b8635586432f34f35985f807d168286ce5fde746aac3a7d94c8",
        sizes={"train": 11_060_223, "val": 522_500},
    ),
}
"""Counts from image-net.org and from the description of ImageNet-21K-P's processing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Images of a release: class folders, tars a class, or an archive of these."""

    place: str
    archive: bool
    classes: tuple[str, ...]

    def open(self, classes: Sequence[str], *, partial: bool) -> ClassSource:
        """The images, with ranks among ``classes`` as labels."""
        opener = open_archive if self.archive else open_folders
        return opener(self.place, classes, name="imagenet21k", partial=partial)


def identify(classes: Sequence[str]) -> str | None:
    """The release whose class list this is, None if it is none's."""
    digest = _digest(classes)
    for name, release in RELEASES.items():
        if release.sha256 == digest:
            return name
        if not release.sha256 and len(classes) == release.classes and set(classes) <= set(FALL11):
            return name
    return None


def find(root: str, release: str, split: str, *, partial: bool) -> Found:
    """Where the images of a split lie; the images themselves are not looked at.

    Raises:
        DataError: Nothing there, only a compressed archive, or the classes are not the release's.
    """
    if release.endswith("_p"):
        place = _processed(root, split)
        found = Found(place=place, archive=False, classes=class_names(place))
    else:
        found = _whole(root, release)
    _check(found, release, partial=partial)
    return found


def read_classes(path: str, release: str) -> tuple[str, ...]:
    """The WordNet ids in a text file, one a line, sorted.

    Raises:
        DataError: Unreadable, or not the classes of the release.
    """
    try:
        with open(path, encoding="utf-8") as file:
            classes = tuple(sorted(file.read().split()))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix="correct classes_file") from error
    if len(set(classes)) != len(classes):
        raise DataError(f"{path} has a class twice", fix="take it out")
    _check(Found(place=path, archive=False, classes=classes), release, partial=False)
    return classes


def _check(found: Found, release: str, *, partial: bool) -> None:
    wanted, known = RELEASES[release], set(FALL11)
    unknown = next((name for name in found.classes if name not in known), None)
    if unknown is not None:
        raise DataError(
            f"{found.place} has {unknown!r}, which is not a class of ImageNet-21K",
            why="every release has some of the classes of Fall 2011",
            fix="take away what does not belong to it",
        )
    actual = identify(found.classes)
    if actual not in (None, release):
        raise DataError(
            f"{found.place} holds {RELEASES[actual].title}, not {wanted.title}",
            why=f"it has exactly the {len(found.classes):,} classes of release={actual!r}",
            fix=f"set release={actual!r}, or give the folder of {wanted.title}",
        )
    if actual is None and not partial:
        count = len(found.classes)
        raise DataError(
            f"{found.place} does not have the classes of {wanted.title}",
            why=f"it has {count:,} classes, {wanted.title} has {wanted.classes:,}"
            + (", and these are others" if count == wanted.classes else ""),
            fix="unpack all of it; partial=True says that a part is meant",
        )


def _processed(root: str, split: str) -> str:
    name = f"imagenet21k_{split}"
    for place in (os.path.join(root, name), os.path.join(root, "imagenet21k_resized", name)):
        if os.path.isdir(place):
            return place
    raise _nothing(root, f"the folder {name}")


def _whole(root: str, release: str) -> Found:
    # Of both releases: a copy of the other one is better named than not found.
    names = tuple(dict.fromkeys([f"{release}_whole", "fall11_whole", "winter21_whole"]))
    for name in names:
        folder, archive = os.path.join(root, name), os.path.join(root, name + ".tar")
        if os.path.isdir(folder):
            return Found(place=folder, archive=False, classes=class_names(folder))
        if os.path.isfile(archive):
            inner = [os.path.basename(member) for member in open_index(archive).names]
            classes = sorted(member[: -len(".tar")] for member in inner if member.endswith(".tar"))
            return Found(place=archive, archive=True, classes=tuple(classes))
    classes = class_names(root)
    if set(classes) & set(FALL11):
        return Found(place=root, archive=False, classes=classes)
    for name in names:
        if os.path.isfile(os.path.join(root, name + ".tar.gz")):
            raise DataError(
                f"{os.path.join(root, name)}.tar.gz is compressed",
                why="a compressed archive has no random access",
                fix=f"unpack it with: tar -xzf {name}.tar.gz -C FOLDER, and give FOLDER",
            )
    raise _nothing(root, f"{release}_whole.tar, the folder {release}_whole, or one folder or tar a class")


def _nothing(root: str, wanted: str) -> DataError:
    there = sorted(name for name in os.listdir(root) if not name.startswith("."))
    return DataError(
        f"{root} has no images of ImageNet-21K",
        why=f"it holds {', '.join(there[:5]) or 'nothing'}",
        fix=f"give the folder in which this lies: {wanted}",
    )


def _digest(classes: Sequence[str]) -> str:
    return hashlib.sha256("".join(name + "\n" for name in sorted(classes)).encode("utf-8", "replace")).hexdigest()
