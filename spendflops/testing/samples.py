"""A data set of random images with every feature, made on the fly, and comparisons that checks share."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.types import DatasetInfo
from spendflops.parts.images import ArrayImage

FEATURES = {
    "image": "uint8 H W C",
    "label": "int32",
    "labels": "int32 M",
    "mask": "uint8 H W",
    "caption": "str",
    "boxes": "float32 M 4",
    "box_labels": "int32 M",
    "crowd": "bool M",
    "instance_masks": "bool M H W",
}
CLASSES = ("circle", "cross", "square", "star")


@dataclasses.dataclass(frozen=True)
class KitSource:
    """Samples of one split; an image's colour tells its class, so that there is something to learn."""

    split: str
    length: int
    features: tuple[str, ...]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng([len(self.split), index])
        height, width = (int(n) for n in rng.integers(20, 36, 2))
        label = int(rng.integers(len(CLASSES)))
        colour = np.array([40 + 50 * label, 220 - 50 * label, 60 + 90 * (label % 2)])
        image = np.clip(colour + rng.normal(0, 40, (height, width, 3)), 0, 255).astype(np.uint8)
        # One class for the whole image, but for a border that is ignored: predictions made from it can be perfect.
        mask = np.full((height, width), label, np.uint8)
        mask[:2] = 255
        sample = {
            "image": ArrayImage(image),
            "label": label,
            "labels": np.array([label, (label + 1) % len(CLASSES)][: 1 + index % 2], np.int32),
            "mask": mask,
            "caption": f"a {CLASSES[label]} on noise number {index}",
            # Left, top, right, bottom of what the mask does not ignore.
            "boxes": np.array([[0, 2, width, height]], np.float32),
            "box_labels": np.array([label], np.int32),
            "crowd": np.zeros(1, bool),
            "instance_masks": (mask != 255)[None],
        }
        return {name: sample[name] for name in self.features}


class KitData(Dataset):
    """Random images with labels, captions, maps, boxes and their masks."""

    def __init__(self, *, length: int = 48):
        sizes = {"train": length, "test": length}
        self.info = DatasetInfo(
            name="kit",
            features=FEATURES,
            classes=CLASSES,
            mask_classes=CLASSES,
            box_classes=CLASSES,
            box_counts=(length,) * len(CLASSES),
            sizes=sizes,
        )

    def source(self, split: str, *, features: tuple[str, ...]) -> KitSource:
        if split not in self.info.sizes:
            raise errors.DataError(f"kit has no split {split!r}")
        return KitSource(split, self.info.sizes[split], tuple(features))


def differences(a: Any, b: Any) -> list[str]:
    """Paths of the leaves that are not the same bytes (dtypes and shapes among them)."""
    left, right = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (a, b))
    if [path for path, _ in left] != [path for path, _ in right]:
        return ["the structure"]
    return [jax.tree_util.keystr(path) for (path, x), (_, y) in zip(left, right, strict=True) if _raw(x) != _raw(y)]


def _raw(x: Any) -> Any:
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if hasattr(x, "digest") and hasattr(x, "decode"):  # an undecoded image
        x = x.decode()
    array = np.asarray(x)
    return repr(x) if array.dtype == object else (array.dtype, array.shape, array.tobytes())


def listed(paths: list[str], most: int = 6) -> str:
    """A few of them, and how many more."""
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def global_state() -> Any:
    """The state of the random generators of Python and numpy that belong to everybody."""
    kind, words, *rest = np.random.get_state()
    return random.getstate(), kind, words.tobytes(), rest
