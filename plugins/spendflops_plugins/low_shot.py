"""A linear probe on K labelled images of each class, in closed form, over several draws of them.

Two protocols are options of it. big_vision's few-shot probe (``fewshot_lsr``): K of 1, 5, 10 or 25, three draws, ridge
regression on targets +-1 with lambda 2^10, features standardised by the labelled images (plus 1e-5), a constant feature
of 100, ``resize="square_crop"``. MAWS (Singh et al. 2023, arXiv 2303.13496): K of 1, 5 or 10, five draws, mean top-1;
in iNaturalist 2018, classes with fewer than K images give what they have (``allow_fewer``).

Deviation: draws are from permutations that no library changes, not from numpy's; and MAWS trains prompts (VPT) on its
labelled images, where this is its linear probe in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from spendflops.contracts.dataset import Dataset, Source
from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.features import check_feature, feature_of
from spendflops.parts.metrics import spread
from spendflops.parts.preprocess import Resize, resize_id
from spendflops.parts.ridge import Ridge, fit_ridge
from spendflops.parts.splits import permutation

_QUERIES = 4096


class LowShot(Evaluator):
    """``accuracy`` of a ridge classifier on K images a class, as mean over draws, and its spread over them.

    The draws are among the images of the bank, all of which the model sees: a part of a large split is enough.

    Args:
        shots: K.
        splits: Draws. Draw i of a smaller K is part of draw i of a larger one.
        seed: Of the draws.
        allow_fewer: Classes with fewer than K images in the bank give those that they have; else they are an error. A
            large lambda then favours the classes with more.
        feature: A name in :data:`spendflops.parts.features.FEATURES`.
        regularisation: Lambda, or ``loo``: chosen for each draw by leaving one out.
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
        shots: int = 5,
        splits: int = 5,
        seed: int = 0,
        allow_fewer: bool = False,
        feature: str = "summary",
        regularisation: float | str = 1024.0,
        intercept: str = "constant_100",
        resize: str = "squash",
        crop_fraction: float = 0.875,
    ):
        if intercept not in ("free", "constant_100"):
            raise ConfigError(f"unknown intercept {intercept!r}", fix="use 'free' or 'constant_100'")
        if regularisation != "loo" and (isinstance(regularisation, str) or not regularisation > 0):
            raise ConfigError(f"regularisation {regularisation!r}", fix="give a number above 0, or 'loo'")
        if shots < 1 or splits < 1 or seed < 0:
            raise ConfigError(
                f"low_shot with shots={shots}, splits={splits}, seed={seed}",
                fix="shots and splits are at least 1, seed at least 0",
            )
        self._shots, self._splits, self._seed, self._allow_fewer = shots, splits, seed, allow_fewer
        self._feature, self._regularisation, self._intercept = check_feature(feature), regularisation, intercept
        self._resize: dict[str, Any] = {"resize": resize, "crop_fraction": crop_fraction}
        penalty = regularisation if regularisation == "loo" else f"{regularisation:g}"
        self.protocol = (
            f"low_shot/1:{feature}:shots={shots}{'_or_fewer' if allow_fewer else ''}x{splits}:seed={seed}"
            f":lambda={penalty}:intercept={intercept}:{resize_id(resize, crop_fraction)}"
        )
        self.primary = "accuracy"
        self.spread = f"{splits} draws of the labelled images" if splits > 1 else ""

    def check(self, data: Mapping[str, tuple[Dataset, str]], opened: Callable[[str, tuple[str, ...]], Source]) -> None:
        """Raises a DataError where a class of the bank has fewer than K images, unless that is allowed."""
        bank, info = opened("bank", ("label",)), data["bank"][0].info
        labels = np.asarray([bank[index]["label"] for index in range(len(bank))], np.int64)
        self._check_counts(np.bincount(labels[labels >= 0], minlength=len(info.classes)), info)

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The image at the model's size, and its label."""
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="low_shot", **self._resize)

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features and labels."""
        feature = feature_of(predictions["features"], self._feature)
        return {"metrics": {}, "rows": {"feature": feature, "label": batch["label"]}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` in 0..1, ``accuracy_sd``, ``labelled`` images a draw, and ``accuracy/i`` of each draw.

        Raises:
            DataError: Classes with fewer than K images, no queries, or labels that are no classes.
            DivergedError: Features that are not finite.
        """
        bank, query = rows["bank"], rows["query"]
        classes = self._classes(bank["label"], query["label"], info)
        self._check_counts(np.bincount(bank["label"], minlength=classes), info)
        if not (np.isfinite(bank["feature"]).all() and np.isfinite(query["feature"]).all()):
            raise DivergedError("the features are not finite", fix="look at the training loss")
        scores = []
        for index in range(self._splits):
            draw = draw_of_each_class(bank["label"], self._shots, seed=self._seed, index=index)
            targets = np.full((len(draw), classes), -1.0)
            targets[np.arange(len(draw)), bank["label"][draw]] = 1
            ridge = fit_ridge(bank["feature"][draw], targets, penalty=self._regularisation, intercept=self._intercept)
            scores.append(_accuracy(ridge, query["feature"], query["label"]))
        result = {"accuracy": float(np.mean(scores)), "labelled": len(draw)}
        result |= {"accuracy_sd": spread(scores)} if self.spread else {}
        return result | {f"accuracy/{index}": score for index, score in enumerate(scores)}

    def _classes(self, bank: np.ndarray, query: np.ndarray, info: DatasetInfo) -> int:
        labels = np.concatenate([bank, query])
        classes = len(info.classes) or int(labels.max(initial=-1)) + 1
        if not len(bank) or not len(query) or labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"low_shot has {len(bank)} bank and {len(query)} query examples",
                why=f"there must be some of both, all of them with a label of the {classes} classes",
                fix="check the data sets and splits of the evaluation",
            )
        return classes

    def _check_counts(self, counts: Int[np.ndarray, " C"], info: DatasetInfo) -> None:
        few = np.nonzero(counts < self._shots)[0]
        if self._allow_fewer or not len(few):
            return
        shown = ", ".join(f"{info.classes[i] if info.classes else i} ({counts[i]})" for i in few[:5])
        raise DataError(
            f"{len(few)} of {len(counts)} classes have fewer than {self._shots} labelled images",
            why=f"{shown}{', ...' if len(few) > 5 else ''} in the bank",
            fix="a larger bank, fewer shots, or allow_fewer=True: then they give what they have",
        )


def draw_of_each_class(labels: Int[np.ndarray, " N"], shots: int, *, seed: int, index: int) -> Int[np.ndarray, " M"]:
    """Where draw ``index`` of at most ``shots`` examples of each class is, in ascending order.

    They are the first ones of their class in a permutation of all examples, which depends on their number, the seed
    and the index alone.
    """
    order = permutation(len(labels), (seed + 1 << 64) + index)
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])
    return np.sort(order[np.arange(len(order)) - starts < shots])


def _accuracy(ridge: Ridge, features: np.ndarray, labels: np.ndarray) -> float:
    """The part of the rows whose largest predicted target is at the label; a block at a time, for many classes."""
    starts = range(0, len(labels), _QUERIES)
    predicted = [ridge(features[start : start + _QUERIES]).argmax(axis=1) for start in starts]
    return float(np.mean(np.concatenate(predicted) == labels))
