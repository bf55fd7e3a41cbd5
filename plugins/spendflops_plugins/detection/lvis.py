"""LVIS v1, Gupta et al., arXiv:1908.03195: 1,203 classes on the photographs of COCO, most of them rare.

An image is annotated for some classes only. Of those that are known not to be in it (``neg_labels``) every detection is
wrong; of those of which not all instances are marked (``open_labels``) an unmatched detection says nothing; of all
others without a box nothing is known.

``lvis_categories.txt`` has, for the ids 1 to 1,203 in their order, the images of the training split that show a class,
and its name, as in the categories of ``lvis_v1_train.json``. A class is rare with up to 10 images, common with up to
100, else frequent.

Deviation: Gupta et al. and detectron2 round repeat factors anew in every epoch; here each image has one number of
copies, drawn once, so that a data set has a length and an order.
"""

from __future__ import annotations

import dataclasses
import os
from importlib import resources

import numpy as np
from jaxtyping import Float64, Int64

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.coco import FEATURES, CocoSource, check_invalid, open_index
from spendflops.parts.sources.coco_index import Categories, CocoIndex
from spendflops.parts.sources.published import PublishedDataset

_LINES = resources.files(__package__).joinpath("lvis_categories.txt").read_text("utf-8").splitlines()
_PAIRS = [line.split(" ", 1) for line in _LINES]
CATEGORIES = Categories(ids=tuple(range(1, len(_PAIRS) + 1)), names=tuple(name for _, name in _PAIRS))
"""Labels are one less than ids."""
IMAGE_COUNTS = tuple(int(count) for count, _ in _PAIRS)
"""Images of the training split with each class, in the order of the labels."""

_OF_COCO = ("image", "image_id", "boxes", "box_labels", "area", "box_ids", "instance_masks", "labels")
INFO = DatasetInfo(
    name="lvis",
    features={name: FEATURES[name] for name in _OF_COCO} | {"neg_labels": "int32 M", "open_labels": "int32 M"},
    classes=CATEGORIES.names,
    box_classes=CATEGORIES.names,
    box_counts=IMAGE_COUNTS,
    sizes={"train": 100_170, "val": 19_809},
    licence="annotations CC-BY-4.0; images under the terms of Flickr, each with its own licence",
    citation="Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019, arXiv:1908.03195",
    homepage="https://www.lvisdataset.org",
)


class LVIS(PublishedDataset):
    """The splits ``train`` and ``val``, in the order of the image ids.

    Read are ``lvis_v1_{train,val}.json`` and the images of COCO 2017, which lie in ``train2017/`` and ``val2017/``
    whatever their split of LVIS, in ``path`` or in ``path/images``. The features are those of the data set ``coco``;
    ``box_labels`` are 0..1202, there are no crowds. ``neg_labels`` and ``open_labels`` are classes as described above.

    Validation images of one are training images of the other, LVIS and COCO: what was trained on one must not be scored
    on the other.

    Args:
        path: The folder of the images; None where nothing is read.
        annotations: The folder of the JSON files; by default ``path/annotations``.
        partial: The copy is a part: the annotations may have fewer images.
        annotated_only: Only images with a box.
        repeat_threshold: Training images with a class that fewer than this part of them shows come several times, as
            :func:`repeat_factors` says; Gupta et al. take 0.001. 0 repeats nothing.
        repeat_seed: Of the rounding of the factors.
        invalid: ``fail``, or ``drop``: annotations that cannot be meant are left out and counted, see
            :mod:`spendflops.parts.sources.coco`.

    Raises:
        ConfigError: Unknown ``invalid``, a ``repeat_threshold`` outside 0..1.
    """

    categories = CATEGORIES

    def __init__(
        self,
        *,
        path: str | None = None,
        annotations: str | None = None,
        partial: bool = False,
        annotated_only: bool = False,
        repeat_threshold: float = 0.0,
        repeat_seed: int = 0,
        invalid: str = "fail",
    ):
        check_invalid(invalid)
        if not 0 <= repeat_threshold <= 1:
            raise ConfigError(f"lvis: repeat_threshold is {repeat_threshold}", fix="a part of the images, 0 to 1")
        super().__init__(INFO, path=path, partial=partial)
        self._annotations = None if annotations is None else os.path.abspath(os.path.expanduser(annotations))
        self._annotated_only, self._invalid = annotated_only, invalid
        self._threshold, self._seed = repeat_threshold, repeat_seed
        # How many images are left, and how often they come, is not known without the annotations.
        known = {split: size for split, size in self.info.sizes.items() if not self._chosen(split)}
        self.info = dataclasses.replace(self.info, sizes=known)

    def held(self, source: CocoSource) -> int:  # type: ignore[override]  # it is what `open` gives
        """Images that the annotations list."""
        return len(source.index)

    def open(self, root: str, split: str, features: tuple[str, ...]) -> CocoSource:
        """Samples of ``split``."""
        folder = self._annotations or os.path.join(root, "annotations")
        file = os.path.join(folder, f"lvis_v1_{split}.json")
        index = open_index(file, invalid=self._invalid, masks="instance_masks" in features)
        copies = self._copies(index, split) if self._chosen(split) else None
        return CocoSource(_images(root), index, features=features, categories=CATEGORIES, repeats=copies)

    def _chosen(self, split: str) -> bool:
        """Whether a split has other examples than its images, each once."""
        return self._annotated_only or (split == "train" and self._threshold > 0)

    def _copies(self, index: CocoIndex, split: str) -> Int64[np.ndarray, " images"]:
        shown = np.diff(index.starts) > 0 if self._annotated_only else np.ones(len(index), bool)
        if split != "train" or not self._threshold:
            return shown.astype(np.int64)
        factors = repeat_factors(index, self._threshold, images=int(shown.sum()))
        return np.where(shown, rounded(factors, self._seed), 0)


def repeat_factors(index: CocoIndex, threshold: float, *, images: int) -> Float64[np.ndarray, " images"]:
    """How often each image should come: the factor of its rarest class (Gupta et al., appendix B.2).

    The factor of a class is ``max(1, sqrt(threshold / f))``, f being the part of the images that show it; that of an
    image without boxes is 1.

    Args:
        index: The annotations.
        threshold: f below which images are repeated.
        images: Of how many f is a part.
    """
    image = np.repeat(np.arange(len(index)), np.diff(index.starts))
    pairs = np.unique(np.stack([image, index.rows["category"]], axis=1), axis=0)
    _, place, counts = np.unique(pairs[:, 1], return_inverse=True, return_counts=True)
    factors = np.ones(len(index))
    np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold * images / counts)[place])
    return factors


def rounded(factors: Float64[np.ndarray, " n"], seed: int) -> Int64[np.ndarray, " n"]:
    """Whole numbers whose expectation over seeds are ``factors``: the part after the point is a probability."""
    # The words of a bit generator stay the same for ever; what NumPy draws from them need not.
    uniform = (np.random.Philox(key=seed).random_raw(len(factors)) >> np.uint64(11)) * 2.0**-53
    whole = np.floor(factors)
    return (whole + (uniform < factors - whole)).astype(np.int64)


def _images(root: str) -> str:
    """The folder in which ``train2017`` or ``val2017`` lies."""
    places = [root, os.path.join(root, "images")]
    for place in places:
        if any(os.path.isdir(os.path.join(place, name)) for name in ("train2017", "val2017")):
            return place
    raise DataError(
        f"lvis: {root} has no folder train2017 or val2017",
        why=f"neither {places[0]} nor {places[1]} has one",
        fix="give the folder of COCO 2017, into which train2017.zip and val2017.zip were unpacked",
    )
