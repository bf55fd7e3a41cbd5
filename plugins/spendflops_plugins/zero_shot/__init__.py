"""Classification without training: an image belongs to the class whose prompts are nearest to it.

Radford et al. 2021 (arXiv 2103.00020, section 3.1). With t_cj the unit embeddings of all prompts of class c, every
template with every name of it, and x that of an image:

    w_c = normalise(mean_j t_cj)                                                                                     (1)
    class of x = argmax_c x w_c

Several names a class are averaged together with the templates, as MAWS does (arXiv 2303.13496).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.errors import ConfigError, DataError, DivergedError, suggest
from spendflops.contracts.evaluator import Evaluator, Preprocess
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import PARTS, binomial_spread
from spendflops.parts.preprocess import Resize, resize_id
from spendflops_plugins.zero_shot.prompts import SPLIT, Prompts, Tokens, longest, prompts
from spendflops_plugins.zero_shot.templates import TEMPLATES

__all__ = ["TEMPLATES", "Prompts", "ZeroShot"]

_ROWS = 4096
_IDENTIFIER = re.compile(r"n?\d+")


class ZeroShot(Evaluator):
    """``accuracy`` and ``accuracy_top5`` by the similarity of images and prompts; data are given for "eval" alone.

    Args:
        templates: Texts with ``{}`` for a name, or the name of a set in :data:`TEMPLATES`.
        class_names: Of each class its name, or several, in label order; empty for those of the data set.
        canonicalise: Whether prompts lose capitals, punctuation and underscores (big_vision's models).
        max_length: L of the token ids; a longer prompt loses its end. None for the longest prompt: what a text tower
            makes of a text does not depend on its padding.
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps; 1 is "resize 224, crop 224".

    Raises:
        ConfigError: An argument outside its range, a template without ``{}``.
    """

    requires: ClassVar[tuple[str, ...]] = ("image_embedding", "text_embedding")
    roles: ClassVar[tuple[str, ...]] = ("prompts", "eval")

    def __init__(
        self,
        *,
        templates: str | tuple[str, ...] = TEMPLATES["photo"],
        class_names: tuple[str | tuple[str, ...], ...] = (),
        canonicalise: bool = False,
        max_length: int | None = None,
        resize: str = "squash",
        crop_fraction: float = 0.875,
    ):
        if isinstance(templates, str) and templates not in TEMPLATES:
            near, known = suggest(templates, list(TEMPLATES)), list(TEMPLATES)
            raise ConfigError(
                f"there are no templates called {templates!r}{near}", fix=f"use one of {known}, or a tuple of texts"
            )
        if max_length is not None and max_length < 3:
            raise ConfigError(f"max_length {max_length} leaves no room for a word between begin and end")
        self._templates = TEMPLATES[templates] if isinstance(templates, str) else tuple(templates)
        prompts((("name",),), self._templates, canonicalise)
        self._class_names = tuple((name,) if isinstance(name, str) else tuple(name) for name in class_names)
        self._canonicalise, self._max_length = canonicalise, max_length
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        names = f"own-{_digest(self._class_names)}" if self._class_names else "data"
        length = "longest" if max_length is None else max_length
        self.protocol = (
            f"zero_shot/1:templates={_label(self._templates)}:names={names}"
            f"{':canonical' if canonicalise else ''}:length={length}:{resize_id(resize, crop_fraction)}"
        )
        self.primary = "accuracy"
        self.spread = f"{PARTS} equal parts of the test images, binomial"

    def wants(self, role: str) -> tuple[str, ...]:
        """Texts are embedded in one pass, images in another."""
        return ("text_embedding",) if role == "prompts" else ("image_embedding",)

    def supplies(self, data: Mapping[str, tuple[Dataset, str]]) -> Mapping[str, tuple[Dataset, str]]:
        """The prompts, made of the classes of the data for "eval".

        Raises:
            DataError: Classes without names, or another number of names than classes.
        """
        if "eval" not in data:
            return {}
        info = data["eval"][0].info
        made = Prompts(
            about=info.name,
            classes=info.classes,
            names=self._names(info),
            templates=self._templates,
            canonicalise=self._canonicalise,
        )
        return {"prompts": (made, SPLIT)}

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Preprocess:
        """The tokens of a prompt, or the image at the model's size and its label.

        Raises:
            ConfigError: A model without a tokenizer.
        """
        if role == "eval":
            return Resize.of(info=info, spec=spec, read=("image", "label"), asker="zero_shot", **self._resize)
        if spec.tokenizer is None:
            raise ConfigError("zero_shot needs a tokenizer", why="the model names none", fix="score a model with texts")
        if self._max_length is not None:
            return Tokens(tokenizer=spec.tokenizer, length=self._max_length, cut=True)
        texts = prompts(self._names(info), self._templates, self._canonicalise)
        return Tokens(tokenizer=spec.tokenizer, length=longest(spec.tokenizer, texts))

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Embeddings and labels: of texts for a batch with tokens, else of images."""
        kind = "text_embedding" if "tokens" in batch else "image_embedding"
        return {
            "metrics": {},
            "rows": {"embedding": predictions[kind].astype(jnp.float32), "label": batch["label"]},
        }

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` and ``accuracy_top5`` in 0..1, the binomial ``accuracy_sd`` over ``accuracy_n`` parts, counts.

        Raises:
            DataError: No images, a class without a prompt, or labels that are no classes.
            DivergedError: Embeddings that are not finite.
        """
        texts, images = rows["prompts"], rows["eval"]
        for role, data in (("prompts", texts), ("images", images)):
            if not np.isfinite(data["embedding"]).all():
                raise DivergedError(f"embeddings of the {role} are not finite", fix="look at the training loss")
        classes = int(texts["label"].max()) + 1
        labels = images["label"]
        if not len(labels) or labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"{int(np.sum((labels < 0) | (labels >= classes)))} of {len(labels)} labels are none of the {classes} "
                "classes that have prompts",
                fix="check the split of the evaluation, and class_names if it is set",
            )
        weights = class_vectors(texts["embedding"], texts["label"], classes)
        starts = range(0, len(labels), _ROWS)
        ranks = np.concatenate([
            rank_of_label(images["embedding"][i : i + _ROWS] @ weights.T, labels[i : i + _ROWS]) for i in starts
        ])  # fmt: skip
        accuracy, count = float(np.mean(ranks == 0)), len(labels)
        return {
            "accuracy": accuracy,
            "accuracy_sd": binomial_spread(accuracy, count),
            "accuracy_n": PARTS,
            "accuracy_top5": float(np.mean(ranks < 5)),
            "examples": count,
            "classes": classes,
            "prompts": len(texts["label"]),
        }

    def _names(self, info: DatasetInfo) -> tuple[tuple[str, ...], ...]:
        if self._class_names:
            if info.classes and len(self._class_names) != len(info.classes):
                raise DataError(
                    f"zero_shot has {len(self._class_names)} class_names, {info.name} {len(info.classes)} classes",
                    fix="name every class, in label order, or leave class_names out",
                )
            return self._class_names
        given = info.class_names or info.classes
        if not given or all(_IDENTIFIER.fullmatch(name) for name in given):
            raise DataError(
                f"{info.name} does not name its classes",
                why=f"they are called {', '.join(given[:3])}, ..." if given else "it has no list of classes",
                fix="zero_shot takes them as class_names = ('tench', ('goldfish', 'gold fish'), ...), in label order",
            )
        return tuple((name,) for name in given)


def class_vectors(
    embeddings: Float[np.ndarray, "P E"], labels: Int[np.ndarray, " P"], classes: int
) -> Float[np.ndarray, "C E"]:
    """Equation (1), in float64.

    Raises:
        DataError: A class without a prompt.
    """
    missing = np.nonzero(np.bincount(labels, minlength=classes) == 0)[0]
    if len(missing):
        raise DataError(f"class {missing[0]} has no prompt", fix="give prompts for every label")
    sums = np.zeros((classes, embeddings.shape[1]))
    np.add.at(sums, labels, _unit(embeddings))
    return _unit(sums)


def rank_of_label(scores: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """How many classes come before that of the label; of equal scores the first class comes first."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    return before.sum(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _label(templates: tuple[str, ...]) -> str:
    """The name of a known set, whatever its order; else how many there are and a digest."""
    known = (name for name, texts in TEMPLATES.items() if sorted(texts) == sorted(templates))
    return next(known, f"{len(templates)}-{_digest(templates)}")


def _digest(value: Any) -> str:
    return f"{zlib.crc32(repr(value).encode()):08x}"
