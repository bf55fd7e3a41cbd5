"""Weighted nearest neighbours on frozen features (Wu et al., arXiv:1805.01978; as in DINO, arXiv:2104.14294).

The k bank examples of largest cosine similarity s vote for their class with weight exp(s / T).

Deviation: images are resized as a whole; DINO resizes the shorter side to 256 and crops 224.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spendflops.contracts.errors import ConfigError, DataError, DivergedError
from spendflops.contracts.evaluator import Evaluator
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec
from spendflops.parts.metrics import PARTS, binomial_spread
from spendflops.parts.preprocess import Resize

_QUERIES, _BANK = 256, 16_384


class KNN(Evaluator):
    """``accuracy`` of a weighted vote of the nearest neighbours.

    Args:
        k: Neighbours.
        temperature: T of the weight exp(similarity / T).

    Raises:
        ConfigError: An argument that is not above 0.
    """

    requires: ClassVar[tuple[str, ...]] = ("features",)
    roles: ClassVar[tuple[str, ...]] = ("bank", "query")

    def __init__(self, *, k: int = 20, temperature: float = 0.07):
        if k < 1 or not temperature > 0:
            raise ConfigError(f"knn with k={k}, temperature={temperature}", fix="both must be above 0")
        self._k, self._temperature = k, temperature
        self.protocol = f"knn/1:summary:k={k}:T={temperature:g}:resize=squash"
        self.primary = "accuracy"
        self.spread = f"{PARTS} equal parts of the test images, binomial"

    def preprocess(self, *, role: str, info: DatasetInfo, spec: InputSpec) -> Resize:
        """The whole image at the model's size, and its label."""
        return Resize.of(info=info, spec=spec, read=("image", "label"), asker="knn")

    def step(self, predictions: Mapping[str, Any], batch: Batch, ctx: Context) -> Mapping[str, Any]:
        """Features and labels; they are normalised on the host."""
        summary = predictions["features"].summary
        return {"metrics": {}, "rows": {"feature": summary.astype(jnp.float32), "label": batch["label"]}}

    def result(
        self, merged: Mapping[str, Any], rows: Mapping[str, Mapping[str, np.ndarray]], *, info: DatasetInfo
    ) -> dict[str, float]:
        """``accuracy`` in 0..1 and its binomial ``accuracy_sd`` over ``accuracy_n`` parts of the queries.

        Raises:
            DataError: Fewer bank examples than neighbours, no queries, or labels below 0.
            DivergedError: Features that are not finite.
        """
        bank, query = rows["bank"], rows["query"]
        if len(bank["label"]) < self._k or not len(query["label"]):
            raise DataError(
                f"knn with k={self._k} has {len(bank['label'])} bank and {len(query['label'])} query examples",
                fix="give a larger bank split, or a smaller k",
            )
        if min(bank["label"].min(), query["label"].min()) < 0:
            raise DataError(f"examples of {info.name} have no label", fix="choose splits in which all are labelled")
        for role, data in (("bank", bank), ("query", query)):
            if not np.isfinite(data["feature"]).all():
                raise DivergedError(f"features of the {role} images are not finite", fix="look at the training loss")
        classes = max(len(info.classes), int(bank["label"].max()) + 1)
        features = normalised(bank["feature"])
        predicted = [
            vote(*neighbours(part, features, self._k), bank["label"], self._temperature, classes)
            for part in _chunks(normalised(query["feature"]), _QUERIES)
        ]
        accuracy = float(np.mean(np.concatenate(predicted) == query["label"]))
        deviation = binomial_spread(accuracy, len(query["label"]))
        return {"accuracy": accuracy, "accuracy_sd": deviation, "accuracy_n": PARTS}


def normalised(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of unit length, float32; a row of zeros stays."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def neighbours(
    query: Float[np.ndarray, "Q D"], bank: Float[np.ndarray, "N D"], k: int
) -> tuple[Float[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """The ``k`` largest inner products of each query and where in the bank they are.

    The bank is read in chunks with a running selection, so that memory does not grow with it.
    """
    best = np.empty((len(query), 0), np.float32)
    where = np.empty((len(query), 0), np.int64)
    start = 0
    for part in _chunks(bank, _BANK):
        best = np.concatenate([best, query @ part.T], axis=1)
        where = np.concatenate([where, np.broadcast_to(start + np.arange(len(part)), (len(query), len(part)))], axis=1)
        start += len(part)
        if best.shape[1] > k:
            top = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, where = np.take_along_axis(best, top, axis=1), np.take_along_axis(where, top, axis=1)
    return best, where


def vote(
    similarity: Float[np.ndarray, "Q k"],
    where: Int[np.ndarray, "Q k"],
    labels: Int[np.ndarray, " N"],
    temperature: float,
    classes: int,
) -> Int[np.ndarray, " Q"]:
    """The class with the largest sum of exp(similarity / T); of equal sums the first."""
    return np.argmax(class_scores(similarity, labels[where], temperature, classes), axis=1)


def class_scores(
    similarity: Float[np.ndarray, "Q k"], labels: Int[np.ndarray, "Q k"], temperature: float, classes: int
) -> Float[np.ndarray, "Q C"]:
    """Sums of exp(similarity / T) by class."""
    scores = np.zeros((len(similarity), classes))
    np.add.at(
        scores, (np.arange(len(similarity))[:, None], labels), np.exp(similarity.astype(np.float64) / temperature)
    )
    return scores


def _chunks(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]
