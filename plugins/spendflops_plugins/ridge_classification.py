"""Ridge regression on frozen features: a linear probe in closed form, with many or few labels.

Targets are +1 for the class and -1 for the others, the largest prediction is the answer (regularised least squares, as
big_vision's few-shot probe). Features are standardised with the labelled examples.

Deviation: labels are drawn over all classes together, not a number a class, and the penalty is chosen by leaving one
out; ``regularisation=1024`` and ``intercept="constant_100"`` are big_vision's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.metrics import spread
from spendflops.parts.preprocess import Resize, resize_id
from spendflops.parts.ridge import fit_ridge
from spendflops.parts.splits import label_subsets


class RidgeClassification(Evaluator):
    """``accuracy`` of a ridge classifier, as mean over several draws of labelled examples.

    Args:
        labels: Labelled bank examples a draw; below 1, that part of the bank; None uses the whole bank, once.
        subsets: Draws.
        seed: Of the draws.
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        regularisation: Lambda, or ``loo``.
        intercept: ``free`` or ``constant_100``.
        resize: A word in :data:`spendflops.parts.preprocess.RESIZES`.
        crop_fraction: Part of the resized image's side that a crop keeps.

    Raises:
        ConfigError: An argument outside its range.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("bank", "query")

    def __init__(
        self,
        *,
        labels: int | float | None = None,
        subsets: int = 3,
        seed: int = 0,
        feature: str = "mean_tokens",
        regularisation: float | str = "loo",
        intercept: str = "free",
        resize: str = "squash",
        crop_fraction: float = 0.875,
    ):
        if intercept not in ("free", "constant_100"):
            raise ConfigError(f"unknown intercept {intercept!r}", fix="use 'free' or 'constant_100'")
        if regularisation != "loo" and (isinstance(regularisation, str) or not regularisation > 0):
            raise ConfigError(f"regularisation {regularisation!r}", fix="give a number above 0, or 'loo'")
        drawable = labels is None or (0 < labels < 1 if isinstance(labels, float) else labels >= 2)
        if subsets < 1 or seed < 0 or not drawable:
            raise ConfigError(
                f"ridge_classification with labels={labels}, subsets={subsets}, seed={seed}",
                fix="labels is a whole number from 2 or a part below 1, subsets at least 1, seed at least 0",
            )
        self._labels, self._subsets, self._seed = labels, subsets, seed
        self._feature, self._regularisation, self._intercept = check_feature(feature), regularisation, intercept
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        draws = "all" if labels is None else f"{labels}x{subsets}:seed={seed}"
        penalty = regularisation if regularisation == "loo" else f"{regularisation:g}"
        self.protocol = (
            f"ridge_classification/1:{feature}:labels={draws}:lambda={penalty}:intercept={intercept}:"
            f"{resize_id(resize, crop_fraction)}"
        )
        self.primary = "accuracy"
        self.spread = f"{subsets} label subsets" if labels is not None and subsets > 1 else ""

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Callable[[str, tuple[str, ...]], Source]) -> None:
        """Raises a DataError where the bank has fewer examples than a draw."""
        count = len(opened("bank", ("label",)))
        label_subsets(count, labels=self._drawn(count), subsets=self._subsets)

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size, and its label."""
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="ridge_classification", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features and labels."""
        feature = feature_of(predictions["features"], self._feature)
        return {"metrics": {}, "rows": {"feature": feature, "label": batch["label"]}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` in 0..1, ``accuracy_sd``, and for each draw ``accuracy/i`` and ``lambda/i``.

        Raises:
            DataError: Fewer bank examples than labels asked for, no queries, or labels below 0.
            DivergedError: Features that are not finite.
        """
        bank, query = rows["bank"], rows["query"]
        labels = np.concatenate([bank["label"], query["label"]])
        if not len(bank["label"]) or not len(query["label"]) or labels.min() < 0:
            raise DataError(
                f"ridge_classification has {len(bank['label'])} bank and {len(query['label'])} query examples",
                why="there must be some of both, all of them labelled",
                fix="check the data sets and splits of the evaluation",
            )
        if not (np.isfinite(bank["feature"]).all() and np.isfinite(query["feature"]).all()):
            raise DivergedError("the features are not finite", fix="look at the training loss")
        targets = 2.0 * np.eye(max(len(info.classes), labels.max() + 1))[bank["label"]] - 1
        scores, details = [], dict[str, float]()
        drawn = self._drawn(len(targets))
        draws = label_subsets(len(targets), labels=drawn, subsets=self._subsets, seed=self._seed)
        for index, draw in enumerate(draws):
            ridge = fit_ridge(
                bank["feature"][draw], targets[draw], penalty=self._regularisation, intercept=self._intercept
            )
            scores.append(float(np.mean(ridge(query["feature"]).argmax(axis=1) == query["label"])))
            details |= {f"accuracy/{index}": scores[-1], f"lambda/{index}": ridge.penalty}
        result = {"accuracy": float(np.mean(scores))}
        return result | ({"accuracy_sd": spread(scores)} if self.spread else {}) | details

    def _drawn(self, count: int) -> int | None:
        """Labelled examples a draw from a bank of ``count``."""
        return max(2, round(self._labels * count)) if isinstance(self._labels, float) else self._labels
