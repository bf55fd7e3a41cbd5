"""The prompts of a set of classes, as a data set of texts, and their tokens."""

from __future__ import annotations

import dataclasses
import functools
import string

import numpy as np

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.evaluator import Preprocess
from spendflops.contracts.types import DatasetInfo, Sample
from spendflops.parts import text

SPLIT = "prompts"
FEATURES = {"text": "str", "label": "int32"}


@dataclasses.dataclass(frozen=True)
class PromptSource:
    """Samples ``{"text": str, "label": int}``: every template with every name of a class, class after class."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} prompts")
        return {"text": self.texts[index], "label": self.labels[index]}


class Prompts(Dataset):
    """The split "prompts": texts that describe classes, and which.

    Args:
        about: Name of the data set whose classes these are.
        classes: Its classes, in label order.
        names: The names of each of them.
        templates: Texts with ``{}`` for the name.
        canonicalise: Whether texts are brought to the form of :func:`canonical`.

    Raises:
        ConfigError: A template without ``{}``.
        DataError: A class without a name, or an empty one.
    """

    def __init__(
        self,
        *,
        about: str,
        classes: tuple[str, ...],
        names: tuple[tuple[str, ...], ...],
        templates: tuple[str, ...],
        canonicalise: bool = False,
    ):
        self._texts = prompts(names, templates, canonicalise)
        self._labels = tuple(label for label, group in enumerate(names) for _ in range(len(group) * len(templates)))
        self.info = DatasetInfo(
            name=f"prompts of {about}",
            features=FEATURES,
            classes=classes,
            class_names=tuple(group[0] for group in names),
            sizes={SPLIT: len(self._texts)},
        )

    def source(self, split: str, *, features: tuple[str, ...] = tuple(FEATURES)) -> PromptSource:
        """All prompts."""
        if split != SPLIT:
            raise DataError(f"{self.info.name} have no split {split!r}", fix=f"use {SPLIT!r}")
        return PromptSource(self._texts, self._labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Preprocess):
    """A prompt's ``tokens`` int32 [L] and its ``label``; there is no image.

    Attributes:
        tokenizer: A name of :mod:`spendflops.parts.text`.
        length: L.
        cut: Whether a longer text loses its end, but not the token that ends it; else it is an error.
    """

    tokenizer: str
    length: int
    cut: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return tuple(FEATURES)

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """dtype and shape of what one example gives."""
        return {"tokens": ("int32", (self.length,)), "label": ("int32", ())}

    def __call__(self, sample: Sample) -> dict[str, np.ndarray]:
        """One prompt.

        Raises:
            DataError: It is longer than ``length`` and must not be cut.
        """
        count = len(text.tokenizer(self.tokenizer).ids(sample["text"]))
        if count > self.length and not self.cut:
            raise DataError(
                f"a prompt has {count} tokens, there is room for {self.length}: {sample['text'][:80]!r}",
                why="it is not among the prompts that the evaluator makes of the names of classes",
                fix="set max_length, which cuts longer prompts",
            )
        tokens = text.encode(self.tokenizer, sample["text"], self.length)
        return {"tokens": tokens, "label": np.asarray(sample["label"], np.int32)}


def canonical(text: str) -> str:
    """Underscores are spaces, there is no punctuation, no capital and no second space (big_vision's rule)."""
    text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(text.lower().split())


@functools.lru_cache(maxsize=8)
def prompts(names: tuple[tuple[str, ...], ...], templates: tuple[str, ...], canonicalise: bool) -> tuple[str, ...]:
    """Every template with every name, class after class.

    Raises:
        ConfigError: No template, or one without ``{}``.
        DataError: No class, a class without a name, or a name without a letter or digit.
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ConfigError(
            f"the template {wrong[0]!r} has no place for a name" if wrong else "there is no template",
            fix="write {} where the name stands: 'a photo of a {}.'",
        )
    if not names:
        raise DataError("there are no classes to make prompts of", fix="use a data set with classes")
    for label, group in enumerate(names):
        if not group or not all(any(c.isalnum() for c in name) for name in group):
            raise DataError(
                f"class {label} has no name" if not group else f"class {label} has an empty name, in {list(group)}",
                fix="name every class, in label order: class_names = ('tench', ('goldfish', 'gold fish'), ...)",
            )
    made = tuple(template.replace("{}", name) for group in names for name in group for template in templates)
    return tuple(canonical(prompt) for prompt in made) if canonicalise else made


@functools.lru_cache(maxsize=8)
def longest(tokenizer: str, texts: tuple[str, ...]) -> int:
    """Tokens of the longest of these texts."""
    found = text.tokenizer(tokenizer)
    return max(len(found.ids(each)) for each in texts)
