"""Semantic segmentation by ridge regression on frozen patch tokens, without training a decoder.

A token is regressed on the classes of the pixels in its patch; the scores are upsampled to pixels (bilinear, pixel
centres at half coordinates) and the largest is the answer. The score is the mean IoU over the whole query set.

Label maps are used at the size of the model's input, resized by nearest neighbour: both the targets and the score. All
tokens are kept on the host, examples x N x D float32: choose bank and query splits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import IGNORE, bilinear_matrix, confusion_matrix, segmentation_scores, spread
from spendflops.parts.preprocess import Resize
from spendflops.parts.ridge import Ridge, fit_ridge
from spendflops.parts.splits import label_subsets


class RidgeSegmentation(Evaluator):
    """``miou`` of a ridge regression from tokens to classes, as mean over several draws of labelled images.

    Args:
        labels: Labelled bank images a draw; None uses the whole bank, once.
        subsets: Draws.
        seed: Of the draws.
        target: What a token is regressed on: ``soft``, the part of each class among its pixels, or ``majority``, the
            commonest class alone.
        regularisation: Lambda, or ``loo`` (over tokens).
        prior_power: A class's predictions are divided by this power of its part of the labelled pixels. With 0 a
            regression that explains little answers with the commonest class everywhere; 0.5 asks which class is more
            likely than usual, as logit adjustment does.

    Raises:
        ConfigError: An argument outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("bank", "query")

    def __init__(
        self,
        *,
        labels: int | None = None,
        subsets: int = 3,
        seed: int = 0,
        target: str = "soft",
        regularisation: float | str = "loo",
        prior_power: float = 0.0,
    ):
        if target not in ("soft", "majority"):
            raise ConfigError(f"unknown target {target!r}", fix="use 'soft' or 'majority'")
        if regularisation != "loo" and (isinstance(regularisation, str) or not regularisation > 0):
            raise ConfigError(f"regularisation {regularisation!r}", fix="give a number above 0, or 'loo'")
        if not 0 <= prior_power <= 1:
            raise ConfigError(f"prior_power {prior_power}", fix="give a number in 0..1")
        if subsets < 1 or seed < 0 or (labels is not None and labels < 1):
            raise ConfigError(
                f"ridge_segmentation with labels={labels}, subsets={subsets}, seed={seed}",
                fix="labels and subsets are at least 1, seed at least 0",
            )
        self._labels, self._subsets, self._seed = labels, subsets, seed
        self._target, self._regularisation, self._prior_power = target, regularisation, prior_power
        draws = "all" if labels is None else f"{labels}x{subsets}:seed={seed}"
        penalty = regularisation if regularisation == "loo" else f"{regularisation:g}"
        fitted = f"{target}:labels={draws}:lambda={penalty}:prior={prior_power:g}"
        self.protocol = f"ridge_segmentation/1:tokens:{fitted}:masks=input_size"
        self.primary = "miou"
        self.spread = f"{subsets} label subsets" if labels is not None and subsets > 1 else ""

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Callable[[str, tuple[str, ...]], Source]) -> None:
        """Raises a DataError where the bank has fewer examples than a draw."""
        label_subsets(len(opened("bank", ("mask",))), labels=self._labels, subsets=self._subsets)

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The whole image and its mask at the model's size."""
        return Resize.of(info=info, spec=spec, read=("image", "mask"), asker="ridge_segmentation")

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Tokens [B rows columns D] and masks.

        Raises:
            ConfigError: The backbone gives no grid of tokens.
        """
        features = predictions["features"]
        if features.grid is None or len(features.grid) != 2:
            raise ConfigError("ridge_segmentation needs a grid of tokens", why=f"the backbone's is {features.grid}")
        tokens = features.tokens.reshape(features.tokens.shape[0], *features.grid, -1)
        return {"metrics": {}, "rows": {"tokens": tokens.astype(jnp.float32), "mask": batch["mask"]}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``miou`` and ``pixel_accuracy`` in 0..1, ``classes`` averaged, ``miou_sd``, ``miou/i`` and ``lambda/i``.

        ``classes`` is the smallest number over the draws: a class in neither labels nor predictions is left out.

        Raises:
            DataError: No examples, fewer than labels asked for, no labelled pixel, or labels outside the classes.
            DivergedError: Features that are not finite.
        """
        bank, query = rows["bank"], rows["query"]
        if not len(bank["mask"]) or not len(query["mask"]):
            raise DataError("ridge_segmentation needs bank and query images", fix="check the splits of the evaluation")
        classes = _classes(info, bank["mask"], query["mask"])
        if not (np.isfinite(bank["tokens"]).all() and np.isfinite(query["tokens"]).all()):
            raise DivergedError("the features are not finite", fix="look at the training loss")
        targets = patch_targets(bank["mask"], bank["tokens"].shape[1:3], classes, majority=self._target == "majority")
        draws = label_subsets(len(targets), labels=self._labels, subsets=self._subsets, seed=self._seed)
        scores, details = [], dict[str, float]()
        for index, draw in enumerate(draws):
            tokens = bank["tokens"][draw].reshape(-1, bank["tokens"].shape[-1])
            wanted = targets[draw].reshape(-1, classes)
            labelled = wanted.sum(axis=-1) > 0
            if not labelled.any():
                raise DataError(f"all pixels of the bank images of {info.name} are ignored", fix="check the masks")
            ridge = fit_ridge(tokens[labelled], wanted[labelled], penalty=self._regularisation)
            # A class without a labelled pixel is predicted as 0 everywhere; its weight does not matter.
            weights = np.maximum(wanted[labelled].mean(axis=0), 1e-12) ** -self._prior_power
            scores.append(segmentation_scores(_confusion(ridge, query["tokens"], query["mask"], weights)))
            details |= {f"miou/{index}": scores[-1]["miou"], f"lambda/{index}": ridge.penalty}
        result = {name: float(np.mean([s[name] for s in scores])) for name in ("miou", "pixel_accuracy")}
        result["classes"] = min(s["classes"] for s in scores)
        return result | ({"miou_sd": spread([s["miou"] for s in scores])} if self.spread else {}) | details


def patch_targets(
    masks: UInt8[np.ndarray, "B H W"], grid: tuple[int, int], classes: int, *, majority: bool = False
) -> Float[np.ndarray, "B h w C"]:
    """The part of each class among the labelled pixels of each patch; zeros where all are ignored.

    Args:
        masks: Labels in 0..C-1, or 255.
        grid: Patches in height and width; they divide the masks.
        classes: C.
        majority: 1 for the commonest class (of equals the first) instead.

    Raises:
        ConfigError: The grid does not divide the masks.
    """
    count, height, width = masks.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ConfigError(f"a grid of {rows} x {columns} tokens does not divide masks of {height} x {width} pixels")
    patch = np.arange(count * rows * columns).reshape(count, rows, columns)
    patch = patch.repeat(height // rows, axis=1).repeat(width // columns, axis=2)
    valid = masks != IGNORE
    index = patch[valid] * classes + masks[valid]
    counts = np.bincount(index, minlength=count * rows * columns * classes).reshape(count, rows, columns, classes)
    total = counts.sum(axis=-1, keepdims=True)
    if majority:
        return np.eye(classes)[counts.argmax(axis=-1)] * (total > 0)
    return counts / np.maximum(total, 1)


def _confusion(ridge: Ridge, tokens: np.ndarray, masks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    classes = len(weights)
    down, across = (bilinear_matrix(tokens.shape[axis], masks.shape[axis]) for axis in (1, 2))
    total = np.zeros((classes, classes), np.int64)
    for image, mask in zip(tokens, masks, strict=True):
        scores = across @ np.tensordot(down, ridge(image) * weights, axes=1)
        total += confusion_matrix(mask, scores.argmax(axis=-1), classes)
    return total


def _classes(info: DatasetInfo, *masks: np.ndarray) -> int:
    largest = max((int(m[m != IGNORE].astype(int).max(initial=-1)) for m in masks), default=-1)
    if info.mask_classes and largest >= len(info.mask_classes):
        raise DataError(
            f"a mask of {info.name} has label {largest}",
            why=f"it has {len(info.mask_classes)} classes, and {IGNORE} for ignored pixels",
            fix="map the labels where the data set is read",
        )
    return len(info.mask_classes) or largest + 1
