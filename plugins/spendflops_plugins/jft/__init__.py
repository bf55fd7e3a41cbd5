"""JFT-300M, which is private: for those who have it, and for those who have its public stand-in.

Sun et al. 2017, "Revisiting Unreasonable Effectiveness of Data in Deep Learning Era" (arXiv 1707.02968): 18,291 classes
in a hierarchy, several labels an image, about a fifth of them wrong. Koppula et al. 2022, "Where should I spend my
FLOPS?" (arXiv 2209.15589) pre-train on its 302 million images with up to 8 labels each.

The stand-in, COYO-Labeled-300M, has addresses of images and the 50 likeliest of the 21,841 classes of ImageNet-21K with
their probabilities. Its authors count 3.16 labels an image above 0.05, and 96.69 % of the images with any: the others
have empty ``labels``, and do not count in the loss.

Deviation: the paper does not say which 8 of more labels are taken; here those with the highest probability.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from spendflops.contracts.dataset import Source
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.sources.arrayrecord import is_prepared, read_prepared
from spendflops.parts.sources.class_file import read_class_file
from spendflops.parts.sources.published import PublishedDataset
from spendflops_plugins.jft.limits import Limits, PreparedLabels
from spendflops_plugins.jft.shards import ShardLabels, open_shards

__all__ = ["JFT"]

ROUNDED = 0.01
"""By how much of the published number, which is rounded, a whole copy of JFT-300M may differ."""
_FEATURES = {"image": "uint8 H W C", "labels": "int32 M", "label_probs": "float32 M"}

COPIES = {
    "jft300m": DatasetInfo(
        name="jft300m",
        features=_FEATURES,
        classes=tuple(f"class {number}" for number in range(18_291)),
        sizes={"train": 302_000_000},
        licence="private to Google",
        citation="Sun et al., Revisiting Unreasonable Effectiveness of Data in Deep Learning Era, ICCV 2017",
        homepage="https://arxiv.org/abs/1707.02968",
    ),
    "coyo_labeled300m": DatasetInfo(
        name="coyo_labeled300m",
        features=_FEATURES,
        classes=tuple(f"class {number}" for number in range(21_841)),
        sizes={"train": 300_000_000},
        licence="CC-BY-4.0 for the addresses and labels; the images are their owners'",
        citation="Byeon et al., COYO-700M: Image-Text Pair Dataset, 2022; subset COYO-Labeled-300M",
        homepage="https://huggingface.co/datasets/kakaobrain/coyo-labeled-300m",
    ),
}
"""What is known of each copy. The numbers of images are rounded, by their authors."""


class JFT(PublishedDataset):
    """JFT-300M, or its stand-in under its own name.

    Features: ``image``; ``labels`` int32 [M], at most ``max_labels``, the likeliest first; ``label_probs`` float32 [M],
    where there are any.

    ``path`` is a folder that ``spendflops data prepare`` made of this data set, or what img2dataset made of
    COYO-Labeled's addresses with ``--save_additional_columns '["labels", "label_probs"]'``: ``00000.tar`` and so on,
    each with its ``00000.parquet``. A tar and its table are joined when a sample of it is first read; whoever reads
    many shards in random order is better off with a prepared copy. Addresses die, so that the stand-in is never
    complete: how much was found stands in the ``repr`` of a source. ``info.sizes`` has the published numbers only
    without ``path``.

    Args:
        path: The folder; None where nothing is read.
        copy: "jft300m", or "coyo_labeled300m" for the stand-in.
        partial: A part of JFT-300M is meant; otherwise a number of images that is 1 % off is an error.
        max_labels: Labels of an image that are kept.
        min_prob: Labels below this probability are dropped; the authors of the stand-in look at 0.05. It concerns data
            with probabilities alone.
        class_file: Text file with the name of a class a line, in label order.

    Raises:
        ConfigError: An unknown copy, limits that cannot be meant.
        DataError: A class file that does not fit.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        copy: str = "jft300m",
        partial: bool = False,
        max_labels: int = 8,
        min_prob: float = 0.05,
        class_file: str | None = None,
    ):
        if copy not in COPIES:
            raise ConfigError(f"unknown copy {copy!r}{suggest(copy, list(COPIES))}", fix=f"use one of {list(COPIES)}")
        if max_labels < 1 or not 0 <= min_prob <= 1:
            raise ConfigError(
                f"max_labels is {max_labels}, min_prob is {min_prob}", fix="at least 1, and a probability in 0..1"
            )
        published = COPIES[copy]
        if class_file is not None:
            names = read_class_file(class_file)
            if len(names) != len(published.classes):
                raise DataError(
                    f"{class_file} has {len(names):,} classes, {published.name} has {len(published.classes):,}",
                    fix="give the file of all classes, one a line",
                )
            published = dataclasses.replace(published, classes=names)
        # Published numbers are rounded: with a path, none is stated, and how many there are is counted.
        super().__init__(published, path=path, partial=path is not None)
        self._limits = Limits(max_labels=max_labels, min_prob=min_prob, classes=len(published.classes))
        self._exact = copy == "jft300m" and not partial

    def open(self, root: str, split: str, features: tuple[str, ...]) -> Source:
        published = self._published.sizes[split]
        source: Source
        if is_prepared(root):
            source = self._open_prepared(root, split, features, published)
        else:
            source = ShardLabels(root, open_shards(root), self._limits, features, published)
        if self._exact and abs(len(source) - published) > ROUNDED * published:
            raise DataError(
                f"{root} has {len(source):,} images, {self._published.name} has about {published:,}",
                fix="copy the rest; or set partial=True, or copy='coyo_labeled300m' if it is the stand-in",
            )
        return source

    def _open_prepared(self, root: str, split: str, features: Sequence[str], published: int) -> Source:
        prepared, own = read_prepared(root), self._published
        if prepared.info.name != own.name:
            raise DataError(
                f"{root} is a copy of {prepared.info.name}, not of {own.name}",
                why="results on one are not results on the other",
                fix=f"choose copy={prepared.info.name!r}"
                if prepared.info.name in COPIES
                else f"read it under its own name: arrayrecord:{root}",
            )
        if prepared.info.classes != own.classes:
            raise DataError(
                f"{root} was prepared with other classes",
                why=f"{len(prepared.info.classes):,} and {len(own.classes):,} of them, or other names",
                fix="give the class_file that it was prepared with",
            )
        self._limits.check_within(root, prepared.source)
        read = list(features)
        if "labels" in features and "label_probs" in prepared.info.features:
            read.append("label_probs")
        return PreparedLabels(prepared.open(split, list(dict.fromkeys(read))), self._limits, features, published)

    def _root(self) -> str:
        if self.path is None:
            raise DataError(
                f"{self._published.name} has no path",
                why="without one it can be planned with, but not read",
                fix="write --dataset jft:/path/to/it, or bind datasets.jft.path",
            )
        return super()._root()
