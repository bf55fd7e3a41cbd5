"""ImageNet-21K, Deng et al., CVPR 2009, in the releases of Fall 2011 and Winter 2021, and ImageNet-21K-P of each.

ImageNet-21K-P, Ridnik et al., arXiv:2104.10972, keeps the classes with more than 500 images and splits them.

Deviation: "ImageNet-21K, a superset of ImageNet-1K" of published models is not a release. ``superset=True`` is what its
15 million images come to: all of Fall 2011 and, after it, all of ImageNet-1K's training images, without a look at
copies; the class n04399382 (teddy), which Fall 2011 lacks, is added.
"""

from __future__ import annotations

import dataclasses
import functools
import os

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.classes import ClassSource
from spendflops.parts.sources.imagenet import LICENCE, SIZES, WNIDS, open_train
from spendflops.parts.sources.published import PublishedDataset
from spendflops_plugins.imagenet21k import releases
from spendflops_plugins.imagenet21k.superset import join

INFO = DatasetInfo(
    name="imagenet21k",
    features={"image": "uint8 H W C", "label": "int32"},
    licence=LICENCE,
    citation="Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009; of the releases ..._p: "
    "Ridnik et al., ImageNet-21K Pretraining for the Masses, NeurIPS 2021, arXiv:2104.10972",
    homepage="https://www.image-net.org",
)


class ImageNet21K(PublishedDataset):
    """The split ``train``, and ``val`` of the releases that have one.

    Fall 2011 and Winter 2021 have no official split: part of ``train`` serves, as ``train[0/100]`` and
    ``train[1/100]``. ``fall11_whole.tar`` is read as it is distributed; ``winter21_whole.tar.gz`` is compressed and has
    to be unpacked, with ``tar -xzf`` (its tars, one a class, may stay) or with ``gunzip``. Class folders and one tar a
    class are read from ``path``, or from ``fall11_whole`` or ``winter21_whole`` in it; ImageNet-21K-P from
    ``imagenet21k_train`` and ``imagenet21k_val``, or from these in ``imagenet21k_resized``. The classes that are there
    say which release it is: another than ``release`` is an error.

    Labels are ranks of the sorted WordNet ids. The list of Fall 2011 is known; of the other releases only its length
    and, for ImageNet-21K-P, its hash. They are taken from ``classes_file`` or from the disk; without either, a plan
    calls the classes "class 0", "class 1", ... A part (``partial``) of these releases that comes without a
    ``classes_file`` has labels of its own: ranks among the classes that are there.

    Args:
        path: The folder; None where nothing is read.
        partial: The copy is a part: images and classes may be missing.
        release: ``fall11``, ``winter21``, ``fall11_p`` or ``winter21_p``.
        classes_file: Text with a WordNet id a line, for the releases whose list is not known.
        superset: Fall 2011 and ImageNet-1K's training images, 21,842 classes.
        imagenet1k_path: For ``superset``: the folder of ImageNet-1K, in any form that ``imagenet1k`` reads.
        union: For ``superset``: images of ImageNet-1K whose file name Fall 2011 has in the same class are left out. How
            many remain is not published, so that the size is not known before it is opened.

    Raises:
        ConfigError: An unknown release, or options that do not go together.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        partial: bool = False,
        release: str = "fall11",
        classes_file: str | None = None,
        superset: bool = False,
        imagenet1k_path: str | None = None,
        union: bool = False,
    ):
        if release not in releases.RELEASES:
            known = list(releases.RELEASES)
            raise ConfigError(
                f"imagenet21k has no release {release!r}{suggest(release, known)}", fix=f"use one of {known}"
            )
        if superset and release != "fall11":
            raise ConfigError(
                f"a superset of ImageNet-1K is not made from {release}",
                why="the one that is published about has Fall 2011",
                fix="set release='fall11', or leave superset out",
            )
        if (union or imagenet1k_path is not None) and not superset:
            raise ConfigError("union and imagenet1k_path are options of superset", fix="set superset=True")
        if classes_file is not None and release == "fall11":
            raise ConfigError("the classes of fall11 are known", fix="leave classes_file out")
        self.release, self.superset, self.union = release, superset, union
        self._known = releases.RELEASES[release]
        self._classes_file, self._whole = _absolute(classes_file), not partial
        self._imagenet1k = _absolute(imagenet1k_path)
        sizes = dict(self._known.sizes)
        if superset:
            sizes["train"] += SIZES["train"]
        # The size of a union is nowhere published; its two halves are checked instead.
        super().__init__(dataclasses.replace(INFO, sizes=sizes), path=path, partial=partial or union)

    @property
    def info(self) -> DatasetInfo:  # type: ignore[override]  # classes may have to be read
        """Static where the classes are known, else with those of ``classes_file`` or of the disk.

        Raises:
            DataError: The file or the folder is there and is not the release's.
        """
        return dataclasses.replace(self._static, classes=self._classes)

    @info.setter
    def info(self, value: DatasetInfo) -> None:
        self._static = value

    @functools.cached_property
    def _classes(self) -> tuple[str, ...]:
        if self.superset:
            return tuple(sorted({*releases.FALL11, *WNIDS}))
        if self.release == "fall11":
            return releases.FALL11
        if self._classes_file is not None:
            return releases.read_classes(self._classes_file, self.release)
        if self.path is None or not os.path.isdir(self.path):
            return tuple(f"class {label}" for label in range(self._known.classes))
        return releases.find(self.path, self.release, "train", partial=not self._whole).classes

    def open(self, root: str, split: str, features: tuple[str, ...]) -> ClassSource:
        """Images of ``split``; ``label`` comes with each."""
        found = releases.find(root, self.release, split, partial=not self._whole)
        classes = releases.FALL11 if self.release == "fall11" else self._classes
        source = found.open(classes, partial=not self._whole)
        self._count(source, found.place, self._known.sizes[split])
        if not self.superset:
            return source
        if self._imagenet1k is None or not os.path.isdir(self._imagenet1k):
            raise DataError(
                "imagenet21k: the superset needs ImageNet-1K",
                why="no imagenet1k_path was given"
                if self._imagenet1k is None
                else f"folder {self._imagenet1k} is not there",
                fix="give the folder of ImageNet-1K as imagenet1k_path",
            )
        other = open_train(self._imagenet1k, WNIDS, partial=not self._whole)
        self._count(other, self._imagenet1k, SIZES["train"])
        return join(source, other, classes=self._classes, of=(classes, WNIDS), union=self.union)

    def _count(self, source: ClassSource, place: str, expected: int) -> None:
        if self._whole and len(source) != expected:
            raise DataError(
                f"imagenet21k: {place} has {len(source):,} images, published are {expected:,}",
                why="the copy is not complete, or has files that do not belong to it",
                fix="`spendflops data verify` lists what is wrong; partial=True says that a part is meant",
            )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(path))
