"""Textured shapes on a blotchy ground: a procedural data set with every kind of label, at any resolution.

A class is a texture: stripes in one of four orientations and two widths, in two random colours, on an object of random
silhouette (preset "quick": 8 classes), or texture and silhouette together ("hard": 48 classes, for 64 pixels and more).
Scene i of a split depends on (seed, split, i) alone; the same scene can be rendered at any size.

A mirror image changes some classes: "rising" and "falling" stripes change places under a flip in either direction, and
all orientations under a quarter turn; a zoom by two turns "wide" into "fine". Augmentations that must keep the class
leave flips out and zoom by less.
"""

from __future__ import annotations

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import DatasetInfo
from spendflops_plugins.shapes.scenes import Layout
from spendflops_plugins.shapes.source import Rules, ShapesSource
from spendflops_plugins.shapes.vocabulary import PRESETS, Vocabulary

__all__ = ["Shapes", "ShapesSource"]

_FEATURES = {
    "image": "uint8 H W C",
    "label": "int32",
    "labels": "int32 M",
    "caption": "str",
    "mask": "uint8 H W",
    "boxes": "float32 M 4",
    "box_labels": "int32 M",
    "instance_masks": "bool M H W",
}


class Shapes(Dataset):
    """Procedural scenes.

    Features, for a scene with M objects in sight (M >= 1, varies):
        image: ``ArrayImage``, decodes to uint8 [H W 3].
        label: int, the class of the front object, which is also the largest.
        labels: int32 [L], the classes in sight and the families above them, sorted; names in ``info.label_names``.
        caption: str, names every object.
        mask: uint8 [H W], 0 background, class + 1 elsewhere.
        boxes: float32 [M 4], (left, top, right, bottom) in pixels, right and bottom exclusive, of what is in sight.
        box_labels: int32 [M], the class of each box.
        instance_masks: bool [M H W], disjoint; rows in the order of ``boxes``.

    Args:
        preset: "quick" (8 textures, large objects) or "hard" (48 classes of texture and silhouette, smaller objects,
            distractors, lower contrast, more noise).
        curated: One centred object and balanced classes; otherwise several objects anywhere, classes that follow a Zipf
            law, and wrong labels and captions in the training split.
        size: Side of the square images in pixels, at least 16.
        length: Scenes in the split "train".
        validation: Scenes in the split "validation".
        probe: Scenes in the split "probe": labelled scenes for evaluators that fit something.
        test: Scenes in the split "test".
        seed: Another seed gives other scenes.
        objects: Smallest and largest number of objects; by default (1, 1) if curated, else the preset's.
        tail: Exponent of the Zipf law of uncurated classes; 0 is balanced.
        label_noise: Part of the labels in "train" that is drawn at random; by default 0 if curated, else the
            preset's. It concerns ``label`` alone.
        caption_noise: The same for captions that describe other objects.

    Raises:
        ConfigError: An argument outside its range.
    """

    def __init__(
        self,
        *,
        preset: str = "quick",
        curated: bool = True,
        size: int = 32,
        length: int = 20_000,
        validation: int = 2_000,
        probe: int = 2_000,
        test: int = 2_000,
        seed: int = 0,
        objects: tuple[int, int] | None = None,
        tail: float = 1.0,
        label_noise: float | None = None,
        caption_noise: float | None = None,
    ):
        if preset not in PRESETS:
            raise ConfigError(
                f"shapes has no preset {preset!r}{suggest(preset, list(PRESETS))}", fix=f"Use one of {sorted(PRESETS)}."
            )
        rules = PRESETS[preset]
        # A list, as a configuration file may give it, would not do: layouts are compared by value.
        crowd = tuple(objects) if objects is not None else ((1, 1) if curated else rules.crowd)
        label_noise = label_noise if label_noise is not None else (0.0 if curated else rules.label_noise)
        caption_noise = caption_noise if caption_noise is not None else (0.0 if curated else rules.caption_noise)
        sizes = {"train": length, "validation": validation, "probe": probe, "test": test}
        _require(isinstance(size, int) and size >= 16, "size", size, "at least 16 pixels")
        _require(len(crowd) == 2 and 1 <= crowd[0] <= crowd[-1] <= 64, "objects", objects, "(low, high) in 1..64")
        _require(0 <= label_noise <= 1, "label_noise", label_noise, "in 0..1")
        _require(0 <= caption_noise <= 1, "caption_noise", caption_noise, "in 0..1")
        _require(tail >= 0, "tail", tail, "0 or more")
        for split, count in sizes.items():
            _require(isinstance(count, int) and count >= 0, "length" if split == "train" else split, count, "0 or more")

        vocabulary = Vocabulary.of(rules)
        self._rules = Rules(
            layout=Layout(preset=rules, curated=curated, objects=(crowd[0], crowd[-1]), tail=tail),
            vocabulary=vocabulary,
            size=size,
            seed=seed,
            label_noise=label_noise,
            caption_noise=caption_noise,
        )
        self.info = DatasetInfo(
            name=f"shapes-{preset}" + ("" if curated else "-uncurated"),
            features=dict(_FEATURES),
            classes=vocabulary.classes,
            label_names=vocabulary.classes + vocabulary.groups,
            mask_classes=("background", *vocabulary.classes),
            box_classes=vocabulary.classes,
            sizes=sizes,
            licence="CC0-1.0",
            citation="Procedural; part of spendflops.",
        )

    def source(self, split: str, *, features: tuple[str, ...] = ("image", "label")) -> ShapesSource:
        """Scenes of ``split`` with exactly ``features``."""
        if split not in self.info.sizes:
            known = list(self.info.sizes)
            raise DataError(f"shapes has no split {split!r}{suggest(split, known)}", fix=f"Use one of {known}.")
        for name in features:
            if name not in _FEATURES:
                known = list(_FEATURES)
                raise ConfigError(f"shapes has no feature {name!r}{suggest(name, known)}", fix=f"Use some of {known}.")
        return ShapesSource(self._rules, split, self.info.sizes[split], tuple(features))


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigError(f"shapes cannot have {name} = {value!r}", fix=f"{name} must be {wanted}.")
