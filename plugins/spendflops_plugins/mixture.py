"""Several data sets as one, drawn by weight."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts.splits import parse_split, select

SLOTS = 1000
"""Examples in which the weights come out exact, to a thousandth of the whole."""

_NUMBERED = {
    "label": "classes",
    "labels": "classes",
    "mask": "mask_classes",
    "box_labels": "box_classes",
    "neg_labels": "box_classes",
    "open_labels": "box_classes",
}
"""Features that number the names in a field of the information."""


class Mixture(Dataset):
    """Examples of several data sets in the proportion of their weights.

    In every 1,000 examples in a row, in the mixture's own order, each data set has its share, spread evenly. One pass
    shows every example of every set at least once; a set with more weight than its size deserves is repeated within it.
    Features are those that all sets have. Sets must agree on the classes of what they share.

    Args:
        datasets: The sets.
        weights: A positive number each; they need not sum to one. By default the number of examples.
        splits: The split of each, parts included; by default the split that is asked for.
        name: Of the mixture; by default made of the names of its sets.

    Raises:
        ConfigError: No sets, lists of different lengths, or a weight that is not positive or below a thousandth.
    """

    def __init__(
        self,
        *,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        splits: Sequence[str] | None = None,
        name: str = "",
    ):
        self._datasets = tuple(datasets)
        self._weights = None if weights is None else tuple(float(w) for w in weights)
        self._splits = None if splits is None else tuple(splits)
        if not self._datasets or not all(isinstance(d, Dataset) for d in self._datasets):
            raise ConfigError(
                "a mixture needs data sets", fix="datasets = (@a/datasets.folder(), @b/datasets.folder())"
            )
        for what, given in (("weights", self._weights), ("splits", self._splits)):
            if given is not None and len(given) != len(self._datasets):
                raise ConfigError(f"a mixture of {len(self._datasets)} data sets has {len(given)} {what}")
        if self._weights is not None and not all(np.isfinite(w) and w > 0 for w in self._weights):
            raise ConfigError(f"weights {self._weights} are not all positive", fix="leave a set out that has none")
        infos = [d.info for d in self._datasets]
        features = {f: spec for f, spec in infos[0].features.items() if all(i.features.get(f) == spec for i in infos)}
        for feature, kind in _NUMBERED.items():
            if feature in features and len({getattr(i, kind) for i in infos}) > 1:
                # A label would be a number with several meanings.
                del features[feature]
        shared = len({i.classes for i in infos}) == 1
        self.info = DatasetInfo(
            name=name or "+".join(i.name for i in infos),
            features=features,
            classes=infos[0].classes if shared else (),
            class_names=infos[0].class_names if shared else (),
            mask_classes=infos[0].mask_classes if "mask" in features else (),
            box_classes=infos[0].box_classes if "box_labels" in features else (),
            sizes=self._sizes(),
            licence="; ".join(dict.fromkeys(f"{i.name}: {i.licence}" for i in infos)),
            citation="; ".join(dict.fromkeys(i.citation for i in infos if i.citation)),
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image",)) -> MixtureSource:
        """The mixture of ``split``, or of the splits that were given at construction.

        Raises:
            ConfigError: A feature that not all sets have.
            DataError: What the sets raise.
        """
        for feature in features:
            if feature not in self.info.features:
                raise ConfigError(
                    f"mixture {self.info.name} has no feature {feature!r}",
                    why=f"all its sets have, with the same classes: {', '.join(self.info.features) or 'none'}",
                )
        sources = []
        for dataset, wanted in zip(self._datasets, self._wanted(split), strict=True):
            parsed = parse_split(wanted)
            sources.append(select(dataset.source(parsed.name, features=features), parsed))
        return MixtureSource(tuple(sources), shares(self._weights or [len(s) for s in sources]))

    def composition(self, split: str) -> dict[str, tuple[int, float]]:
        """Name of each set -> (its examples, its part of the mixture); sets without known sizes are opened."""
        wanted = zip(self._datasets, self._wanted(parse_split(split).name), strict=True)
        sizes = [_size(dataset, text) for dataset, text in wanted]
        counts = shares(self._weights or sizes)
        found: dict[str, tuple[int, float]] = {}
        for number, (dataset, size, count) in enumerate(zip(self._datasets, sizes, counts, strict=True)):
            name = dataset.info.name
            found[f"{name}#{number + 1}" if name in found else name] = (size, count / SLOTS)
        return found

    def _wanted(self, split: str) -> tuple[str, ...]:
        return self._splits or (split,) * len(self._datasets)

    def _sizes(self) -> dict[str, int]:
        """Of the splits whose parts are known without a disk."""
        known = {}
        for split in self._datasets[0].info.sizes:
            wanted = list(zip(self._datasets, self._wanted(split), strict=True))
            if all(parse_split(text).name in dataset.info.sizes for dataset, text in wanted):
                sizes = [_size(dataset, text) for dataset, text in wanted]
                known[split] = length(sizes, shares(self._weights or sizes))
        return known


def _size(dataset: Dataset, split: str) -> int:
    parsed = parse_split(split)
    if parsed.name not in dataset.info.sizes:
        return len(select(dataset.source(parsed.name, features=("image",)), parsed))
    begin, end = parsed.bounds(dataset.info.sizes[parsed.name])
    return end - begin


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Examples of each set in :data:`SLOTS`, by largest remainder.

    Raises:
        ConfigError: A set would have none.
    """
    parts = np.asarray(weights, np.float64) / np.sum(weights) * SLOTS
    counts = np.floor(parts).astype(int)
    for place in np.argsort(counts - parts, kind="stable")[: SLOTS - counts.sum()]:
        counts[place] += 1
    if counts.min() < 1:
        raise ConfigError(
            f"weight {weights[int(counts.argmin())]} is less than a thousandth of {sum(weights)}",
            fix="raise it, or leave the set out",
        )
    return tuple(counts.tolist())


def length(sizes: Sequence[int], counts: Sequence[int]) -> int:
    """Examples of one pass: the fewest whole thousands in which every example of every set appears.

    Raises:
        DataError: A set without examples.
    """
    if min(sizes) < 1:
        raise DataError("a data set of the mixture has no examples", fix="check its path and its split")
    return SLOTS * max(-(-size // count) for size, count in zip(sizes, counts, strict=True))


@dataclasses.dataclass(frozen=True)
class MixtureSource:
    """Example i is slot i % 1,000 of block i // 1,000; a slot belongs to one set, whose examples follow in order."""

    sources: tuple[Source, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} examples")
        block, slot = divmod(index, SLOTS)
        which, rank = (int(x) for x in self._slots[slot])
        source = self.sources[which]
        return source[(block * self.counts[which] + rank) % len(source)]

    def __repr__(self) -> str:
        parts = ", ".join(f"{c / SLOTS:.1%} {s!r}" for c, s in zip(self.counts, self.sources, strict=True))
        return f"MixtureSource({parts})"

    @property
    def left_out(self) -> dict[str, int]:
        """What its sets leave out, by reason."""
        counts: collections.Counter[str] = collections.Counter()
        for source in self.sources:
            counts.update(getattr(source, "left_out", {}))
        return dict(counts)

    @functools.cached_property
    def _length(self) -> int:
        return length([len(s) for s in self.sources], self.counts)

    @functools.cached_property
    def _slots(self) -> np.ndarray:
        """int [SLOTS 2]: set and rank within its share of a block; the shares are spread evenly."""
        places = [
            ((rank + 0.5) / count, which, rank) for which, count in enumerate(self.counts) for rank in range(count)
        ]
        return np.asarray([(which, rank) for _, which, rank in sorted(places)])
