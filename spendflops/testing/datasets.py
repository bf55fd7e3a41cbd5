"""The checks of a data set."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset, Source
from spendflops.engine.build import open_source
from spendflops.engine.describe import describe
from spendflops.parts.images import decode_mask
from spendflops.testing.kit import CheckFailed, Skipped, needs
from spendflops.testing.samples import differences, global_state, listed

USUAL = ("train", "val", "validation", "test", "all")


class Subject:
    """A data set and evenly spaced samples of its splits."""

    def __init__(self, cls: type, *, options: Mapping[str, Any], splits: tuple[str, ...] = (), limit: int = 64):
        self.cls, self.options, self.limit, self._splits = cls, dict(options), limit, tuple(splits)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.cls(**self.options)

    @functools.cached_property
    def sources(self) -> dict[str, Source]:
        """Split -> samples with every feature."""
        info, opened = self.dataset.info, {}
        for split in self._splits or tuple(info.sizes) or USUAL:
            try:
                opened[split] = open_source(self.dataset, split, tuple(info.features))
            except errors.DataError:
                if self._splits or info.sizes:
                    raise
        if not opened:
            raise CheckFailed("no split is known", fix="state info.sizes, or pass splits=('train', ...)")
        return opened

    @functools.cached_property
    def indices(self) -> dict[str, list[int]]:
        """Split -> the indices that are looked at."""
        return {
            split: [int(i) for i in np.unique(np.linspace(0, len(source) - 1, min(self.limit, len(source))))]
            for split, source in self.sources.items()
            if len(source)
        }

    @functools.cached_property
    def samples(self) -> dict[str, dict[int, Any]]:
        """Split -> index -> sample."""
        return {split: {i: self.sources[split][i] for i in chosen} for split, chosen in self.indices.items()}

    def column(self, feature: str) -> list[tuple[str, Any]]:
        """(place, value) of a feature; skips where there is none."""
        if feature not in self.dataset.info.features:
            raise Skipped(f"no feature {feature!r}")
        return [(f"{split}[{i}]", x[feature]) for split, chosen in self.samples.items() for i, x in chosen.items()]


def builds(s: Subject) -> None:
    """Its information is there without opening the data, and a run can write down what it was made with."""
    info = s.dataset.info
    if not info.name or "image" not in info.features:
        raise CheckFailed(f"info has name {info.name!r} and features {list(info.features)}", fix="give both")
    describe(s.dataset)


def access(s: Subject) -> None:
    """Every split that it states opens, is as long as stated, gives samples, and raises an IndexError past its end."""
    for split, source in s.sources.items():
        stated = s.dataset.info.sizes.get(split, len(source))
        if stated != len(source):
            raise CheckFailed(f"{split} has {len(source)} samples, info.sizes says {stated}")
        try:
            source[len(source)]
        except IndexError:
            continue
        raise CheckFailed(f"{split}[{len(source)}] gives a sample", fix="raise IndexError outside 0 .. len - 1")
    if not any(s.samples.values()):
        raise CheckFailed("there is no sample")


@needs("access")
def features(s: Subject) -> None:
    """Samples hold what is declared, with its dtype and axes; images are undecoded and know their size."""
    for name, spec in s.dataset.info.features.items():
        dtype, *axes = spec.split()
        for place, value in s.column(name):
            if name == "image":
                pixels = value.decode()
                if pixels.dtype != np.uint8 or pixels.shape != (*value.size, 3) or not value.digest():
                    raise CheckFailed(f"{place}: the image of {value.size} decodes to {pixels.dtype}{pixels.shape}")
            elif dtype == "str":
                texts = value if axes else (value,)
                if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                    raise CheckFailed(f"{place}: {name} is a {type(value).__name__}, declared {spec!r}")
            else:
                array = decode_mask(value) if name == "mask" else np.asarray(value)
                kind = np.dtype(dtype).kind
                # A plain Python int is as good as an int32.
                exact = isinstance(value, (int, float)) or array.dtype == np.dtype(dtype)
                if array.ndim != len(axes) or array.dtype.kind != kind or not exact:
                    raise CheckFailed(f"{place}: {name} is {array.dtype}{list(array.shape)}, declared {spec!r}")


@needs("access")
def repeats(s: Subject) -> None:
    """The same index gives the same sample, bit for bit; also from a copy, after pickling and in threads."""
    split, chosen = next(iter(s.indices.items()))
    kept = pickle.loads(pickle.dumps(s.sources[split]))
    names = tuple(s.dataset.info.features)
    anew = open_source(type(s.dataset)(**s.options), split, names)
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(s.sources[split].__getitem__, chosen))
    for place, index in enumerate(chosen):
        others = {"a pickled copy": kept[index], "a new data set": anew[index], "threads": threaded[place]}
        for who, other in others.items():
            if bad := differences(dict(s.samples[split][index]), dict(other)):
                raise CheckFailed(
                    f"{split}[{index}]: {who} gives another {listed(bad)}",
                    why="resumed runs and other numbers of workers would see other data",
                    fix="make a sample from the data and its index alone; keep no open file or generator",
                )


@needs("access")
def global_rng(s: Subject) -> None:
    """Nothing is drawn from the global random generators."""
    before = global_state()
    for split, chosen in s.indices.items():
        s.sources[split][chosen[-1]]
    if global_state() != before:
        raise CheckFailed("a global random generator is drawn from", fix="derive randomness from the index")


@needs("access")
def labels(s: Subject) -> None:
    """Labels are classes, -1 where there is none, and the class names are as many as different."""
    info = s.dataset.info
    for feature, classes in (("label", info.classes), ("labels", info.label_names or info.classes)):
        if feature not in info.features:
            continue
        if not classes or len(set(classes)) != len(classes):
            raise CheckFailed(f"{len(classes)} class names, {len(set(classes))} different", fix="set info.classes")
        for place, value in s.column(feature):
            if np.size(value) and not (np.min(value) >= -1 and np.max(value) < len(classes)):
                raise CheckFailed(f"{place}: {feature} {np.asarray(value).tolist()} is not in 0..{len(classes) - 1}")


@needs("access")
def masks(s: Subject) -> None:
    """Masks are as large as their image and hold pixel classes, or 255 for ignored."""
    images, classes = dict(s.column("image")), s.dataset.info.mask_classes
    for place, value in s.column("mask"):
        mask = decode_mask(value)
        if mask.shape != tuple(images[place].size):
            raise CheckFailed(f"{place}: a mask of {mask.shape} for an image of {images[place].size}")
        strange = sorted(set(np.unique(mask).tolist()) - set(range(len(classes))) - {255})
        if strange:
            raise CheckFailed(f"{place}: mask value {strange[0]} of {len(classes)} classes", fix="map it to 255")


BOX_LABELS = ("box_labels", "neg_labels", "open_labels")


@needs("access")
def boxes(s: Subject) -> None:
    """Boxes have area and lie in their image, all that is said of them is as long, and labels are classes of boxes."""
    info, images = s.dataset.info, dict(s.column("image"))
    if "boxes" not in info.features:
        raise Skipped("no feature 'boxes'")
    if len(info.box_counts) not in (0, len(info.box_classes)):
        raise CheckFailed(f"{len(info.box_counts)} box_counts for {len(info.box_classes)} box_classes")
    counts = {}
    for place, value in s.column("boxes"):
        height, width = images[place].size
        begins, ends = value[:, :2], value[:, 2:]
        if value.shape[1:] != (4,) or not np.isfinite(value).all() or not (begins < ends).all():
            raise CheckFailed(f"{place}: boxes {value.tolist()}", fix="left, top, right, bottom, with an area")
        if (begins >= (width, height)).any() or (ends <= 0).any():
            raise CheckFailed(f"{place}: a box outside an image of {width} x {height}", why=f"boxes {value.tolist()}")
        counts[place] = len(value)
    for feature in (f for f in ("box_labels", "area", "crowd", "box_ids", "instance_masks") if f in info.features):
        for place, value in s.column(feature):
            if len(value) != counts[place]:
                raise CheckFailed(f"{place}: {feature} of {len(value)} objects, boxes of {counts[place]}")
            if feature == "instance_masks" and value.shape[1:] != tuple(images[place].size):
                raise CheckFailed(f"{place}: masks of {value.shape[1:]} for an image of {images[place].size}")
    for feature in (f for f in BOX_LABELS if f in info.features):
        if not info.box_classes or len(set(info.box_classes)) != len(info.box_classes):
            raise CheckFailed(f"{len(info.box_classes)} names of boxes, not all different", fix="set info.box_classes")
        for place, value in s.column(feature):
            if len(value) and not 0 <= np.min(value) <= np.max(value) < len(info.box_classes):
                raise CheckFailed(f"{place}: {feature} {value.tolist()} is not in 0..{len(info.box_classes) - 1}")


@needs("access")
def splits(s: Subject) -> None:
    """No image of one split is in another, by content."""
    if len(s.samples) < 2:
        raise Skipped("one split")
    seen: dict[str, str] = {}
    for place, image in s.column("image"):
        other = seen.setdefault(image.digest(), place)
        if other.partition("[")[0] != place.partition("[")[0]:
            raise CheckFailed(f"{place} is the image of {other}", why="scores would measure memory")


def refuses(s: Subject) -> None:
    """An unknown split is a DataError, an unknown feature a ConfigError."""
    split = next(iter(s.sources))
    for wanted, call in (
        (errors.DataError, lambda: s.dataset.source("no-such-split", features=("image",))),
        (errors.ConfigError, lambda: s.dataset.source(split, features=("no-such-feature",))),
    ):
        try:
            call()
        except wanted:
            continue
        except Exception as error:
            raise CheckFailed(f"a {type(error).__name__} instead of a {wanted.__name__}: {error}") from error
        raise CheckFailed(f"no {wanted.__name__}", fix="raise it in source()")


CHECKS = (builds, access, features, repeats, global_rng, labels, masks, boxes, splits, refuses)
