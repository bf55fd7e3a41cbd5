"""What is where in a scene: drawn from counter-based random numbers, so that scene i depends on nothing but its key."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib

import numpy as np

from spendflops_plugins.shapes.vocabulary import SILHOUETTES, Preset, Vocabulary

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def scene_keys(seed: int, split: str, indices: np.ndarray) -> np.ndarray:
    """One random key a scene, uint64 [n]; the split is part of the seed, which keeps splits disjoint."""
    root = np.frombuffer(hashlib.blake2b(f"{seed}/{split}".encode(), digest_size=8).digest(), "<u8")
    return _mix(root + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(keys: np.ndarray, purpose: str, *shape: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [n, *shape]: a function of each key, the purpose and the position alone."""
    count = int(np.prod(shape, dtype=int))
    start = _mix(keys ^ (np.uint64(zlib.crc32(purpose.encode())) << np.uint64(17)))
    bits = _mix(start[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(len(keys), *shape)


def between(u: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """``u`` in [0, 1) mapped to ``bounds``."""
    return bounds[0] + u * (bounds[1] - bounds[0])


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rules of a data set that say what scenes may hold.

    Attributes:
        preset: Difficulty.
        curated: One rule set or the other: centred and balanced, or scattered and long-tailed.
        objects: Smallest and largest number of objects.
        tail: Exponent of the Zipf law of the classes where scenes are not curated.
    """

    preset: Preset
    curated: bool
    objects: tuple[int, int]
    tail: float

    @property
    def cells(self) -> int:
        """Rows (and columns) of the grid whose cells hold one thing each."""
        wanted = self.objects[1] + (0 if self.centred else self.preset.clutter)
        return 1 if self.centred else max(2, int(np.ceil(np.sqrt(wanted))))

    @property
    def centred(self) -> bool:
        return self.curated and self.objects == (1, 1)

    @property
    def things(self) -> int:
        """Slots of a scene: objects first (front to back), then clutter behind them."""
        room = self.cells**2 - self.objects[1]
        return self.objects[1] + min(room, self.preset.clutter)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A block of scenes; K is ``Layout.things``, lengths are parts of the image side.

    Attributes:
        keys: uint64 [n].
        objects: int [n], objects in a scene.
        clutter: int [n], distractors in a scene, in the slots from ``Layout.objects[1]`` on.
        classes: int32 [n K]; meaningless in the slots of distractors.
        parts: int32 [n K 3], orientation, frequency, silhouette.
        centre: float64 [n K 2], x and y.
        radius: float64 [n K].
        turn: float64 [n K], rotation of the silhouette, radians.
    """

    keys: np.ndarray
    objects: np.ndarray
    clutter: np.ndarray
    classes: np.ndarray
    parts: np.ndarray
    centre: np.ndarray
    radius: np.ndarray
    turn: np.ndarray


def compose(layout: Layout, vocabulary: Vocabulary, seed: int, split: str, indices: np.ndarray) -> Scenes:
    """The scenes with these indices, in any order."""
    keys = scene_keys(seed, split, indices)
    slots = layout.things
    low, high = layout.objects
    objects = low + (uniform(keys, "objects", 1)[:, 0] * (high - low + 1)).astype(int)
    clutter = (uniform(keys, "clutter", 1)[:, 0] * (slots - high + 1)).astype(int)

    classes = _classes(layout, len(vocabulary.classes), seed, split, indices, keys)
    parts = vocabulary.parts[classes]
    free = (uniform(keys, "silhouettes", slots) * len(SILHOUETTES)).astype(np.int32)
    parts[..., 2] = np.where((parts[..., 2] < 0) | (np.arange(slots) >= high), free, parts[..., 2])

    # One thing a cell, never wider than the way to its neighbours' middle: every object stays in sight.
    cells = layout.cells
    cell = np.argsort(uniform(keys, "cells", cells**2), axis=1, kind="stable")[:, :slots]
    jitter = uniform(keys, "jitter", slots, 2) - 0.5
    corner = np.stack([cell % cells, cell // cells], axis=-1)
    reach = 0.10 if layout.centred else 0.30
    centre = (corner + 0.5 + reach * jitter) / cells
    bounds = (0.36, 0.48) if layout.centred else (0.34, 0.56)
    radius = between(uniform(keys, "radius", slots), bounds) / cells
    # Things are painted back to front: the first, which gives the label, is also made the largest.
    radius[:, 0] = radius[:, :high].max(axis=1)
    return Scenes(
        keys=keys,
        objects=objects,
        clutter=clutter,
        classes=classes,
        parts=parts,
        centre=centre,
        radius=radius,
        turn=(uniform(keys, "turn", slots) - 0.5) * 0.7,
    )


def _classes(layout: Layout, count: int, seed: int, split: str, indices: np.ndarray, keys: np.ndarray) -> np.ndarray:
    u = uniform(keys, "classes", layout.things)
    if not layout.curated:
        weights = 1.0 / np.arange(1, count + 1) ** layout.tail
        return np.searchsorted(np.cumsum(weights)[:-1] / weights.sum(), u, side="right").astype(np.int32)
    classes = (u * count).astype(np.int32)
    # Balance: each run of ``count`` indices is a random order of all classes.
    runs, place = np.unique(indices // count, return_inverse=True)
    orders = np.argsort(uniform(scene_keys(seed, f"{split}/order", runs), "order", count), axis=1, kind="stable")
    classes[:, 0] = orders[place, indices % count]
    return classes
