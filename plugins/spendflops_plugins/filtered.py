"""A part of a data set by what its examples are: a curated set of an uncurated one.

Koppula et al. 2022 (arXiv 2209.15589) compare curated data (ImageNet, COCO) with uncurated ones (JFT, ALIGN). This is
the same question with one set: the same images with and without a rule.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts.splits import Subset, image_digests, parse_split, select

REASONS = ("classes", "min_side", "max_aspect", "min_words", "max_words", "exclude")
"""Rules in the order in which they are asked: an example is counted for the first that leaves it out."""


class Filtered(Dataset):
    """The examples of ``dataset`` that pass every rule, in their order.

    Every example is looked at once when a split is opened: its label, the header of its image, its caption, or, for
    ``exclude``, all bytes of its image; nothing is decoded. ``source.left_out`` counts by rule, also in ``repr``. For
    large sets do it once: ``spendflops data prepare`` writes what is left to ArrayRecord.

    Args:
        dataset: What is filtered.
        classes: Names of the classes to keep; labels are then numbers of this list.
        min_side: Pixels of the shorter side, at least.
        max_aspect: The longer side is at most this many times the shorter one.
        min_words, max_words: Words of the caption, separated by white space.
        exclude: A data set whose images are left out, by their stored bytes: one that will be a test.
        exclude_split: Of it.
        name: Of the result; by default that of the data set with "filtered".

    Raises:
        ConfigError: No rule at all, a rule about a feature that the data set lacks, a number out of range, an unknown
            class.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        classes: Sequence[str] | None = None,
        min_side: int = 0,
        max_aspect: float | None = None,
        min_words: int = 0,
        max_words: int | None = None,
        exclude: Dataset | None = None,
        exclude_split: str = "test",
        name: str = "",
    ):
        if not isinstance(dataset, Dataset):
            raise ConfigError(f"filtered.dataset is {dataset!r}", fix="give a Dataset, in gin with ()")
        info = dataset.info
        unknown = [c for c in classes or () if c not in info.classes]
        if unknown:
            near = suggest(unknown[0], info.classes)
            raise ConfigError(f"{info.name} has no class {unknown[0]!r}{near}", fix="write names of its classes")
        if min_side < 0 or min_words < 0 or (max_aspect or 1) < 1 or (max_words or min_words) < min_words:
            raise ConfigError(
                f"filtered: min_side={min_side}, max_aspect={max_aspect}, words {min_words} to {max_words}",
                fix="sides and words from 0 on, an aspect of at least 1, max_words not below min_words",
            )
        self._rules = {
            "classes": classes is not None,
            "min_side": min_side > 0,
            "max_aspect": max_aspect is not None,
            "min_words": min_words > 0,
            "max_words": max_words is not None,
            "exclude": exclude is not None,
        }
        if not any(self._rules.values()):
            raise ConfigError("filtered has no rule", fix=f"set one of {', '.join(REASONS)}")
        self._reads = tuple(f for f, rules in _READ.items() if any(self._rules[r] for r in rules))
        for feature in self._reads:
            if feature not in info.features:
                rule = next(r for r in _READ[feature] if self._rules[r])
                raise ConfigError(
                    f"the rule {rule} reads {feature!r}", why=f"{info.name} has {', '.join(info.features)}"
                )
        self._dataset, self._classes = dataset, None if classes is None else tuple(classes)
        self._min_side, self._max_aspect, self._words = min_side, max_aspect, (min_words, max_words)
        self._exclude, self._exclude_split = exclude, exclude_split
        self._kept: dict[str, tuple[np.ndarray, dict[str, int]]] = {}
        words = dict(zip(info.classes, info.class_names, strict=False))
        self.info = DatasetInfo(
            name=name or f"{info.name} filtered",
            features=info.features,
            classes=info.classes if self._classes is None else self._classes,
            class_names=info.class_names if self._classes is None else tuple(words[c] for c in self._classes if words),
            label_names=info.label_names,
            mask_classes=info.mask_classes,
            box_classes=info.box_classes,
            licence=info.licence,
            citation=info.citation,
            homepage=info.homepage,
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> FilteredSource:
        """What is left of ``split``.

        Raises:
            ConfigError: A feature that the data set does not have.
            DataError: Nothing is left; or what the data set raises.
        """
        for feature in features:
            if feature not in self.info.features:
                has = ", ".join(self.info.features)
                raise ConfigError(f"{self.info.name} has no feature {feature!r}", why=f"it has {has}")
        if split not in self._kept:
            self._kept[split] = self._filter(split)
        kept, left_out = self._kept[split]
        labels = None
        if self._classes is not None and "label" in features:
            labels = {self._dataset.info.classes.index(c): number for number, c in enumerate(self._classes)}
        return FilteredSource(self._dataset.source(split, features=features), kept, left_out, labels)

    def _filter(self, split: str) -> tuple[np.ndarray, dict[str, int]]:
        known = self._digests()
        source = self._dataset.source(split, features=self._reads)
        with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            verdicts = list(pool.map(lambda index: self._verdict(source[index], known), range(len(source))))
        counts = collections.Counter(verdicts)
        left_out = {reason: counts[reason] for reason in REASONS if self._rules[reason]}
        kept = np.flatnonzero([verdict == "" for verdict in verdicts])
        if not len(kept):
            raise DataError(
                f"nothing is left of {self._dataset.info.name}:{split}",
                why=", ".join(f"{reason} leaves out {count}" for reason, count in left_out.items()),
                fix="weaker rules",
            )
        return kept, left_out

    def _digests(self) -> frozenset[str]:
        if self._exclude is None:
            return frozenset()
        wanted = parse_split(self._exclude_split)
        return image_digests(select(self._exclude.source(wanted.name, features=("image",)), wanted))

    def _verdict(self, sample: Sample, known: frozenset[str]) -> str:
        """The first rule that leaves an example out, or nothing."""
        if self._classes is not None and not self._has_class(int(sample["label"])):
            return "classes"
        if self._rules["min_side"] or self._rules["max_aspect"]:
            shorter, longer = sorted(sample["image"].size)
            if shorter < self._min_side:
                return "min_side"
            if self._max_aspect is not None and longer > self._max_aspect * shorter:
                return "max_aspect"
        if self._rules["min_words"] or self._rules["max_words"]:
            words, (least, most) = len(sample["caption"].split()), self._words
            if words < least:
                return "min_words"
            if most is not None and words > most:
                return "max_words"
        return "exclude" if known and sample["image"].digest() in known else ""

    def _has_class(self, label: int) -> bool:
        return label >= 0 and self._dataset.info.classes[label] in (self._classes or ())


_READ = {
    "label": ("classes",),
    "image": ("min_side", "max_aspect", "exclude"),
    "caption": ("min_words", "max_words"),
}


class FilteredSource(Subset):
    """Examples ``kept`` of a source; ``left_out`` counts the others by rule, beside what the source left out.

    Args:
        source: What was filtered.
        kept: Their places.
        left_out: Rule -> examples.
        labels: Number of a class there -> here; None keeps them.
    """

    def __init__(self, source: Source, kept: np.ndarray, left_out: dict[str, int], labels: dict[int, int] | None):
        super().__init__(source, kept)
        self._gone, self._labels = dict(left_out), labels
        self.left_out = {**self.left_out, **left_out}

    def __getitem__(self, index: int) -> Sample:
        sample: dict[str, Any] = dict(super().__getitem__(index))
        if self._labels is not None:
            sample["label"] = self._labels[int(sample["label"])]
        return sample

    def __repr__(self) -> str:
        gone = ", ".join(f"{count} by {rule}" for rule, count in self._gone.items())
        return f"{super().__repr__()}, left out {gone}"
