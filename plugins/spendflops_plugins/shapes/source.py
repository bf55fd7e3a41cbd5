"""Random access to the scenes of one split and what is said about them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from spendflops.parts.images import ArrayImage
from spendflops_plugins.shapes.cache import BLOCKS
from spendflops_plugins.shapes.render import render
from spendflops_plugins.shapes.scenes import Layout, compose, uniform
from spendflops_plugins.shapes.vocabulary import Vocabulary, caption

_INSTANCES = frozenset({"boxes", "box_labels", "instance_masks"})
_PIXELS = _INSTANCES | {"image", "mask"}
_BLOCK = 256
# Columns of a row of facts; after them the classes [K] of the objects, then what the caption says of them [K 3].
_LABEL, _OBJECTS, _OPENING, _CLASSES = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """All that decides what a scene looks like and what is said about it; see ``Shapes`` for the meaning."""

    layout: Layout
    vocabulary: Vocabulary
    size: int
    seed: int
    label_noise: float
    caption_noise: float


class ShapesSource:
    """Random access to one split: thread-safe, picklable, the same index always gives the same sample."""

    def __init__(self, rules: Rules, split: str, length: int, features: tuple[str, ...]):
        self._rules, self._split, self._length, self._features = rules, split, length, features
        # Large blocks cost least by the scene, but a split that does not fit into the cache and is read in random order
        # would have most of each block rendered for nothing.
        pixels = rules.size**2
        self._block = _BLOCK if 4 * pixels * length <= BLOCKS.limit // 2 else max(1, 16_384 // pixels)
        where = f"{rules.layout} {rules.seed} {split} {length} {self._block}"
        self._keys = f"pixels {rules.size} {where}", f"facts {rules.label_noise} {rules.caption_noise} {where}"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample; see ``Shapes`` for its features.

        Raises:
            IndexError: Outside 0 .. len - 1.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        block, row = divmod(int(index), self._block)
        facts = BLOCKS.get((self._keys[1], block), lambda: self._facts(block))[row]
        if not _PIXELS.intersection(self._features):
            return {name: self._said(name, facts) for name in self._features}
        rgba = BLOCKS.get((self._keys[0], block), lambda: self._pixels(block))[row]
        sample: dict[str, Any] = {}
        instances = self._instances(facts, rgba[..., 3]) if _INSTANCES.intersection(self._features) else {}
        for name in self._features:
            if name == "image":
                sample[name] = ArrayImage(np.ascontiguousarray(rgba[..., :3]))
            elif name == "mask":
                sample[name] = np.append(0, self._classes(facts) + 1).astype(np.uint8)[rgba[..., 3]]
            else:
                sample[name] = instances[name] if name in instances else self._said(name, facts)
        return sample

    def _indices(self, block: int) -> np.ndarray:
        return np.arange(block * self._block, min((block + 1) * self._block, self._length))

    def _pixels(self, block: int) -> np.ndarray:
        """uint8 [n size size 4], see ``render``."""
        rules = self._rules
        scenes = compose(rules.layout, rules.vocabulary, rules.seed, self._split, self._indices(block))
        return render(rules.layout, scenes, rules.size)

    def _facts(self, block: int) -> np.ndarray:
        """int32 [n 3 + 4 K]: all that can be said without pixels, noise included."""
        rules, count = self._rules, len(self._rules.vocabulary.classes)
        scenes = compose(rules.layout, rules.vocabulary, rules.seed, self._split, self._indices(block))
        high = rules.layout.objects[1]
        label, parts = scenes.classes[:, 0], scenes.parts[:, :high]
        if self._split == "train":
            wrong, other = uniform(scenes.keys, "label noise", 2).T
            label = np.where(wrong < rules.label_noise, (other * count).astype(np.int32), label)
            wrong = uniform(scenes.keys, "caption noise", 1)[:, 0] < rules.caption_noise
            other = (uniform(scenes.keys, "caption classes", high) * count).astype(np.int32)
            told = rules.vocabulary.parts[other]
            told[..., 2] = np.where(told[..., 2] < 0, parts[..., 2], told[..., 2])
            parts = np.where(wrong[:, None, None], told, parts)
        opening = uniform(scenes.keys, "opening", 1)[:, 0] * 4
        columns = (label, scenes.objects, opening, scenes.classes[:, :high], parts.reshape(len(label), -1))
        return np.column_stack([np.asarray(column).astype(np.int32) for column in columns])

    def _classes(self, facts: np.ndarray) -> np.ndarray:
        return facts[_CLASSES : _CLASSES + facts[_OBJECTS]]

    def _said(self, name: str, facts: np.ndarray) -> Any:
        if name == "label":
            return int(facts[_LABEL])
        if name == "labels":
            lineages = (self._rules.vocabulary.lineage(label) for label in set(self._classes(facts).tolist()))
            return np.array(sorted(set().union(*lineages)), np.int32)
        parts = facts[_CLASSES + self._rules.layout.objects[1] :].reshape(-1, 3)
        return caption(parts[: facts[_OBJECTS]], int(facts[_OPENING]))

    def _instances(self, facts: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Boxes, their labels and masks, from the numbers uint8 [H W] of the objects."""
        masks = numbers == np.arange(1, facts[_OBJECTS] + 1, dtype=np.uint8)[:, None, None]
        seen = masks.any(axis=(1, 2))
        masks = masks[seen]
        columns, rows = masks.any(axis=1), masks.any(axis=2)
        size = numbers.shape[0]
        edges = (columns.argmax(1), rows.argmax(1), size - columns[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1))
        return {
            "boxes": np.stack(edges, axis=1).astype(np.float32),
            "box_labels": self._classes(facts)[seen],
            "instance_masks": masks,
        }
