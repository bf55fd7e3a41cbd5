"""One crop of an image and the token ids of its caption.

Deviation: the crops are OpenCLIP's, of any ratio in a range; CLIP's paper has "a random square crop".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spendflops.contracts.errors import ConfigError, DataError, suggest
from spendflops.contracts.types import InputSpec, Sample
from spendflops.parts import text
from spendflops.parts.views import CropFlip

CAPTIONS = ("caption", "captions", "labels")
UNITS = ("tokens", "characters")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPViews(CropFlip):
    """A random crop that holds nearly everything, and a caption of at most ``max_length`` tokens.

    No flip by default: a caption may say where things are. The crop's options are those of :class:`CropFlip`.

    Attributes:
        captions: "caption" reads that feature; "captions" draws one of several (COCO); "labels" makes "This is a photo
            of A and B." from the names of labels.
        labels: The feature that holds the labels: one integer ("label") or several ("labels"). Negative ones are
            padding.
        class_names: Names of the labels, for captions made from them; empty for the class names of the data set.
        max_labels: Names in a caption at most; the first ones count.
        max_length: L, the length of the token ids; a longer text loses its end, but not the token that ends it.
        unit: What ``max_length`` counts: "tokens", those that begin and end a text included, or "characters", to which
            the text is cut first.

    Raises:
        ConfigError: A word that is none of these, or a length without room for a word.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    flip: float = 0.0
    captions: str = "caption"
    labels: str = "label"
    class_names: tuple[str, ...] = ()
    max_labels: int = 8
    max_length: int = 55
    unit: str = "tokens"

    def __post_init__(self):
        for option, value, known in (("captions", self.captions, CAPTIONS), ("unit", self.unit, UNITS)):
            if value not in known:
                raise ConfigError(
                    f"unknown {option} {value!r}{suggest(value, known)}", why=f"known: {', '.join(known)}"
                )
        if self.max_length < 3:
            raise ConfigError(f"max_length {self.max_length} leaves no room for a word between begin and end")

    @property
    def features(self) -> tuple[str, ...]:
        return ("image", self.labels if self.captions == "labels" else self.captions)

    def letters(self, spec: InputSpec) -> dict[str, int]:
        if self.captions == "labels" and not (self.class_names or spec.classes):
            raise ConfigError(
                "captions from labels need the names of the labels",
                why="captions = 'labels', class_names is empty, and the data set has no classes",
                fix="objectives.clip.views.class_names = ('tench', 'goldfish', ...), in the order of the labels",
            )
        return {**super().letters(spec), "L": self.max_length}

    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        if spec.tokenizer is None:
            raise ConfigError(
                "the views of clip need a tokenizer", why="the objective names none", fix="use clip's own"
            )
        if self.captions == "captions":
            sample = {**sample, "caption": self.one(sample["captions"], rng)}
        caption = self.caption(sample, spec.classes)
        caption = caption[: self.max_length] if self.unit == "characters" else caption
        tokens = text.encode(spec.tokenizer, caption, self.max_length)
        return {**super().__call__(sample, rng, spec), "tokens": tokens}

    def one(self, captions: Sequence[str], rng: np.random.Generator) -> str:
        """One of several captions.

        Raises:
            DataError: There is none.
        """
        if not captions:
            raise DataError("an image has no caption", fix="leave it out, or make captions from labels")
        return captions[int(rng.integers(len(captions)))]

    def caption(self, sample: Sample, classes: tuple[str, ...] = ()) -> str:
        """The caption of a sample; ``classes`` are the class names of its data set.

        Raises:
            DataError: It is no text, or there is no label with a name.
        """
        if self.captions != "labels":
            if not isinstance(sample["caption"], str):
                raise DataError(f"a caption is a {type(sample['caption']).__name__}, not a text")
            return sample["caption"]
        labels = np.atleast_1d(sample[self.labels])
        labels = labels[labels >= 0][: self.max_labels]
        names = self.class_names or classes
        if not len(labels) or labels.max() >= len(names):
            raise DataError(
                f"no caption can be made from the labels {labels.tolist()}",
                why=f"there are {len(names)} names",
                fix="name every label in class_names, in order, and leave out images without a label",
            )
        return text.pseudo_caption([names[label] for label in labels])
